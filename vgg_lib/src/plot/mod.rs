//! Figures of data and results. Each function takes plain data and returns a [`Figure`], which a notebook shows when it
//! is the last expression of a cell, and which [`save`](Figure::save) writes as PNG or SVG:
//!
//! ```no_run
//! # fn main() -> vgg_lib::Result<()> {
//! # let history = vgg_lib::train::History::default();
//! use vgg_lib::plot;
//!
//! plot::accuracy(&history).save("plots/01_accuracy")?; // 01_accuracy.png and 01_accuracy.svg
//! # Ok(())
//! # }
//! ```

mod axis;
mod bars;
mod chart;
mod classification;
mod color_map;
mod confusion;
mod curves;
mod fallback;
mod figure;
mod font;
mod grid;
mod heatmap;
mod histogram;
mod letters;
mod maps;
mod missing;
mod network;
mod png;
mod polyline;
mod predictions;
mod scatter;
mod strokes;
mod svg;

pub use bars::bars;
pub use classification::classification;
pub use confusion::confusion_matrix;
pub use curves::{accuracy, compare, lines, loss, lr_find, paired_lines, schedule, training};
pub use figure::Figure;
pub use grid::image_grid;
pub use heatmap::{heatmap, heatmaps};
pub use histogram::histogram;
pub use maps::{feature_maps, filters};
pub use network::{network, networks};
pub use predictions::predictions;
pub use scatter::scatter;

/// Colors that color-blind readers can tell apart (Okabe and Ito's palette).
mod colors {
    /// Red, green, blue.
    pub(super) type Color = (u8, u8, u8);
    pub(super) const TEXT: Color = (38, 38, 38);
    pub(super) const FAINT_TEXT: Color = (95, 95, 95);
    pub(super) const GRID: Color = (230, 230, 230);
    pub(super) const AXIS: Color = (150, 150, 150);
    pub(super) const WHITE: Color = (255, 255, 255);
    pub(super) const GRAY: Color = (160, 160, 160);
    pub(super) const BLUE: Color = (0, 114, 178);
    pub(super) const RIGHT: Color = (0, 140, 104);
    pub(super) const WRONG: Color = (213, 94, 0);
    /// For the curves of a chart, in this order.
    pub(super) const CURVES: [Color; 7] =
        [BLUE, WRONG, (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (38, 38, 38)];
}
