//! Curves over epochs and other numbers: the training history, the learning rate, anything with an x and a y.

use std::borrow::Borrow;

use super::{
    Figure,
    chart::{Best, ChartSize, Curve, HALF, LABEL, Marks, Titles, WHOLE, draw, usable},
    colors::FAINT_TEXT,
};
use crate::optim::Schedule;
use crate::table::Align;
use crate::text::{duration, rounded};
use crate::train::{EpochRecord, History, RateTest};

/// Training and validation accuracy over the epochs; the best epoch has a dot.
pub fn accuracy(history: &History) -> Figure {
    accuracy_of(history, WHOLE)
}

/// Training and validation loss over the epochs; the lowest validation loss has a dot.
pub fn loss(history: &History) -> Figure {
    loss_of(history, WHOLE)
}

/// A training run at a glance: accuracy and loss side by side, with the time it took and the best accuracy below.
pub fn training(history: &History) -> Figure {
    let (accuracy, loss) = (accuracy_of(history, HALF), loss_of(history, HALF));
    let height = f64::from(accuracy.size().1);
    let mut figure = Figure::new(2.0 * HALF.width, height + 30.0);
    figure.place(accuracy, (0.0, 0.0));
    figure.place(loss, (HALF.width, 0.0));
    figure.text(&caption(history), (HALF.width, height + 12.0), Align::Center, LABEL, FAINT_TEXT);
    figure
}

/// "3 epochs  ·  12 min 3 s  ·  1,220 images/s  ·  best validation accuracy 0.912 (epoch 3)".
fn caption(history: &History) -> String {
    let epochs = &history.epochs;
    let sum = |of: fn(&EpochRecord) -> f64| epochs.iter().map(of).sum::<f64>();
    let count = match epochs.len() {
        0 => return "no epoch has ended yet".to_string(),
        1 => "1 epoch".to_string(),
        n => format!("{n} epochs"),
    };
    let rate = rounded(sum(|r| r.images_per_second) / epochs.len() as f64);
    let best = history.best().map_or(String::new(), |r| match r.val_acc {
        Some(acc) if !acc.is_nan() => format!("  ·  best validation accuracy {acc:.3} (epoch {})", r.epoch),
        _ => format!("  ·  best training accuracy {:.3} (epoch {})", r.acc, r.epoch),
    });
    format!("{count}  ·  {}  ·  {rate} images/s{best}", duration(sum(|r| r.seconds)))
}

fn accuracy_of(history: &History, size: ChartSize) -> Figure {
    let best = history.best().map(|r| (r.epoch as f64, f64::from(r.val_acc.filter(|a| !a.is_nan()).unwrap_or(r.acc))));
    let curves = train_and_validation(history, |r| r.acc, |r| r.val_acc);
    let titles = Titles { title: "model accuracy", x: "epoch", y: "accuracy" };
    draw(titles, &curves, best.map(|at| Best { at, below: true }), Marks::Lines, size)
}

fn loss_of(history: &History, size: ChartSize) -> Figure {
    let curves = train_and_validation(history, |r| r.loss, |r| r.val_loss);
    let lowest =
        |points: &[(f64, f64)]| points.iter().copied().filter(usable).reduce(|a, b| if b.1 < a.1 { b } else { a });
    let best = curves.iter().rev().find_map(|(_, points)| lowest(points));
    let titles = Titles { title: "model loss", x: "epoch", y: "loss" };
    draw(titles, &curves, best.map(|at| Best { at, below: false }), Marks::Lines, size)
}

/// Named curves through points (x, y), for anything else: a learning-rate schedule, two training runs side by side.
/// Points that are not finite are left out and interrupt the curve.
///
/// ```
/// let rates = (1..=60).map(|epoch| (epoch as f64, 0.1 * 0.5_f64.powi((epoch - 1) / 20))).collect();
/// let figure = vgg_lib::plot::lines("learning rate", "epoch", "rate", &[("schedule", rates)]);
/// ```
pub fn lines(title: &str, x_label: &str, y_label: &str, curves: &[(impl AsRef<str>, Vec<(f64, f64)>)]) -> Figure {
    draw(Titles { title, x: x_label, y: y_label }, &named(curves), None, Marks::Lines, WHOLE)
}

/// Like [`lines`], for curves in pairs: every second curve has the color of the one before and is dashed.
///
/// ```
/// let run = |rate: f64| (0..50).map(|step| (step as f64, (-rate * step as f64).exp())).collect();
/// let curves = [("slow", run(0.01)), ("slow, again", run(0.011)), ("fast", run(0.1)), ("fast, again", run(0.11))];
/// let figure = vgg_lib::plot::paired_lines("two training runs, twice", "step", "loss", &curves);
/// ```
pub fn paired_lines(
    title: &str,
    x_label: &str,
    y_label: &str,
    curves: &[(impl AsRef<str>, Vec<(f64, f64)>)],
) -> Figure {
    draw(Titles { title, x: x_label, y: y_label }, &named(curves), None, Marks::Pairs, WHOLE)
}

