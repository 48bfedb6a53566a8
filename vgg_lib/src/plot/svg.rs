//! A figure as SVG. plotters draws the strokes; texts and images are added here, because plotters' SVG has no images.

use std::fmt::Write as _;

use base64::{Engine, prelude::BASE64_STANDARD};
use plotters::{backend::SVGBackend, drawing::IntoDrawingArea};

use super::{
    Figure,
    figure::{Element, Text},
    png::encode_png,
    strokes::LATTICE,
};
use crate::{Result, table::Align, text::escape};

/// The SVG asks for these fonts, in this order.
const FONT_FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

impl Figure {
    /// The figure as an SVG file.
    ///
    /// # Errors
    /// [`Error::Internal`](crate::Error::Internal) if drawing fails.
    pub fn svg(&self) -> Result<String> {
        let (width, height) = self.size();
        let fine = (width * LATTICE, height * LATTICE);
        let mut svg = String::new();
        self.draw_strokes(&SVGBackend::with_string(&mut svg, fine).into_drawing_area(), false)?;
        // The view box keeps the lattice; the width and height become logical pixels.
        let mut svg = svg.trim_end().trim_end_matches("</svg>").replacen(
            &format!("width=\"{}\" height=\"{}\" viewBox", fine.0, fine.1),
            &format!("width=\"{width}\" height=\"{height}\" viewBox"),
            1,
        );
        let _ = writeln!(svg, "<g transform=\"scale({LATTICE})\" font-family=\"{FONT_FAMILY}\">");
        for element in self.elements() {
            match element {
                Element::Text(text) => svg += &svg_text(text),
                Element::Image { at: (x, y), size: (w, h), image, pixelated } => {
                    let rendering = if *pixelated { " style=\"image-rendering:pixelated\"" } else { "" };
                    let data = BASE64_STANDARD.encode(encode_png(image)?);
                    let _ = writeln!(
                        svg,
                        "<image x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" preserveAspectRatio=\"none\"\
                         {rendering} href=\"data:image/png;base64,{data}\"/>"
                    );
                }
                _ => {}
            }
        }
        Ok(svg + "</g>\n</svg>\n")
    }
}

fn svg_text(text: &Text) -> String {
    let (x, y) = text.at;
    let anchor = match text.align {
        Align::Left => "start",
        Align::Center => "middle",
        Align::Right => "end",
    };
    let weight = if text.style.bold { " font-weight=\"bold\"" } else { "" };
    let turn = if text.upwards { format!(" transform=\"rotate(-90 {x} {y})\"") } else { String::new() };
    let (size, (r, g, b)) = (text.style.size, text.color);
    let text = escape(&text.text);
    format!(
        "<text x=\"{x:.2}\" y=\"{y:.2}\" text-anchor=\"{anchor}\" font-size=\"{size}\"{weight} \
         fill=\"#{r:02x}{g:02x}{b:02x}\"{turn}>{text}</text>\n"
    )
}
