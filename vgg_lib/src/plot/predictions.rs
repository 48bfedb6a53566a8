//! Images, each beside bars for its most probable classes.

use image::RgbImage;

use super::{
    Figure,
    colors::{BLUE, Color, FAINT_TEXT, GRAY, GRID, RIGHT, TEXT, WRONG},
    font::Style,
    grid::fit,
};
use crate::inspect::most_probable;
use crate::table::Align;

/// More images are not drawn.
const MOST: usize = 150;
const MARGIN: f64 = 16.0;
const WIDTH: f64 = 720.0 - 2.0 * MARGIN;
const IMAGE: f64 = 98.0;
/// From an image to its bars.
const SPACE: f64 = 10.0;
/// From a card (an image and its bars) to the next, to the right and down.
const GAP: (f64, f64) = (14.0, 24.0);
const NAME: Style = Style { size: 10.5, bold: false };
const TRUTH: Style = Style { size: 12.0, bold: true };

/// Each image with its true class and bars for the three most probable classes: green if the model is right, orange-red if
/// it is wrong. Without a truth the bars are blue. `probabilities` has one row per image, such as
/// [`Predictions::rows`](crate::inspect::Predictions::rows); `classes` has the names.
pub fn predictions(
    images: &[RgbImage],
    truth: &[impl AsRef<str>],
    probabilities: &[Vec<f32>],
    classes: &[impl AsRef<str>],
) -> Figure {
    let truth: Vec<&str> = truth.iter().map(AsRef::as_ref).collect();
    let classes: Vec<&str> = classes.iter().map(AsRef::as_ref).collect();
    cards(images, &truth, probabilities, &classes)
}

fn cards(images: &[RgbImage], truth: &[&str], probabilities: &[Vec<f32>], classes: &[&str]) -> Figure {
    if images.is_empty() {
        return Figure::message("no images");
    }
    let shown = images.len().min(MOST);
    let guesses: Vec<Vec<Guess>> =
        (0..shown).map(|i| guesses(probabilities.get(i).map_or(&[], Vec::as_slice), classes)).collect();
    // Three cards per row, two if names are long.
    let longest = guesses.iter().flatten().map(|g| NAME.width(&g.class)).fold(0.0, f64::max);
    let card_width = |columns: f64| (WIDTH + GAP.0) / columns - GAP.0;
    let roomy = longest + NAME.width("  >99 %") > card_width(3.0) - IMAGE - SPACE;
    let per_row = if roomy { 2 } else { 3 };
    let card = card_width(per_row as f64);

    let columns = shown.min(per_row);
    let rows = shown.div_ceil(per_row);
    let note_height = if images.len() > shown { 24.0 } else { 0.0 };
    let width = 2.0 * MARGIN + columns as f64 * (card + GAP.0) - GAP.0;
    let height = 2.0 * MARGIN + rows as f64 * (IMAGE + GAP.1) - GAP.1 + note_height;
    let mut figure = Figure::new(width, height);
    for (i, (image, guesses)) in images.iter().zip(&guesses).enumerate() {
        let x = MARGIN + (i % per_row) as f64 * (card + GAP.0);
        let y = MARGIN + (i / per_row) as f64 * (IMAGE + GAP.1);
        let (size, sharp) = fit(image, IMAGE);
        figure.image(image, (x + (IMAGE - size.0) / 2.0, y), size, sharp);
        let left = x + IMAGE + SPACE;
        bars(&mut figure, (left, y), card - IMAGE - SPACE, truth.get(i).copied(), guesses);
    }
    if images.len() > shown {
        let text = format!("and {} more", images.len() - shown);
        figure.text(&text, (width / 2.0, height - 14.0), Align::Center, Style::plain(12.0), FAINT_TEXT);
    }
    figure
}

struct Guess {
    class: String,
    probability: f64,
}

