//! Lines, boxes, dots and polygons, which plotters draws for PNG and SVG alike.

use plotters::{
    backend::DrawingBackend,
    coord::Shift,
    drawing::{DrawingArea, DrawingAreaErrorKind},
    element::{Circle, PathElement, Polygon, Rectangle},
    style::{Color as _, RGBColor},
};

use super::{
    Figure,
    colors::{Color, WHITE},
    figure::Element,
};
use crate::{Error, Result};

/// plotters draws on a lattice this many times finer than logical pixels, because its coordinates are whole numbers. For
/// PNG the bitmap is then averaged down, which smooths the edges.
pub(super) const LATTICE: u32 = 4;

impl Figure {
    /// Draws everything but texts and images. With `piecewise`, a line is drawn segment by segment, with a dot at each
    /// corner, because plotters' bitmap backend distorts thick lines with sharp corners.
    pub(super) fn draw_strokes<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, Shift>,
        piecewise: bool,
    ) -> Result<()> {
        let failed =
            |e: DrawingAreaErrorKind<DB::ErrorType>| Error::Internal(format!("the figure cannot be drawn: {e}"));
        let fine = |v: f64| (v * f64::from(LATTICE)).round() as i32;
        let corner = |(x, y): (f64, f64)| (fine(x), fine(y));
        let rgb = |(r, g, b): Color| RGBColor(r, g, b);
        area.fill(&rgb(WHITE)).map_err(failed)?;
        for element in self.elements() {
            match element {
                Element::Line { points, width, color } => {
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
                Element::Box { at, size, color } => {
                    let corners = [corner(*at), corner((at.0 + size.0, at.1 + size.1))];
                    area.draw(&Rectangle::new(corners, rgb(*color).filled()))
                }
                Element::Dot { center, radius, color } => {
                    area.draw(&Circle::new(corner(*center), fine(*radius), rgb(*color).filled()))
                }
                Element::Polygon { corners, color } => {
                    let corners: Vec<_> = corners.iter().copied().map(corner).collect();
                    area.draw(&Polygon::new(corners, rgb(*color).filled()))
                }
                Element::Text(_) | Element::Image { .. } => Ok(()),
            }
            .map_err(failed)?;
        }
        area.present().map_err(failed)
    }
}
