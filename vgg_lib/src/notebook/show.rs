//! How a value looks in a notebook when it is the last expression of a cell.
//!
//! evcxr calls `evcxr_display` of such a value, if its type has that method, and reads what it prints: a line with the
//! MIME type, the content, and a line that ends it. A notebook shows the richest content that it can, so most values
//! print HTML and plain text.

use std::fmt::Display;

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::engine::Plans;
#[cfg(any(feature = "onnx", feature = "coreml"))]
use crate::formats::Exported;
#[cfg(not(feature = "cuda"))]
use crate::inspect::Profile;
use crate::inspect::{MemoryEstimate, ReceptiveFields, Summary};
use crate::naming::LoadReport;
use crate::plot::Figure;
use crate::train::{History, Monitor};

pub(super) fn show(mime: &str, content: impl Display) {
    println!("EVCXR_BEGIN_CONTENT {mime}\n{content}\nEVCXR_END_CONTENT");
}

/// Shows HTML, and text for whatever cannot show HTML.
fn show_both(html: String, text: &impl Display) {
    show("text/html", html);
    show("text/plain", text);
}

impl Figure {
    /// Shows the figure in a notebook, as PNG, after what there is to say about its texts.
    pub fn evcxr_display(&self) {
        self.text_notes().iter().for_each(|note| println!("{note}"));
        match self.png() {
            Ok(png) => show("image/png", BASE64_STANDARD.encode(png)),
            Err(error) => println!("{error}"),
        }
    }
}

impl History {
    /// Shows the history in a notebook, as a table. If it is long, only the first, best and last epochs.
    pub fn evcxr_display(&self) {
        show_both(self.to_html(), self);
    }
}

impl Summary {
    /// Shows the summary in a notebook, as a table.
    pub fn evcxr_display(&self) {
        show_both(self.to_html(), self);
    }
}

impl MemoryEstimate {
    /// Shows the estimate in a notebook, as a table.
    pub fn evcxr_display(&self) {
        show_both(self.to_html(), self);
    }
}

impl ReceptiveFields {
    /// Shows the receptive fields in a notebook, as a table.
    pub fn evcxr_display(&self) {
        show_both(self.to_html(), self);
    }
}

impl Plans {
    /// Shows the plans in a notebook, as text.
    pub fn evcxr_display(&self) {
        show("text/plain", self);
    }
}

#[cfg(not(feature = "cuda"))]
impl Profile {
    /// Shows the profile in a notebook, as text.
    pub fn evcxr_display(&self) {
        show("text/plain", self);
    }
}

impl LoadReport {
    /// Shows the report in a notebook, as text.
    pub fn evcxr_display(&self) {
        show("text/plain", self);
    }
}

#[cfg(any(feature = "onnx", feature = "coreml"))]
impl Exported {
    /// Shows the exported layers and the file in a notebook, as text.
    pub fn evcxr_display(&self) {
        show("text/plain", self);
    }
}

impl Monitor {
    /// Shows the live view in a notebook.
    pub fn evcxr_display(&self) {
        show_both(self.to_html(), self);
    }
}