/// The curves under plain names.
pub(super) fn named(curves: &[(impl AsRef<str>, Vec<(f64, f64)>)]) -> Vec<Curve<'_>> {
    curves.iter().map(|(name, points)| (name.as_ref(), points.clone())).collect()
}

/// The learning rate over a training run of `epochs` epochs.
///
/// ```
/// use vgg_lib::{optim::Schedule, plot};
/// let figure = plot::schedule(&Schedule::Halving { rate: 0.1, every: 20 }, 250);
/// ```
pub fn schedule(schedule: &Schedule, epochs: usize) -> Figure {
    // So many steps that two neighbors are less than a pixel apart, and an odd number, so that none lies on a corner.
    let steps = (1500 / epochs.max(1)).max(1) | 1;
    let shown = epochs.min(100_000);
    let rate = |i: usize| ((i as f64) / steps as f64, schedule.rate(i / steps, epochs, i % steps, steps));
    let mut rates: Vec<(f64, f64)> = (0..shown * steps).map(rate).collect();
    rates.extend(rates.last().map(|&(_, last)| (shown as f64, last)));
    let titles = Titles { title: "learning rate", x: "epoch", y: "rate" };
    draw(titles, &[("", rates)], None, Marks::Lines, WHOLE)
}

/// The loss of a learning-rate test over the rate, averaged over nine steps, on a logarithmic axis, with the suggested
/// rate.
///
/// ```
/// use vgg_lib::{plot, train::RateTest};
/// let rates: Vec<f64> = (0..20).map(|step| 1e-4 * 1.5f64.powi(step)).collect();
/// let figure = plot::lr_find(&RateTest { losses: rates.iter().map(|rate| (-rate).exp()).collect(), rates });
/// ```
pub fn lr_find(test: &RateTest) -> Figure {
    let points: Vec<_> = test.points().into_iter().map(|(rate, loss)| (rate.log10(), loss)).collect();
    let (low, high) = points.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), p| (a.min(p.1), b.max(p.1)));
    let suggestion = test.suggestion();
    let name = suggestion.map_or(String::new(), |rate| format!("steepest at {rate:.1e}"));
    let mut curves = vec![("loss", points)];
    curves.extend(suggestion.map(|rate| (name.as_str(), vec![(rate.log10(), low), (rate.log10(), high)])));
    let titles = Titles { title: "learning-rate test", x: "log₁₀ of the learning rate", y: "loss" };
    draw(titles, &curves, None, Marks::Lines, WHOLE)
}

/// The accuracy of several training runs: each has a color, solid for the training images and dashed for the validation
/// images.
///
/// ```
/// use vgg_lib::{plot, train::History};
/// let (short, long) = (History::default(), History::default());
/// let figure = plot::compare(&[("short", &short), ("long", &long)]);
/// ```
pub fn compare(runs: &[(impl AsRef<str>, impl Borrow<History>)]) -> Figure {
    let runs: Vec<(&str, &History)> = runs.iter().map(|(name, history)| (name.as_ref(), history.borrow())).collect();
    compare_named(&runs)
}

fn compare_named(runs: &[(&str, &History)]) -> Figure {
    let names = runs.iter().map(|(name, _)| [format!("{name}, training"), format!("{name}, validation")]);
    let names: Vec<[String; 2]> = names.collect();
    let mut curves: Vec<Curve> = vec![];
    for ((_, history), [training, validation]) in runs.iter().zip(&names) {
        let mut of_run = train_and_validation(history, |r| r.acc, |r| r.val_acc).into_iter().map(|(_, points)| points);
        curves.push((training, of_run.next().unwrap_or_default()));
        // Without validation, an empty curve keeps the pairs together; it has no name in the legend.
        let points = of_run.next().unwrap_or_default();
        curves.push((if points.is_empty() { "" } else { validation }, points));
    }
    draw(Titles { title: "accuracy", x: "epoch", y: "accuracy" }, &curves, None, Marks::Pairs, WHOLE)
}

fn train_and_validation(
    history: &History,
    train: fn(&EpochRecord) -> f32,
    validation: fn(&EpochRecord) -> Option<f32>,
) -> Vec<Curve<'static>> {
    let point = |r: &EpochRecord, y: f32| (r.epoch as f64, f64::from(y));
    let train = history.epochs.iter().map(|r| point(r, train(r))).collect();
    let validation: Vec<_> = history.epochs.iter().filter_map(|r| validation(r).map(|y| point(r, y))).collect();
    let mut curves = vec![("train", train)];
    if !validation.is_empty() {
        curves.push(("validation", validation));
    }
    curves
}
