//! A figure is a list of shapes in logical pixels, written as PNG at twice that resolution or as SVG.
//!
//! plotters draws lines, boxes, polygons and dots. Text and pictures are put on top by us: plotters drops the left bearing of
//! each glyph, so that letters stand unevenly, and its SVG has no pictures. The font is DejaVu Sans from a crate, so
//! that text looks the same on every machine.

use std::{fmt::Write as _, io::Cursor, path::Path, sync::LazyLock};

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};
use base64::{Engine, prelude::BASE64_STANDARD};
use image::{
    ExtendedColorType, ImageEncoder, Rgb, RgbImage,
    codecs::png::{CompressionType, FilterType, PngEncoder},
    imageops,
};
use plotters::{
    backend::{BitMapBackend, DrawingBackend, SVGBackend},
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea},
    element::{Circle, PathElement, Polygon, Rectangle},
    style::{Color as _, RGBColor},
};

use super::colors::{Color, TEXT, WHITE};
use crate::{Error, Result, files};

/// Pixels of a PNG in one logical pixel.
const RESOLUTION: u32 = 2;
/// plotters draws on a lattice this many times finer than logical pixels: its coordinates are whole numbers, and
/// averaging the bitmap down to [`RESOLUTION`] smooths the edges.
const LATTICE: u32 = 4;
/// What the SVG asks for.
const FONT_FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

/// A picture that a notebook shows and that can be saved.
#[derive(Clone, Debug)]
pub struct Figure {
    width: f64,
    height: f64,
    shapes: Vec<Shape>,
}

#[derive(Clone, Debug)]
enum Shape {
    Line { points: Vec<(f64, f64)>, width: f64, color: Color },
    Box { at: (f64, f64), size: (f64, f64), color: Color },
    Dot { center: (f64, f64), radius: f64, color: Color },
    Polygon { corners: Vec<(f64, f64)>, color: Color },
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
    pub(super) color: Color,
    /// Read from the bottom up, as beside a y axis.
    pub(super) upwards: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Align {
    Left,
    Center,
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
        self.glyphs(text, 1.0).1
    }

    /// The glyphs of a text side by side from (0, 0) on the baseline, and the width of them all.
    fn glyphs(self, text: &str, scale: f64) -> (Vec<Glyph>, f64) {
        let em = (self.size * scale) as f32;
        // `PxScale` counts in line heights instead of em.
        let size = PxScale::from(em * self.font().height_unscaled() / self.font().units_per_em().unwrap_or(1.0));
        let font = self.font().as_scaled(size);
        let mut glyphs: Vec<Glyph> = Vec::new();
        let mut x = 0.0;
        for c in text.chars() {
            let id = font.glyph_id(c);
            x += glyphs.last().map_or(0.0, |last| font.kern(last.id, id));
            glyphs.push(id.with_scale_and_position(size, point(x, 0.0)));
            x += font.h_advance(id);
        }
        (glyphs, f64::from(x))
    }

    fn font(self) -> &'static FontRef<'static> {
        static FONTS: LazyLock<[FontRef<'static>; 2]> = LazyLock::new(|| {
            [dejavu::sans::regular(), dejavu::sans::bold()]
                .map(|bytes| FontRef::try_from_slice(bytes).expect("DejaVu is a valid font"))
        });
        &FONTS[usize::from(self.bold)]
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
}

impl Figure {
    /// An empty white figure of so many logical pixels.
    pub(super) fn new(width: f64, height: f64) -> Figure {
        Figure { width: width.ceil(), height: height.ceil(), shapes: Vec::new() }
    }

    /// A small figure that says why there is nothing to see.
    pub(super) fn message(text: &str) -> Figure {
        let mut figure = Figure::new(360.0, 80.0);
        figure.text(text, (180.0, 45.0), Align::Center, Style::plain(13.0), TEXT);
        figure
    }

    pub(super) fn line(&mut self, points: Vec<(f64, f64)>, width: f64, color: Color) {
        self.shapes.push(Shape::Line { points, width, color });
    }

    /// A filled box from its upper left corner.
    pub(super) fn filled_box(&mut self, at: (f64, f64), size: (f64, f64), color: Color) {
        self.shapes.push(Shape::Box { at, size, color });
    }