/// The three most probable classes, the most probable first.
fn guesses(probabilities: &[f32], classes: &[&str]) -> Vec<Guess> {
    let name = |i: usize| classes.get(i).map_or_else(|| format!("class {i}"), ToString::to_string);
    let guess = |(i, p): (usize, f32)| Guess { class: name(i), probability: f64::from(p).clamp(0.0, 1.0) };
    most_probable(probabilities, 3).into_iter().map(guess).collect()
}

fn color(rank: usize, class: &str, truth: Option<&str>) -> Color {
    match truth {
        None if rank == 0 => BLUE,
        Some(truth) if truth == class => RIGHT,
        Some(_) if rank == 0 => WRONG,
        _ => GRAY,
    }
}

/// The truth with a check mark or a cross, then for each guess its name, its percentage and a bar.
fn bars(figure: &mut Figure, (x, y): (f64, f64), width: f64, truth: Option<&str>, guesses: &[Guess]) {
    if let Some(truth) = truth {
        let right = guesses.first().map(|best| best.class == truth);
        let (mark, mark_color) = match right {
            Some(true) => ("✓ ", RIGHT),
            Some(false) => ("✗ ", WRONG),
            None => ("", TEXT),
        };
        let mark_width = TRUTH.width(mark);
        figure.text(mark, (x, y + 11.0), Align::Left, TRUTH, mark_color);
        let name = TRUTH.shorten(truth, width - mark_width);
        figure.text(&name, (x + mark_width, y + 11.0), Align::Left, TRUTH, TEXT);
    }
    for (rank, guess) in guesses.iter().enumerate() {
        let top = y + 20.0 + 27.0 * rank as f64;
        let percent = percent(guess.probability);
        let name = NAME.shorten(&guess.class, width - NAME.width(&percent) - 8.0);
        figure.text(&name, (x, top + 11.0), Align::Left, NAME, if rank == 0 { TEXT } else { FAINT_TEXT });
        figure.text(&percent, (x + width, top + 11.0), Align::Right, NAME, FAINT_TEXT);
        figure.filled_box((x, top + 15.5), (width, 5.0), GRID);
        let length = width * guess.probability;
        if length >= 0.25 {
            figure.filled_box((x, top + 15.5), (length, 5.0), color(rank, &guess.class, truth));
        }
    }
}

/// In whole percent. Only an exact 0 or 1 gives "0 %" or "100 %".
pub(super) fn percent(probability: f64) -> String {
    let percent = 100.0 * probability;
    match percent {
        p if p > 0.0 && p < 0.5 => "<1 %".to_string(),
        p if (99.5..100.0).contains(&p) => ">99 %".to_string(),
        p => format!("{p:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_the_three_most_probable_in_order() {
        let classes = ["cat", "dog", "ship"];
        let names =
            |probabilities: &[f32]| guesses(probabilities, &classes).into_iter().map(|g| g.class).collect::<Vec<_>>();
        assert_eq!(names(&[0.1, 0.2, 0.3, 0.4]), ["class 3", "ship", "dog"]);
        assert_eq!(names(&[0.5, 0.5]), ["cat", "dog"]);
        assert_eq!(names(&[f32::NAN, 0.2, f32::NAN]), ["dog"]);
        assert!(names(&[]).is_empty());
    }

    #[test]
    fn the_truth_is_green_and_a_wrong_first_guess_is_not() {
        assert_eq!(color(0, "cat", Some("cat")), RIGHT);
        assert_eq!(color(0, "dog", Some("cat")), WRONG);
        assert_eq!(color(1, "cat", Some("cat")), RIGHT);
        assert_eq!(color(1, "dog", Some("cat")), GRAY);
        assert_eq!(color(0, "dog", None), BLUE);
    }

    #[test]
    fn percentages_are_never_rounded_to_certainty() {
        assert_eq!(percent(0.931), "93 %");
        assert_eq!(percent(0.9999), ">99 %");
        assert_eq!(percent(0.0001), "<1 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(percent(0.0), "0 %");
    }
}
