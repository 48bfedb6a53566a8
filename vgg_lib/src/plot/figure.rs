//! A figure is a list of shapes in logical pixels. plotters draws them, as PNG at twice that resolution or as SVG.
//!
//! The font is DejaVu Sans from a crate, so that text looks the same on every machine. Pictures are put on top of
//! what plotters drew, because its SVG has none.

use std::{fmt::Write as _, io::Cursor, path::Path, sync::Once};

use base64::{Engine, prelude::BASE64_STANDARD};
use image::{
    ExtendedColorType, ImageEncoder, RgbImage,
    codecs::png::{CompressionType, FilterType, PngEncoder},
    imageops,
};
use plotters::{
    backend::{BitMapBackend, DrawingBackend, SVGBackend},
    coord::Shift,
    drawing::{DrawingArea, IntoDrawingArea},
    element::{Circle, PathElement, Polygon, Rectangle},
    style::{
        Color, FontStyle, FontTransform, IntoFont, RGBColor, TextStyle, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::colours::{Colour, TEXT, WHITE};
use crate::{Error, Result, files};

/// Pixels of a PNG in one logical pixel.
const RESOLUTION: u32 = 2;
/// plotters draws on a lattice this many times finer than logical pixels: its coordinates are whole numbers, and
/// averaging the bitmap down to [`RESOLUTION`] smooths the edges.
const LATTICE: u32 = 4;
/// The name that the SVG gives; the bitmap registers DejaVu under it.
const FONT: &str = "DejaVu Sans, Verdana, sans-serif";
/// DejaVu's line height in em: `ab_glyph` counts font sizes in it.
const LINE_HEIGHT: f64 = 1.164;

/// A picture that a notebook shows and that can be saved.
#[derive(Clone, Debug)]
pub struct Figure {
    width: f64,
    height: f64,
    shapes: Vec<Shape>,
}

#[derive(Clone, Debug)]
enum Shape {
    Line { points: Vec<(f64, f64)>, width: f64, colour: Colour },
    Area { points: Vec<(f64, f64)>, colour: Colour },
    Box { at: (f64, f64), size: (f64, f64), colour: Colour },
    Dot { centre: (f64, f64), radius: f64, colour: Colour },
    Text(Text),
    Picture { at: (f64, f64), size: (f64, f64), image: RgbImage, pixelated: bool },
}

/// One line of text. `at` is on its baseline.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) at: (f64, f64),
    pub(super) align: Align,
    pub(super) style: Style,
    pub(super) colour: Colour,
    /// Read from the bottom up, as beside a y axis.
    pub(super) upwards: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Align {
    Left,
    Centre,
    Right,
}

/// Size in logical pixels (of one em) and weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) size: f64,
    pub(super) bold: bool,
}

impl Style {
    pub(super) fn plain(size: f64) -> Style {
        Style { size, bold: false }
    }

    pub(super) fn bold(size: f64) -> Style {
        Style { size, bold: true }
    }

    /// How wide a text is in logical pixels.
    pub(super) fn width(self, text: &str) -> f64 {
        register_fonts();
        let fine = 100.0; // plotters rounds to whole pixels
        let font = (FONT, fine * LINE_HEIGHT, self.font_style()).into_font();
        font.box_size(text).map_or(0.0, |(width, _)| f64::from(width) * self.size / fine)
    }

    /// The text, cut with "…" where it would be wider than `width`.
    pub(super) fn shorten(self, text: &str, width: f64) -> String {
        if self.width(text) <= width {
            return text.to_string();
        }
        let mut kept: Vec<char> = text.chars().take(200).collect();
        while kept.pop().is_some() {
            let cut = kept.iter().collect::<String>().trim_end().to_string() + "…";
            if self.width(&cut) <= width {
                return cut;
            }
        }
        String::new()
    }

    fn font_style(self) -> FontStyle {
        if self.bold { FontStyle::Bold } else { FontStyle::Normal }
    }
}

impl Figure {
    /// An empty white figure of so many logical pixels.
    pub(super) fn new(width: f64, height: f64) -> Figure {
        Figure { width: width.ceil(), height: height.ceil(), shapes: Vec::new() }
    }

    /// A small figure that says why there is nothing to see.
    pub(super) fn message(text: &str) -> Figure {
        let mut figure = Figure::new(360.0, 80.0);
        figure.text(text, (180.0, 45.0), Align::Centre, Style::plain(13.0), TEXT);
        figure
    }

    pub(super) fn line(&mut self, points: Vec<(f64, f64)>, width: f64, colour: Colour) {
        self.shapes.push(Shape::Line { points, width, colour });
    }

    /// A filled polygon.
    pub(super) fn area(&mut self, points: Vec<(f64, f64)>, colour: Colour) {
        self.shapes.push(Shape::Area { points, colour });
    }

    /// A filled box from its upper left corner.
    pub(super) fn filled_box(&mut self, at: (f64, f64), size: (f64, f64), colour: Colour) {
        self.shapes.push(Shape::Box { at, size, colour });
    }

    pub(super) fn dot(&mut self, centre: (f64, f64), radius: f64, colour: Colour) {
        self.shapes.push(Shape::Dot { centre, radius, colour });
    }

    pub(super) fn text(&mut self, text: &str, at: (f64, f64), align: Align, style: Style, colour: Colour) {
        self.push_text(Text { text: text.to_string(), at, align, style, colour, upwards: false });
    }

    pub(super) fn push_text(&mut self, mut text: Text) {
        // Control characters have no glyph and may not stand in an SVG.
        text.text = text.text.replace(|c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'), " ");
        if !text.text.trim().is_empty() {
            self.shapes.push(Shape::Text(text));
        }
    }

    /// An image, scaled to `size`, its pixels as sharp squares or smoothed.
    pub(super) fn picture(&mut self, image: &RgbImage, at: (f64, f64), size: (f64, f64), pixelated: bool) {
        if image.is_empty() {
            return;
        }
        let (width, height) = (pixels(size.0).max(1), pixels(size.1).max(1));
        let shrinks = image.width() > width || image.height() > height;
        // No more pixels are kept than are shown.
        let image = if shrinks {
            imageops::resize(image, width, height, imageops::FilterType::CatmullRom)
        } else {
            image.clone()
        };
        self.shapes.push(Shape::Picture { at, size, image, pixelated: pixelated && !shrinks });
    }

    /// Width and height in logical pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    /// The figure as a PNG file, at twice its logical size.
    pub fn png(&self) -> Result<Vec<u8>> {
        register_fonts();
        let (width, height) = self.size();
        let mut fine = RgbImage::new(width * LATTICE, height * LATTICE);
        {
            let size = fine.dimensions();
            let area = BitMapBackend::with_buffer(&mut fine, size).into_drawing_area();
            // With `VPos::Top`, plotters puts the baseline half a line below the point that it is given.
            paint(&self.shapes, &area, LINE_HEIGHT, LINE_HEIGHT / 2.0)?;
        }
        let mut bitmap = average(&fine, LATTICE / RESOLUTION);
        for shape in &self.shapes {
            if let Shape::Picture { at, size, image, pixelated } = shape {
                let filter = if *pixelated { imageops::FilterType::Nearest } else { imageops::FilterType::CatmullRom };
                let scaled = imageops::resize(image, pixels(size.0).max(1), pixels(size.1).max(1), filter);
                imageops::replace(&mut bitmap, &scaled, i64::from(pixels(at.0)), i64::from(pixels(at.1)));
            }
        }
        encode_png(&bitmap)
    }

    /// The figure as an SVG file.
    pub fn svg(&self) -> Result<String> {
        register_fonts();
        let (width, height) = self.size();
        let fine = (width * LATTICE, height * LATTICE);
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, fine).into_drawing_area();
            // The SVG backend divides font sizes by 1.24, and puts the baseline 0.76 em below the point.
            paint(&self.shapes, &area, 1.24, 0.76)?;
        }
        // The lattice stays in the view box; outside, the figure has its logical size.
        let svg = svg.replacen(
            &format!("width=\"{}\" height=\"{}\" viewBox", fine.0, fine.1),
            &format!("width=\"{width}\" height=\"{height}\" viewBox"),
            1,
        );
        let mut pictures = String::new();
        for shape in &self.shapes {
            if let Shape::Picture { at, size, image, pixelated } = shape {
                let [x, y, w, h] = [at.0, at.1, size.0, size.1].map(|v| v * f64::from(LATTICE));
                let rendering = if *pixelated { " style=\"image-rendering:pixelated\"" } else { "" };
                let data = BASE64_STANDARD.encode(encode_png(image)?);
                let _ = writeln!(
                    pictures,
                    "<image x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" preserveAspectRatio=\"none\"{rendering} \
                     href=\"data:image/png;base64,{data}\"/>"
                );
            }
        }
        Ok(svg.trim_end().trim_end_matches("</svg>").to_string() + &pictures + "</svg>\n")
    }

    /// Writes the figure as `.png` or `.svg`; without an extension as both. Gives it back, so that a cell which
    /// ends here also shows it.
    pub fn save(self, path: impl AsRef<Path>) -> Result<Figure> {
        let path = path.as_ref();
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            _ if path.file_name().is_none() => {
                return Err(Error::file(path, "is no file name; give one such as plots/accuracy.png"));
            }
            Some("png") => files::write(path, &self.png()?)?,
            Some("svg") => files::write(path, self.svg()?.as_bytes())?,
            None => {
                files::write(&path.with_extension("png"), &self.png()?)?;
                files::write(&path.with_extension("svg"), self.svg()?.as_bytes())?;
            }
            Some(other) => {
                let message = format!("a figure is saved as .png or .svg, not .{other}; leave it out to get both");
                return Err(Error::file(path, message));
            }
        }
        Ok(self)
    }

    /// Shows the figure in a notebook, as PNG.
    pub fn evcxr_display(&self) {
        match self.png() {
            Ok(png) => {
                println!("EVCXR_BEGIN_CONTENT image/png\n{}\nEVCXR_END_CONTENT", BASE64_STANDARD.encode(png));
            }
            Err(error) => println!("{error}"),
        }
    }
}

