//! The axis of a chart: a range around the values, and grid lines on round numbers (1, 2 or 5 times a power of ten).

/// A range of numbers with its grid lines.
pub(super) struct Axis {
    pub(super) low: f64,
    high: f64,
    /// Where the grid lines are.
    pub(super) ticks: Vec<f64>,
    /// The distance between two grid lines.
    step: f64,
}

impl Axis {
    /// A range that contains all `values` and is wider by the share `padding` at both ends, with about `about` grid
    /// lines. `whole`: the values are whole numbers, and so are the grid lines.
    pub(super) fn new(values: impl Iterator<Item = f64>, padding: f64, about: usize, whole: bool) -> Axis {
        let (mut low, mut high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let not_negative = low >= 0.0;
        if high - low <= 1e-6 * low.abs().max(high.abs()) {
            // All values are equal or nearly so: show them in the middle.
            let around = if whole { 0.5 } else { (low.abs() * 0.1).max(1e-3) };
            (low, high) = (low - around, high + around);
        } else {
            let pad = padding * (high - low);
            (low, high) = (low - pad, high + pad);
        }
        if not_negative && !whole {
            low = low.max(0.0);
        }
        let rough = (high - low) / about as f64;
        let power = 10f64.powf(rough.log10().floor());
        let nice = [1.0, 2.0, 5.0].map(|n| n * power).into_iter().find(|n| *n >= rough * 0.999);
        let step = nice.unwrap_or(10.0 * power);
        let step = if whole { step.max(1.0) } else { step };
        let slack = 1e-9;
        let (first, last) = ((low / step - slack).ceil() as i64, (high / step + slack).floor() as i64);
        Axis { low, high, ticks: (first..=last).map(|i| i as f64 * step).collect(), step }
    }

    /// The position of a value in the range, from 0 to 1.
    pub(super) fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// The number of a grid line, with as few digits as tell it from its neighbors.
    pub(super) fn label(&self, tick: f64) -> String {
        if self.step < 0.99e-4 || self.high.abs().max(self.low.abs()) >= 1e7 {
            return if tick == 0.0 { "0".to_string() } else { format!("{tick:.1e}") };
        }
        let decimals = (-(self.step * 1.001).log10().floor()).max(0.0) as usize;
        format!("{tick:.decimals$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<String> {
        axis.ticks.iter().map(|t| axis.label(*t)).collect()
    }

    #[test]
    fn grid_lines_fall_on_round_numbers() {
        assert_eq!(labels(&Axis::new([1.0, 250.0].into_iter(), 0.0, 8, true)), ["50", "100", "150", "200", "250"]);
        assert_eq!(labels(&Axis::new([0.1, 0.95].into_iter(), 0.0, 7, false)), ["0.2", "0.4", "0.6", "0.8"]);
        assert_eq!(
            labels(&Axis::new([0.0, 0.1].into_iter(), 0.0, 5, false)),
            ["0.00", "0.02", "0.04", "0.06", "0.08", "0.10"]
        );
    }

    #[test]
    fn epochs_are_whole_numbers() {
        assert_eq!(labels(&Axis::new([1.0].into_iter(), 0.0, 8, true)), ["1"]);
        assert_eq!(labels(&Axis::new([1.0, 2.0].into_iter(), 0.0, 8, true)), ["1", "2"]);
        assert_eq!(labels(&Axis::new([1.0, 5.0].into_iter(), 0.0, 8, true)), ["1", "2", "3", "4", "5"]);
    }

    #[test]
    fn a_range_contains_its_values_and_has_few_grid_lines() {
        let cases: [&[f64]; 9] = [
            &[],
            &[0.0],
            &[0.5, 0.5],
            &[1.0, 1.0 + 1e-15],
            &[-3.0, 7.0],
            &[1e-12, 3e-12],
            &[1e99, -1e99],
            &[2.3, 1e6],
            &[-1e-9, 0.0],
        ];
        for values in cases {
            let axis = Axis::new(values.iter().copied(), 0.05, 7, false);
            assert!(axis.low < axis.high, "{values:?}");
            assert!(values.iter().all(|v| (0.0..=1.0).contains(&axis.share(*v))), "{values:?}");
            assert!((2..=15).contains(&axis.ticks.len()), "{values:?} {:?}", axis.ticks);
        }
    }

    #[test]
    fn neighboring_grid_lines_have_different_labels() {
        for (low, high) in [(0.0, 1e-5), (0.9, 0.92), (1e6, 1e6 + 20.0), (1e8, 3e8), (1e-7, 4e-7), (0.0, 24.0)] {
            let labels = labels(&Axis::new([low, high].into_iter(), 0.05, 7, false));
            assert!(labels.windows(2).all(|pair| pair[0] != pair[1]), "{labels:?}");
        }
    }
}