    pub(super) fn dot(&mut self, center: (f64, f64), radius: f64, color: Color) {
        self.shapes.push(Shape::Dot { center, radius, color });
    }

    /// A filled polygon.
    pub(super) fn polygon(&mut self, corners: Vec<(f64, f64)>, color: Color) {
        self.shapes.push(Shape::Polygon { corners, color });
    }

    pub(super) fn text(&mut self, text: &str, at: (f64, f64), align: Align, style: Style, color: Color) {
        self.push_text(Text { text: text.to_string(), at, align, style, color, upwards: false });
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

    /// Another figure on this one, its upper left corner `at`.
    pub(super) fn place(&mut self, other: Figure, at: (f64, f64)) {
        let moved = |p: (f64, f64)| (p.0 + at.0, p.1 + at.1);
        self.shapes.extend(other.shapes.into_iter().map(|mut shape| {
            match &mut shape {
                Shape::Line { points, .. } | Shape::Polygon { corners: points, .. } => {
                    points.iter_mut().for_each(|p| *p = moved(*p));
                }
                Shape::Box { at, .. } | Shape::Dot { center: at, .. } | Shape::Picture { at, .. } => *at = moved(*at),
                Shape::Text(text) => text.at = moved(text.at),
            }
            shape
        }));
    }

    /// Width and height in logical pixels.
    pub fn size(&self) -> (u32, u32) {
        (self.width as u32, self.height as u32)
    }

    /// The figure as a PNG file, at twice its logical size.
    pub fn png(&self) -> Result<Vec<u8>> {
        let (width, height) = self.size();
        let mut fine = RgbImage::new(width * LATTICE, height * LATTICE);
        {
            let size = fine.dimensions();
            self.paint(&BitMapBackend::with_buffer(&mut fine, size).into_drawing_area(), true)?;
        }
        let mut bitmap = average(&fine, LATTICE / RESOLUTION);
        for shape in &self.shapes {
            match shape {
                Shape::Text(text) => text.draw(&mut bitmap),
                Shape::Picture { at, size, image, pixelated } => {
                    let filter =
                        if *pixelated { imageops::FilterType::Nearest } else { imageops::FilterType::CatmullRom };
                    let scaled = imageops::resize(image, pixels(size.0).max(1), pixels(size.1).max(1), filter);
                    imageops::replace(&mut bitmap, &scaled, i64::from(pixels(at.0)), i64::from(pixels(at.1)));
                }
                _ => {}
            }
        }
        encode_png(&bitmap)
    }

    /// The figure as an SVG file.
    pub fn svg(&self) -> Result<String> {
        let (width, height) = self.size();
        let fine = (width * LATTICE, height * LATTICE);
        let mut svg = String::new();
        self.paint(&SVGBackend::with_string(&mut svg, fine).into_drawing_area(), false)?;
        // The lattice stays in the view box; outside, the figure has its logical size.
        let mut svg = svg.trim_end().trim_end_matches("</svg>").replacen(
            &format!("width=\"{}\" height=\"{}\" viewBox", fine.0, fine.1),
            &format!("width=\"{width}\" height=\"{height}\" viewBox"),
            1,
        );
        let _ = writeln!(svg, "<g transform=\"scale({LATTICE})\" font-family=\"{FONT_FAMILY}\">");
        for shape in &self.shapes {
            match shape {
                Shape::Text(text) => svg += &text.svg(),
                Shape::Picture { at: (x, y), size: (w, h), image, pixelated } => {
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

    /// Lets plotters draw lines, boxes, polygons and dots. `piecewise`: the bitmap backend distorts thick lines with sharp
    /// corners, so they are drawn side by side with a dot at each corner.
    fn paint<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, piecewise: bool) -> Result<()> {
        let failed = |e: DrawingAreaErrorKind<DB::ErrorType>| {
            Error::Config(format!("the figure cannot be drawn: {e}; please report it"))
        };
        let fine = |v: f64| (v * f64::from(LATTICE)).round() as i32;
        let corner = |(x, y): (f64, f64)| (fine(x), fine(y));
        let rgb = |(r, g, b): Color| RGBColor(r, g, b);
        area.fill(&rgb(WHITE)).map_err(failed)?;
        for shape in &self.shapes {
            match shape {
                Shape::Line { points, width, color } => {
                    let corners: Vec<_> = points.iter().copied().map(corner).collect();
                    let style = rgb(*color).stroke_width(fine(*width) as u32);
                    if piecewise && corners.len() > 2 {
                        let joint = |at: &(i32, i32)| Circle::new(*at, fine(*width) / 2, rgb(*color).filled());
                        let pieces = corners.windows(2).map(|pair| PathElement::new(pair, style));
                        pieces
                            .map(|piece| area.draw(&piece))
                            .chain(corners.iter().map(|at| area.draw(&joint(at))))
                            .collect()
                    } else {
                        area.draw(&PathElement::new(corners, style))
                    }
                }
                Shape::Box { at, size, color } => {
                    let corners = [corner(*at), corner((at.0 + size.0, at.1 + size.1))];
                    area.draw(&Rectangle::new(corners, rgb(*color).filled()))
                }
                Shape::Dot { center, radius, color } => {
                    area.draw(&Circle::new(corner(*center), fine(*radius), rgb(*color).filled()))
                }
                Shape::Polygon { corners, color } => {
                    let corners: Vec<_> = corners.iter().copied().map(corner).collect();
                    area.draw(&Polygon::new(corners, rgb(*color).filled()))
                }
                Shape::Text(_) | Shape::Picture { .. } => Ok(()),
            }
            .map_err(failed)?;
        }
        area.present().map_err(failed)
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
}

/// Logical pixels to pixels of the PNG.
fn pixels(logical: f64) -> u32 {
    (logical * f64::from(RESOLUTION)).round() as u32
}

impl Text {
    fn draw(&self, bitmap: &mut RgbImage) {
        let resolution = f64::from(RESOLUTION);
        let (glyphs, width) = self.style.glyphs(&self.text, resolution);
        let shift = match self.align {
            Align::Left => 0.0,
            Align::Center => -width / 2.0,
            Align::Right => -width,
        };
        let (at_x, at_y) = ((self.at.0 * resolution) as f32, (self.at.1 * resolution).round() as f32);
        let ink = [self.color.0, self.color.1, self.color.2].map(f32::from);
        for mut glyph in glyphs {
            glyph.position.x += shift as f32 + if self.upwards { 0.0 } else { at_x };
            let Some(outline) = self.style.font().outline_glyph(glyph) else { continue };
            let bounds = outline.px_bounds();
            outline.draw(|dx, dy, coverage| {
                let (x, y) = (bounds.min.x + dx as f32, bounds.min.y + dy as f32);
                let (x, y) = if self.upwards { (at_x.round() + y, at_y - x) } else { (x, at_y + y) };
                // A negative number would become 0, the edge.
                if x < 0.0 || y < 0.0 {
                    return;
                }
                if let Some(Rgb(pixel)) = bitmap.get_pixel_mut_checked(x as u32, y as u32) {
                    for (value, ink) in pixel.iter_mut().zip(ink) {
                        let paper = f32::from(*value);
                        *value = (paper + (ink - paper) * coverage.min(1.0)).round() as u8;
                    }
                }
            });
        }
    }

    fn svg(&self) -> String {
        let (x, y) = self.at;
        let anchor = match self.align {
            Align::Left => "start",
            Align::Center => "middle",
            Align::Right => "end",
        };
        let weight = if self.style.bold { " font-weight=\"bold\"" } else { "" };
        let turn = if self.upwards { format!(" transform=\"rotate(-90 {x} {y})\"") } else { String::new() };
        let (size, (r, g, b)) = (self.style.size, self.color);
        let text = self.text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        format!(
            "<text x=\"{x:.2}\" y=\"{y:.2}\" text-anchor=\"{anchor}\" font-size=\"{size}\"{weight} \
             fill=\"#{r:02x}{g:02x}{b:02x}\"{turn}>{text}</text>\n"
        )
    }
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
        Rgb(sums.map(|sum| ((sum + factor * factor / 2) / (factor * factor)) as u8))
    })
}

fn encode_png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Best, FilterType::Adaptive)
        .write_image(image, image.width(), image.height(), ExtendedColorType::Rgb8)
        .map_err(|e| Error::Config(format!("the figure cannot be written as PNG: {e}; please report it")))?;
    Ok(bytes.into_inner())
}
