//! How a value looks in a notebook when it is the last expression of a cell.
//!
//! evcxr calls `evcxr_display` of such a value, if it finds that method, and reads what it prints: a line with the MIME
//! type, the content, and a line that ends it. A notebook shows the richest content that it can, so most values print
//! HTML or a picture, and plain text. For a value without that method evcxr compiles the cell again, to print `{:?}`.

use std::fmt::{Debug, Display};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::plot::Figure;

/// A value that shows itself when it is the last expression of a cell. It stays usable in later cells.
pub trait Show {
    /// What a notebook shows of the value.
    #[doc(hidden)]
    fn shown(&self) -> Shown;

    /// Shows the value in a notebook; evcxr calls it.
    #[doc(hidden)]
    fn evcxr_display(&self) {
        self.shown().print();
    }
}

/// What a notebook shows of a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Printed above it.
    pub notes: Vec<String>,
    /// Pairs of a MIME type and a content. A notebook shows the richest.
    pub contents: Vec<(&'static str, String)>,
    /// Printed to stderr, where a notebook marks it as an error.
    pub error: Option<String>,
}

impl Shown {
    /// Plain text.
    pub fn text(text: &impl Display) -> Shown {
        Shown { contents: vec![("text/plain", text.to_string())], ..Shown::default() }
    }

    /// The text of `{:?}`.
    pub fn debug(value: &impl Debug) -> Shown {
        Shown::text(&format!("{value:?}"))
    }

    /// HTML, and text for whatever cannot show HTML.
    pub fn html(html: String, text: &impl Display) -> Shown {
        Shown { contents: vec![("text/html", html), ("text/plain", text.to_string())], ..Shown::default() }
    }

    /// A PNG file, and text for whatever cannot show pictures.
    pub fn png(png: &[u8], text: &impl Display) -> Shown {
        let contents = vec![("image/png", BASE64_STANDARD.encode(png)), ("text/plain", text.to_string())];
        Shown { contents, ..Shown::default() }
    }

    /// A figure, after what there is to say about its texts.
    pub fn figure(figure: &Figure) -> Shown {
        match figure.png() {
            Ok(png) => Shown { notes: figure.text_notes(), ..Shown::png(&png, &figure.alt()) },
            Err(error) => Shown::error(&error),
        }
    }

    /// An error, as `?` would report it.
    pub fn error(error: &impl Display) -> Shown {
        Shown { error: Some(error.to_string()), ..Shown::default() }
    }

    fn print(&self) {
        self.notes.iter().for_each(|note| println!("{note}"));
        for (mime, content) in &self.contents {
            println!("EVCXR_BEGIN_CONTENT {mime}\n{content}\nEVCXR_END_CONTENT");
        }
        self.error.iter().for_each(|error| eprintln!("{error}"));
    }
}

impl Show for Figure {
    fn shown(&self) -> Shown {
        Shown::figure(self)
    }
}

/// Whoever forgets `?` at the end of a cell sees the same as with it.
impl<T: Show> Show for crate::Result<T> {
    fn shown(&self) -> Shown {
        match self {
            Ok(value) => value.shown(),
            Err(error) => Shown::error(error),
        }
    }
}

impl<T: Show> Show for Option<T> {
    fn shown(&self) -> Shown {
        self.as_ref().map_or_else(|| Shown::text(&"None"), Show::shown)
    }
}

/// Nothing to show.
impl Show for () {
    fn shown(&self) -> Shown {
        Shown::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn a_result_shows_its_value_or_its_error() {
        let result = |ok: bool| if ok { Ok(()) } else { Err(Error::Name("there is no layer 'x'".to_string())) };
        assert_eq!(result(true).shown(), Shown::default());
        let error = result(false).shown();
        assert_eq!((error.contents.len(), error.error.as_deref()), (0, Some("there is no layer 'x'")));
    }

    #[test]
    fn a_figure_is_a_picture() {
        let shown = crate::plot::accuracy(&Default::default()).shown();
        assert_eq!((shown.contents[0].0, shown.error), ("image/png", None));
        let png = BASE64_STANDARD.decode(&shown.contents[0].1).unwrap();
        assert!(image::load_from_memory(&png).is_ok());
    }
}
