//! How a step moves the parameters.

mod average;
mod schedule;
mod sgd;

pub(crate) use average::Average;
pub use schedule::Schedule;
pub use sgd::{Sgd, SgdConfig};
