//! Progress of long jobs. The loaders print nothing. They report events to an observer, and the caller decides what to
//! show; [`notebook`](crate::notebook) shows progress bars.

/// What a long job reports, in the order in which it happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event<'a> {
    /// A job of `total` parts begins.
    Begin {
        /// What the parts are, in the plural: "photos".
        what: &'a str,
        /// The number of parts.
        total: usize,
    },
    /// This many more parts are done.
    Advance(usize),
    /// The job is done, or was not needed: what the reader should know about its result.
    Note(&'a str),
}

/// Receives the events of a job, on the thread that called it.
pub type Observer<'a> = &'a mut dyn FnMut(Event);

/// An observer that ignores everything.
///
/// ```no_run
/// use vgg_lib::data::{Resize, image_folder, unobserved};
/// let photos = image_folder::load("photos", (224, 224), Resize::Stretch, &mut unobserved)?;
/// # Ok::<(), vgg_lib::Error>(())
/// ```
pub fn unobserved(_: Event) {}
