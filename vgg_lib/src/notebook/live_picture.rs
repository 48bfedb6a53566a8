//! A picture that one cell shows and a later cell keeps changing.
//!
//! evcxr shows the result of a cell only when the cell ends. So an *earlier* cell shows the picture as a file, with a
//! script that reads the file again once a second, for a quarter of an hour after its last change.

use std::path::{Path, PathBuf};

use image::RgbImage;

use super::monitor::{HINT, address};
use super::show::{Show, Shown};
use super::show_images::{at_a_good_size, png};
use crate::{Error, Result, files};

/// In the notebook: a function of its own `<script>` element.
const SCRIPT: &str = include_str!("live_picture.js");

/// A picture in a file that is shown live: create it in one cell, with its name as the last line, and change it in the
/// next with [`update`](LivePicture::update).
///
/// ```no_run
/// use vgg_lib::prelude::*;
/// let live = LivePicture::new("plots/live", &read_image("chelsea.png")?)?;
/// // In the next cell:
/// for step in 0..100 {
///     let picture = RgbImage::new(64, 64); // what there is after this step
///     live.update(&picture)?;
/// }
/// # Ok::<(), vgg_lib::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePicture {
    path: PathBuf,
}

impl LivePicture {
    /// A picture in the file `path`, to which `.png` is added if it does not end so; the folder is created if needed.
    /// Jupyter serves only files in or below the notebook's folder.
    ///
    /// # Errors
    /// [`Error::Shape`] if the picture has no pixels, [`Error::Io`] if the file cannot be written, [`Error::File`] if
    /// the path is no file name.
    pub fn new(path: impl AsRef<Path>, picture: &RgbImage) -> Result<LivePicture> {
        let path = path.as_ref();
        let Some(name) = path.file_name() else {
            return Err(Error::file(path, "is not a file name; give one such as plots/06_transfer"));
        };
        let mut name = name.to_owned();
        if path.extension().is_none_or(|extension| extension != "png") {
            name.push(".png");
        }
        let live = LivePicture { path: path.with_file_name(name) };
        live.update(picture)?;
        Ok(live)
    }

    /// Replaces the picture. Small pictures are enlarged with sharp pixels.
    ///
    /// # Errors
    /// As [`new`](LivePicture::new).
    pub fn update(&self, picture: &RgbImage) -> Result<()> {
        let png = png(&at_a_good_size(picture)).ok_or_else(|| Error::Shape("the picture has no pixels".to_string()))?;
        files::write(&self.path, &png)
    }
}

impl Show for LivePicture {
    fn shown(&self) -> Shown {
        let (png, text) = (address(&self.path), format!("A picture, live in a notebook: {}", self.path.display()));
        let html = format!(
            "<div>\n<img src=\"{png}\" alt=\"The picture at this moment\">\n<p class=\"vgg-monitor-hint\">{HINT}</p>\n\
             <script>\n{}(document.currentScript);\n</script>\n</div>",
            SCRIPT.trim()
        );
        Shown::html(html, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn the_file_has_the_newest_picture() {
        let folder = tempfile::tempdir().unwrap();
        let of = |value: u8| RgbImage::from_pixel(600, 400, Rgb([value, 0, 0]));
        let live = LivePicture::new(folder.path().join("plots/live"), &of(1)).unwrap();
        let file = folder.path().join("plots/live.png");
        let first = |file: &Path| image::open(file).unwrap().to_rgb8().get_pixel(0, 0)[0];
        assert_eq!(first(&file), 1);
        live.update(&of(2)).unwrap();
        assert_eq!(first(&file), 2);
        LivePicture::new(folder.path().join("run v0.5"), &of(3)).unwrap();
        assert_eq!(first(&folder.path().join("run v0.5.png")), 3);
        assert!(LivePicture::new("..", &of(3)).unwrap_err().to_string().contains("plots/06_transfer"));
        assert!(live.update(&RgbImage::new(0, 4)).unwrap_err().to_string().contains("no pixels"));
        assert_eq!(first(&file), 2);
    }

    #[test]
    fn the_notebook_holds_an_image_and_a_script_that_reads_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let live = LivePicture::new(folder.path().join("a b.png"), &RgbImage::new(2, 2)).unwrap();
        let html = &live.shown().contents[0].1;
        assert!(html.contains("/a%20b.png\"") && html.contains(HINT), "{html}");
        assert_eq!(html.matches("</script").count(), 1);
        assert!(!html.contains("EVCXR_") && !html.contains("http"), "{html}");
    }
}
