//! How a classified image and the report of a written file look in a notebook.

use super::show::show;
use crate::formats::Saved;
use crate::inspect::Classification;
use crate::plot;

impl Classification {
    /// Shows the image beside bars for its most probable classes, after a line of text.
    pub fn evcxr_display(&self) {
        println!("{self}");
        plot::classification(&self.image, &self.top).evcxr_display();
    }
}

impl Saved {
    /// Shows in a notebook what was written where, as text.
    pub fn evcxr_display(&self) {
        show("text/plain", self);
    }
}
