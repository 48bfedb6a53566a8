//! Scatter plots: one dot for each pair of numbers.

use super::{
    Figure,
    chart::{Marks, Titles, WHOLE, draw},
    curves::named,
};

/// A dot for each point (x, y), a color for each named group. Points that are not finite are left out.
///
/// ```
/// let layers = [("convolutions", vec![(1.8e3, 8.7e7), (3.7e4, 1.8e9)]), ("dense layers", vec![(1.0e8, 1.0e8)])];
/// let figure = vgg_lib::plot::scatter("VGG16", "parameters", "multiply–adds", &layers);
/// ```
pub fn scatter(title: &str, x_label: &str, y_label: &str, groups: &[(impl AsRef<str>, Vec<(f64, f64)>)]) -> Figure {
    draw(Titles { title, x: x_label, y: y_label }, &named(groups), None, Marks::Dots, WHOLE)
}
