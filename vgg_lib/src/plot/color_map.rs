//! Color scales: one for amounts, one for values on both sides of zero, and mixing.

use super::colors::{BLUE, Color, WHITE, WRONG};

/// matplotlib's viridis (van der Walt & Smith 2015, CC0) at 17 points. Linear interpolation between them stays within 6
/// of 255 of the original. Equal steps look equal, also in gray and to color-blind readers.
const VIRIDIS: [Color; 17] = [
    (68, 1, 84),
    (72, 24, 106),
    (71, 45, 123),
    (66, 64, 134),
    (59, 82, 139),
    (51, 99, 141),
    (44, 114, 142),
    (38, 130, 142),
    (33, 145, 140),
    (31, 159, 136),
    (39, 173, 129),
    (61, 188, 116),
    (92, 200, 99),
    (129, 211, 77),
    (170, 220, 50),
    (213, 226, 26),
    (253, 231, 37),
];

/// From dark blue at 0 to yellow at 1. Values outside are clamped; NaN counts as 0.
pub(super) fn viridis(share: f64) -> Color {
    let share = if share > 0.0 { share.min(1.0) } else { 0.0 };
    let place = share * (VIRIDIS.len() - 1) as f64;
    let below = (place as usize).min(VIRIDIS.len() - 2);
    mix(VIRIDIS[below], VIRIDIS[below + 1], place - below as f64)
}

/// From blue at −1 over white at 0 to orange-red at 1. Values outside are clamped; NaN counts as −1.
pub(super) fn diverging(value: f64) -> Color {
    mix(WHITE, if value >= 0.0 { WRONG } else { BLUE }, value.abs().min(1.0))
}

/// Mixes two colors: the first one at `share` 0, the second at 1.
pub(super) fn mix(from: Color, to: Color, share: f64) -> Color {
    let one = |from: u8, to: u8| (f64::from(from) + (f64::from(to) - f64::from(from)) * share).round() as u8;
    (one(from.0, to.0), one(from.1, to.1), one(from.2, to.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn viridis_matches_matplotlib() {
        // Every twelfth of the 256 colors in matplotlib.colormaps['viridis'].colors.
        let theirs = [
            (0, (68, 1, 84)),
            (12, (71, 19, 101)),
            (24, (72, 35, 116)),
            (36, (70, 50, 126)),
            (48, (66, 64, 134)),
            (60, (61, 78, 138)),
            (72, (55, 91, 141)),
            (84, (49, 103, 142)),
            (96, (44, 114, 142)),
            (108, (39, 126, 142)),
            (120, (35, 137, 142)),
            (132, (31, 148, 140)),
            (144, (31, 160, 136)),
            (156, (37, 171, 130)),
            (168, (50, 182, 122)),
            (180, (70, 192, 111)),
            (192, (94, 201, 98)),
            (204, (122, 209, 81)),
            (216, (152, 216, 62)),
            (228, (184, 222, 41)),
            (240, (216, 226, 25)),
            (252, (246, 230, 32)),
        ];
        for (place, theirs) in theirs {
            let ours = viridis(f64::from(place) / 255.0);
            for (a, b) in [(ours.0, theirs.0), (ours.1, theirs.1), (ours.2, theirs.2)] {
                assert!(a.abs_diff(b) <= 6, "{place}: {ours:?}, not {theirs:?}");
            }
        }
    }

    #[test]
    fn values_out_of_range_are_clamped() {
        assert_eq!([f64::NAN, -3.0, f64::NEG_INFINITY].map(viridis), [viridis(0.0); 3]);
        assert_eq!([f64::INFINITY, 7.0].map(viridis), [viridis(1.0); 2]);
        assert_eq!((diverging(-9.0), diverging(0.0), diverging(9.0)), (BLUE, WHITE, WRONG));
    }
}