/// Logical pixels to pixels of the PNG.
fn pixels(logical: f64) -> u32 {
    (logical * f64::from(RESOLUTION)).round() as u32
}

fn register_fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // DejaVu is a valid font; were it not, drawing would report the missing font.
        let _ = register_font(FONT, FontStyle::Normal, dejavu::sans::regular());
        let _ = register_font(FONT, FontStyle::Bold, dejavu::sans::bold());
    });
}

/// Draws all shapes but pictures. `font_scale` and `baseline` (in em below the given point) undo what sets the
/// backends apart.
fn paint<DB: DrawingBackend>(
    shapes: &[Shape],
    area: &DrawingArea<DB, Shift>,
    font_scale: f64,
    baseline: f64,
) -> Result<()> {
    let failed = |e: plotters::drawing::DrawingAreaErrorKind<DB::ErrorType>| {
        Error::Config(format!("the figure cannot be drawn: {e}; please report it"))
    };
    let scale = f64::from(LATTICE);
    let point = |(x, y): (f64, f64)| ((x * scale).round() as i32, (y * scale).round() as i32);
    let points = |points: &[(f64, f64)]| points.iter().map(|&p| point(p)).collect::<Vec<_>>();
    let rgb = |(r, g, b): Colour| RGBColor(r, g, b);
    area.fill(&rgb(WHITE)).map_err(failed)?;
    for shape in shapes {
        match shape {
            Shape::Line { points: corners, width, colour } => {
                let width = (width * scale).round() as u32;
                area.draw(&PathElement::new(points(corners), rgb(*colour).stroke_width(width)))
            }
            Shape::Area { points: corners, colour } => area.draw(&Polygon::new(points(corners), rgb(*colour).filled())),
            Shape::Box { at, size, colour } => {
                let corners = [point(*at), point((at.0 + size.0, at.1 + size.1))];
                area.draw(&Rectangle::new(corners, rgb(*colour).filled()))
            }
            Shape::Dot { centre, radius, colour } => {
                area.draw(&Circle::new(point(*centre), (radius * scale).round() as i32, rgb(*colour).filled()))
            }
            Shape::Text(Text { text, at, align, style, colour, upwards }) => {
                let h_pos = match align {
                    Align::Left => HPos::Left,
                    Align::Centre => HPos::Center,
                    Align::Right => HPos::Right,
                };
                let font = (FONT, style.size * font_scale * scale, style.font_style()).into_font();
                let above = baseline * style.size;
                let (font, at) = if *upwards {
                    (font.transform(FontTransform::Rotate270), (at.0 - above, at.1))
                } else {
                    (font, (at.0, at.1 - above))
                };
                let colour = rgb(*colour);
                let style = TextStyle::from(font).color(&colour).pos(Pos::new(h_pos, VPos::Top));
                area.draw_text(text, &style, point(at))
            }
            Shape::Picture { .. } => Ok(()),
        }
        .map_err(failed)?;
    }
    area.present().map_err(failed)
}

/// Each pixel the mean of `factor` × `factor` finer ones.
fn average(fine: &RgbImage, factor: u32) -> RgbImage {
    RgbImage::from_fn(fine.width() / factor, fine.height() / factor, |x, y| {
        let mut sums = [0u32; 3];
        for (dx, dy) in (0..factor).flat_map(|dy| (0..factor).map(move |dx| (dx, dy))) {
            let pixel = fine.get_pixel(x * factor + dx, y * factor + dy);
            for (sum, value) in sums.iter_mut().zip(pixel.0) {
                *sum += u32::from(value);
            }
        }
        image::Rgb(sums.map(|sum| ((sum + factor * factor / 2) / (factor * factor)) as u8))
    })
}

fn encode_png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive)
        .write_image(image, image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(|e| Error::Config(format!("the figure cannot be written as PNG: {e}; please report it")))?;
    Ok(bytes.into_inner())
}
