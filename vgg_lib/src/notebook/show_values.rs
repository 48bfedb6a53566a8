//! How numbers look in a notebook: tensors with their shape, range and mean and a few values, long lists with their
//! first items.

use std::collections::BTreeMap;
use std::fmt::Debug;

use dfdx::prelude::*;
use ndarray::ArrayD;

use super::show::{Show, Shown};
use crate::tensor::{Flat, Images, values};
use crate::text::{counted, significant, thousands};

/// So many items of a list are shown, all of them if there are few more.
const FIRST: usize = 10;
const FEW: usize = 20;

/// "from 0 to 1, mean 0.5: 0, 0.25, 0.5, …" of these values.
pub(super) fn described(values: &[f32]) -> String {
    let finite = || values.iter().copied().filter(|value| value.is_finite());
    let (count, others) = (finite().count(), values.len() - finite().count());
    let mut text = match count {
        0 => "no finite value".to_string(),
        _ => {
            let low = finite().fold(f32::INFINITY, f32::min);
            let high = finite().fold(f32::NEG_INFINITY, f32::max);
            let mean = finite().map(f64::from).sum::<f64>() / count as f64;
            format!("from {} to {}, mean {}", number(low), number(high), significant(mean))
        }
    };
    if others > 0 && count > 0 {
        text += &format!(", {} NaN or infinite", thousands(others));
    }
    if !values.is_empty() {
        text += &format!(": {}", items(values, |value| number(*value)));
    }
    text
}

fn number(value: f32) -> String {
    significant(f64::from(value) + 0.0) // −0 + 0 is 0
}

/// The first items, or all if there are few, between commas.
fn items<T>(all: &[T], text: impl Fn(&T) -> String) -> String {
    let shown = if all.len() <= FEW { all.len() } else { FIRST };
    let mut shown: Vec<String> = all[..shown].iter().map(text).collect();
    if all.len() > FEW {
        shown.push("…".to_string());
    }
    shown.join(", ")
}

impl Show for Images {
    fn shown(&self) -> Shown {
        Shown::text(&format!("{:?}, {}", self.shape(), described(&values(self))))
    }
}

impl Show for Flat {
    fn shown(&self) -> Shown {
        Shown::text(&format!("{}, {}", counted(self.shape().0, "value", "values"), described(&self.as_vec())))
    }
}

/// Several outputs, such as those of [`activations`](crate::model::Sequential::activations).
impl Show for [Images] {
    fn shown(&self) -> Shown {
        let line = |x: &Images| format!("{:?}, {}", x.shape(), described(&values(x)));
        Shown::text(&self.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

/// The names and shapes of a [`StateDict`](crate::formats::StateDict).
impl Show for BTreeMap<String, ArrayD<f32>> {
    fn shown(&self) -> Shown {
        let line = |(name, array): (&String, &ArrayD<f32>)| format!("{name} {:?}", array.shape());
        Shown::text(&self.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

/// Lists: as `{:?}` if they are short.
macro_rules! lists {
    ($($type:ty),*) => {$(
        impl Show for [$type] {
            fn shown(&self) -> Shown {
                if self.len() <= FEW {
                    return Shown::debug(&self);
                }
                let shown = items(self, |item| format!("{item:?}"));
                Shown::text(&format!("{}: [{shown}]", counted(self.len(), "item", "items")))
            }
        }
    )*};
}

lists!(bool, u8, u64, usize, i32, i64, f32, f64, String, &str, (usize, f32));

impl Show for [Vec<f32>] {
    fn shown(&self) -> Shown {
        let shown = if self.len() <= FEW { self.len() } else { FIRST };
        let mut lines: Vec<String> =
            self[..shown].iter().map(|row| format!("[{}]", items(row, |v| number(*v)))).collect();
        if shown < self.len() {
            lines.push(format!("… {} in all", counted(self.len(), "row", "rows")));
        }
        Shown::text(&lines.join("\n"))
    }
}

/// What evcxr would print too, but after it has compiled the cell a second time.
macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Show for $type {
            fn shown(&self) -> Shown {
                Shown::debug(&self)
            }
        }
    )*};
}

plain!(bool, char, u8, u32, u64, usize, i32, i64, f32, f64, str, String);

macro_rules! tuples {
    ($(($($name:ident),+)),*) => {$(
        impl<$($name: Debug),+> Show for ($($name,)+) {
            fn shown(&self) -> Shown {
                Shown::debug(self)
            }
        }
    )*};
}

tuples!((A, B), (A, B, C), (A, B, C, D));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::images;

    fn text(value: &(impl Show + ?Sized)) -> String {
        let shown = value.shown();
        let plain = shown.contents.iter().find(|(mime, _)| *mime == "text/plain");
        plain.expect("text").1.clone()
    }

    #[test]
    fn a_tensor_shows_its_shape_range_mean_and_first_values() {
        let values: Vec<f32> = (0..48).map(|v| v as f32).collect();
        let x = images(values.clone(), (1, 4, 4, 3)).unwrap();
        assert_eq!(text(&x), "(1, 4, 4, 3), from 0 to 47, mean 23.5: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …");
        assert_eq!(text([x.clone(), x].as_slice()).lines().count(), 2);
        let x = images(vec![f32::NAN, 1.0, f32::INFINITY], (1, 1, 1, 3)).unwrap();
        assert_eq!(text(&x), "(1, 1, 1, 3), from 1 to 1, mean 1, 2 NaN or infinite: NaN, 1, inf");
        assert_eq!(text(&images(vec![], (0, 4, 4, 3)).unwrap()), "(0, 4, 4, 3), no finite value");
        let x = images(vec![f32::NAN], (1, 1, 1, 1)).unwrap();
        assert_eq!(text(&x), "(1, 1, 1, 1), no finite value: NaN");
    }

    #[test]
    fn long_lists_are_cut_and_short_ones_are_not() {
        let labels: Vec<usize> = (0..50_000).collect();
        assert_eq!(text(labels.as_slice()), "50,000 items: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …]");
        assert_eq!(text([3usize, 1].as_slice()), "[3, 1]");
        assert_eq!(text(["cat".to_string()].as_slice()), "[\"cat\"]");
        let rows = text(vec![vec![0.5f32; 30]; 21].as_slice());
        assert_eq!((rows.lines().count(), rows.lines().last().unwrap()), (11, "… 21 rows in all"));
        assert!(rows.starts_with("[0.5, 0.5, 0.5,") && rows.contains(", …]"), "{rows}");
    }

    #[test]
    fn numbers_texts_and_tuples_are_shown_as_evcxr_does() {
        assert_eq!((text(&0.5f32), text("a"), text(&(1, 2.0))), ("0.5".into(), "\"a\"".into(), "(1, 2.0)".into()));
    }
}
