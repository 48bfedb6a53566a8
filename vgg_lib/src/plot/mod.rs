//! Pictures of data and results. Each function returns a [`Figure`], which shows itself when it is the last
//! expression of a notebook cell, and which [`save`](Figure::save) writes as PNG or SVG:
//!
//! ```no_run
//! # fn main() -> vgg_lib::Result<()> {
//! # let history = vgg_lib::train::history::History::default();
//! use vgg_lib::plot;
//!
//! plot::accuracy(&history).save("plots/01_accuracy")?; // 01_accuracy.png and 01_accuracy.svg
//! # Ok(())
//! # }
//! ```

mod bars;
mod colour_map;
mod confusion;
mod curves;
mod figure;
mod grid;
mod heatmap;
mod maps;
mod network;
mod predictions;

pub use bars::bars;
pub use confusion::confusion_matrix;
pub use curves::{accuracy, lines, loss, paired_lines, training};
pub use figure::Figure;
pub use grid::image_grid;
pub use heatmap::heatmap;
pub use maps::{feature_maps, filters};
pub use network::network;
pub use predictions::predictions;

/// Colours that stay apart for colour-blind readers (Okabe and Ito's).
mod colours {
    pub(super) type Colour = (u8, u8, u8);
    pub(super) const TEXT: Colour = (38, 38, 38);
    pub(super) const FAINT_TEXT: Colour = (95, 95, 95);
    pub(super) const GRID: Colour = (230, 230, 230);
    pub(super) const AXIS: Colour = (150, 150, 150);
    pub(super) const WHITE: Colour = (255, 255, 255);
    pub(super) const GREY: Colour = (160, 160, 160);
    pub(super) const BLUE: Colour = (0, 114, 178);
    pub(super) const RIGHT: Colour = (0, 140, 104);
    pub(super) const WRONG: Colour = (213, 94, 0);
    /// One after the other for the curves of a figure.
    pub(super) const CURVES: [Colour; 7] =
        [BLUE, WRONG, (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233), (38, 38, 38)];
}
