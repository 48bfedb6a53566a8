//! Horizontal bars with their values after them: parameters per layer, seconds per step.

use super::{
    Figure,
    colors::{AXIS, BLUE, FAINT_TEXT, TEXT},
    font::Style,
};
use crate::table::Align;
use crate::text::thousands;

const WIDTH: f64 = 720.0;
const MARGIN: f64 = 20.0;
/// Where the first row begins.
const TOP: f64 = 48.0;
const ROW: f64 = 22.0;
const BAR: f64 = 14.0;
const LABEL: Style = Style { size: 12.0, bold: false };
/// Longer names are cut.
const LONGEST_NAME: f64 = 260.0;
/// More bars are not drawn.
const MOST: usize = 200;

/// A bar per name, from the top down, with its value after it: whole numbers as `138,357,544`, others with three
/// digits. Bars of negative values go to the left. Values that are not finite have no bar.
///
/// ```
/// let layers = [("fc1", 102_764_544), ("fc2", 16_781_312), ("predictions", 4_097_000)];
/// let layers = layers.map(|(name, parameters)| (name, f64::from(parameters)));
/// let figure = vgg_lib::plot::bars("where the parameters are", "parameters", &layers);
/// ```
pub fn bars(title: &str, x_label: &str, bars: &[(impl AsRef<str>, f64)]) -> Figure {
    let bars: Vec<Bar> = bars.iter().map(|(name, value)| (name.as_ref(), *value)).collect();
    draw(title, x_label, &bars)
}

/// A name and a value.
type Bar<'a> = (&'a str, f64);

fn draw(title: &str, x_label: &str, bars: &[Bar]) -> Figure {
    let shown = &bars[..bars.len().min(MOST)];
    let title_style = Style::bold(16.0);
    let bottom = TOP + ROW * shown.len().max(2) as f64;
    let mut figure = Figure::new(WIDTH, bottom + if x_label.is_empty() { 16.0 } else { 34.0 });
    figure.text(&title_style.shorten(title, WIDTH - 2.0 * MARGIN), (MARGIN, 28.0), Align::Left, title_style, TEXT);
    if shown.is_empty() {
        figure.text("nothing to plot yet", (WIDTH / 2.0, TOP + 20.0), Align::Center, LABEL, FAINT_TEXT);
    }

    let names: Vec<String> = shown.iter().map(|(name, _)| LABEL.shorten(name, LONGEST_NAME)).collect();
    let values: Vec<String> = shown.iter().map(|(_, value)| number(*value)).collect();
    let widest = |texts: &[String]| texts.iter().map(|text| LABEL.width(text)).fold(0.0, f64::max);
    let scale = BarScale::new(shown, MARGIN + widest(&names) + 10.0, WIDTH - MARGIN - widest(&values) - 8.0);
    let BarScale { left, right, .. } = scale;
    figure.line(vec![(scale.place(0.0), TOP), (scale.place(0.0), bottom)], 1.0, AXIS);
    for (i, ((_, value), (name, text))) in shown.iter().zip(names.iter().zip(&values)).enumerate() {
        let y = TOP + ROW * i as f64;
        figure.text(name, (left - 10.0, y + 15.5), Align::Right, LABEL, TEXT);
        let (end, zero) = (scale.place(*value), scale.place(0.0));
        if value.is_finite() && (end - zero).abs() >= 0.25 {
            figure.filled_box((zero.min(end), y + 4.0), ((end - zero).abs(), BAR), BLUE);
        }
        // Directly after the bar: a track behind it would end at the largest value and look like 100 %.
        figure.text(text, (end.max(zero) + 8.0, y + 15.5), Align::Left, LABEL, FAINT_TEXT);
    }
    let left_out = bars.len() - shown.len();
    let note = if left_out > 0 { format!("{x_label} (and {} more)", thousands(left_out)) } else { x_label.to_string() };
    let note = LABEL.shorten(&note, right - left);
    figure.text(&note, ((left + right) / 2.0, bottom + 20.0), Align::Center, LABEL, TEXT);
    figure
}

/// Places values between `left` and `right`. 0 is always in the range.
struct BarScale {
    left: f64,
    right: f64,
    lowest: f64,
    highest: f64,
}

impl BarScale {
    fn new(bars: &[Bar], left: f64, right: f64) -> BarScale {
        let finite = bars.iter().map(|(_, value)| *value).filter(|value| value.is_finite());
        let (lowest, highest) = finite.fold((0.0, 0.0), |(low, high), v| (f64::min(low, v), f64::max(high, v)));
        BarScale { left, right, lowest, highest }
    }

    fn place(&self, value: f64) -> f64 {
        // Halves, because the difference between the two ends may exceed the largest number.
        let range = self.highest / 2.0 - self.lowest / 2.0;
        let share = if range > 0.0 { (value / 2.0 - self.lowest / 2.0) / range } else { 0.0 };
        self.left + (self.right - self.left) * share
    }
}

/// A whole number with commas, any other number with three digits.
pub(super) fn number(value: f64) -> String {
    let sign = if value < 0.0 { "−" } else { "" };
    let size = value.abs();
    match size {
        _ if value.is_nan() => "NaN".to_string(),
        _ if value.is_infinite() => format!("{sign}∞"),
        _ if size.fract() == 0.0 && size < 1e15 => format!("{sign}{}", thousands(size as usize)),
        _ if (1e3..1e15).contains(&size) => format!("{sign}{}", thousands(size.round() as usize)),
        _ if (1e-3..1e3).contains(&size) => {
            let decimals = (2.0 - size.log10().floor()).max(0.0) as usize;
            format!("{sign}{size:.decimals$}")
        }
        _ => format!("{sign}{size:.2e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_grouped() {
        let cases = [
            (138_357_544.0, "138,357,544"),
            (0.0, "0"),
            (-1234.0, "−1,234"),
            (1234.56, "1,235"),
            (0.9375, "0.938"),
            (12.345, "12.3"),
            (3.2e-9, "3.20e-9"),
            (1e300, "1.00e300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "−∞"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }
}
