//! A figure: a list of elements in logical pixels, from which PNG and SVG files are made.

use std::{fmt, path::Path};

use image::{RgbImage, imageops};

use super::{
    colors::{Color, TEXT},
    font::Style,
};
use crate::{Error, Result, files, table::Align};

/// Pixels of the PNG per logical pixel.
pub(super) const RESOLUTION: u32 = 2;

/// Converts logical pixels to pixels of the PNG.
pub(super) fn pixels(logical: f64) -> u32 {
    (logical * f64::from(RESOLUTION)).round() as u32
}

/// A figure that a notebook shows and that can be saved as PNG or SVG.
#[derive(Clone)]
pub struct Figure {
    width: f64,
    height: f64,
    elements: Vec<Element>,
}

/// What a figure consists of. All measures are logical pixels.
#[derive(Clone, Debug)]
pub(super) enum Element {
    Line { points: Vec<(f64, f64)>, width: f64, color: Color },
    Box { at: (f64, f64), size: (f64, f64), color: Color },
    Dot { center: (f64, f64), radius: f64, color: Color },
    Polygon { corners: Vec<(f64, f64)>, color: Color },
    Text(Text),
    Image { at: (f64, f64), size: (f64, f64), image: RgbImage, pixelated: bool },
}

/// One line of text.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) text: String,
    /// On the baseline.
    pub(super) at: (f64, f64),
    pub(super) align: Align,
    pub(super) style: Style,
    pub(super) color: Color,
    /// Whether it reads from the bottom up, as beside a y axis.
    pub(super) upwards: bool,
}

/// evcxr prints this instead of the picture where the line that makes the figure also moves a variable.
impl fmt::Debug for Figure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (width, height) = self.size();
        write!(
            f,
            "Figure of {width}×{height} pixels: {}\n(A notebook prints this text if the last line of a cell moves a \
             variable. To see the picture, pass `&x` or `x.clone()` instead of `x`.)",
            self.alt()
        )
    }
}

impl Figure {
    /// An empty white figure, its size in logical pixels.
    pub(super) fn new(width: f64, height: f64) -> Figure {
        Figure { width: width.ceil(), height: height.ceil(), elements: Vec::new() }
    }

    /// A small figure with a text that says why there is nothing to plot.
    pub(super) fn message(text: &str) -> Figure {
        let mut figure = Figure::new(360.0, 80.0);
        figure.text(text, (180.0, 45.0), Align::Center, Style::plain(13.0), TEXT);
        figure
    }

    pub(super) fn line(&mut self, points: Vec<(f64, f64)>, width: f64, color: Color) {
        self.elements.push(Element::Line { points, width, color });
    }

    /// A filled box; `at` is its upper left corner.
    pub(super) fn filled_box(&mut self, at: (f64, f64), size: (f64, f64), color: Color) {
        self.elements.push(Element::Box { at, size, color });
    }

    pub(super) fn dot(&mut self, center: (f64, f64), radius: f64, color: Color) {
        self.elements.push(Element::Dot { center, radius, color });
    }

    /// A filled polygon.
    pub(super) fn polygon(&mut self, corners: Vec<(f64, f64)>, color: Color) {
        self.elements.push(Element::Polygon { corners, color });
    }

    pub(super) fn text(&mut self, text: &str, at: (f64, f64), align: Align, style: Style, color: Color) {
        self.push_text(Text { text: text.to_string(), at, align, style, color, upwards: false });
    }

    pub(super) fn push_text(&mut self, mut text: Text) {
        // Control characters have no glyph and are not allowed in SVG.
        text.text = text.text.replace(|c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'), " ");
        if !text.text.trim().is_empty() {
            self.elements.push(Element::Text(text));
        }
    }

    /// An image, scaled to `size`. `pixelated` shows its pixels as sharp squares; otherwise it is smoothed.
    pub(super) fn image(&mut self, image: &RgbImage, at: (f64, f64), size: (f64, f64), pixelated: bool) {
        if image.is_empty() {
            return;
        }
        let (width, height) = (pixels(size.0).max(1), pixels(size.1).max(1));
        let shrinks = image.width() > width || image.height() > height;
        // Keep no more pixels than are shown.
        let image = if shrinks {
            imageops::resize(image, width, height, imageops::FilterType::CatmullRom)
        } else {
            image.clone()
        };
        self.elements.push(Element::Image { at, size, image, pixelated: pixelated && !shrinks });
    }

    /// Places another figure on this one, its upper left corner at `at`.
    pub(super) fn place(&mut self, other: Figure, at: (f64, f64)) {
        let moved = |p: (f64, f64)| (p.0 + at.0, p.1 + at.1);
        self.elements.extend(other.elements.into_iter().map(|mut element| {
            match &mut element {
                Element::Line { points, .. } | Element::Polygon { corners: points, .. } => {
                    points.iter_mut().for_each(|p| *p = moved(*p));
                }
                Element::Box { at, .. } | Element::Dot { center: at, .. } | Element::Image { at, .. } => {
                    *at = moved(*at)
                }
                Element::Text(text) => text.at = moved(text.at),
            }
            element
        }));
    }

    pub(super) fn elements(&self) -> &[Element] {
        &self.elements
    }

    /// What the figure shows, for readers who cannot see it: its words, without the numbers along its axes.
    pub fn alt(&self) -> String {
        const LONGEST: usize = 240;
        let mut words: Vec<&str> = vec![];
        for element in &self.elements {
            if let Element::Text(text) = element
                && text.text.chars().any(char::is_alphabetic)
                && !words.contains(&text.text.trim())
            {
                words.push(text.text.trim());
            }
        }
        let all = if words.is_empty() { "images".to_string() } else { words.join(", ") };
        match all.char_indices().nth(LONGEST) {
            Some((end, _)) => format!("{}…", &all[..end]),
            None => all,
        }
    }

    /// Width and height in logical pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    /// Writes the figure as `.png` or `.svg`, or as both if `path` has no extension. Returns the figure, so that a cell
    /// that ends here also shows it. If a text has characters that no font on this machine has, a line on stdout says so.
    ///
    /// # Errors
    /// [`Error::File`] for another extension or an empty file name, [`Error::Io`] if the file cannot be written.
    pub fn save(self, path: impl AsRef<Path>) -> Result<Figure> {
        let path = path.as_ref();
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            _ if path.file_name().is_none() => {
                return Err(Error::file(path, "this is not a file name; give one such as plots/accuracy.png"));
            }
            Some("png") => files::write(path, &self.png()?)?,
            Some("svg") => files::write(path, self.svg()?.as_bytes())?,
            None => {
                files::write(&path.with_extension("png"), &self.png()?)?;
                files::write(&path.with_extension("svg"), self.svg()?.as_bytes())?;
            }
            Some(other) => {
                let message =
                    format!("a figure is saved as .png or .svg, not .{other}; leave the extension out to get both");
                return Err(Error::file(path, message));
            }
        }
        if extension.as_deref() != Some("svg") {
            self.text_notes().iter().for_each(|note| println!("{note}"));
        }
        Ok(self)
    }
}
