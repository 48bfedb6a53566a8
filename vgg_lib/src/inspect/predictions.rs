//! What a model predicts for a dataset: a row of class probabilities per image, and the measures taken from them.
//!
//! The predicted class of a row p is argmaxₖ pₖ, and its certainty maxₖ pₖ. The accuracy is the share of images whose
//! predicted class is their label.

use crate::data::{Dataset, Loader};
use crate::model::{Sequential, Shape};
use crate::tensor::{argmax, images};
use crate::text::thousands;
use crate::{Error, Result};
use dfdx::prelude::*;
use std::collections::BTreeMap;
use std::fmt;

/// The class probabilities of a number of images, one row per image. [`Sequential::predict`] returns them.
///
/// A row that is all NaN, as a model with broken weights gives, has no most probable class: it counts as wrong for
/// every label, its certainty is 0, and [`classes`](Self::classes) reports it as class 0, as NumPy's `argmax` does.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    rows: Vec<Vec<f32>>,
    /// Why the labels of the images stand for other classes of the model, if they do.
    misnumbered: Option<String>,
}

/// How often images of one class were taken for another. [`Predictions::most_confused`] returns the most frequent pairs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    /// What the images show.
    pub actual: String,
    /// What the model took them for.
    pub predicted: String,
    /// How many images.
    pub count: usize,
}

/// "cat taken for dog: 91"
impl fmt::Display for Confusion {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} taken for {}: {}", self.actual, self.predicted, thousands(self.count))
    }
}

impl Sequential {
    /// The class probabilities of each image, whether or not the model ends in a softmax. [`forward`](Self::forward)
    /// gives the outputs of the last layer as they are; without a softmax layer these are logits. For an image file,
    /// [`classify`](Self::classify) does everything.
    ///
    /// # Errors
    /// [`Error::Shape`] if the images do not fit the model; [`Error::Config`] if the model was trained on images that
    /// were normalized in another way.
    ///
    /// ```
    /// use vgg_lib::{data::shapes, prelude::*};
    /// let mut model = Sequential::new((32, 32, 3), Seed(0));
    /// model.push("conv", conv2d(4).relu())?;
    /// model.push("pool", global_avg_pool())?;
    /// model.push("predictions", linear(10))?;
    /// let test = shapes::generate(20, (32, 32), 0);
    /// let predictions = model.predict(&test)?;
    /// println!("accuracy {:.3}", predictions.accuracy(test.labels())?);
    /// assert_eq!((predictions.len(), predictions.probabilities(0).len()), (20, 10));
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    pub fn predict(&self, data: &Dataset) -> Result<Predictions> {
        self.check_normalization("the dataset", data)?;
        let (h, w, c) = data.image_shape();
        let mut rows = vec![];
        for batch in Loader::in_order(data, self.inference_batch(Shape::Map(h, w, c))) {
            let logits = self.logits(images(batch.images, (batch.n, h, w, c))?)?;
            let classes = logits.shape().3;
            let probabilities = logits.softmax::<Axis<3>>().as_vec();
            rows.extend(probabilities.chunks(classes).map(<[f32]>::to_vec));
        }
        Ok(Predictions { rows, misnumbered: self.misnumbered(data) })
    }
}

/// The methods that take labels return [`Error::Name`] if the dataset numbers the model's classes in another way.
impl Predictions {
    /// Predictions from rows of probabilities that were computed elsewhere, one row per image.
    ///
    /// # Errors
    /// [`Error::Shape`] if the rows have different lengths.
    pub fn new(rows: Vec<Vec<f32>>) -> Result<Predictions> {
        let classes = rows.first().map_or(0, Vec::len);
        match rows.iter().position(|row| row.len() != classes) {
            Some(i) => Err(Error::Shape(format!(
                "row {i} has {} probabilities, but row 0 has {classes}; all rows must have the same length",
                rows[i].len()
            ))),
            None => Ok(Predictions { rows, misnumbered: None }),
        }
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All probabilities, one row per image.
    pub fn rows(&self) -> &[Vec<f32>] {
        &self.rows
    }

    /// The probability of each class for image `i`.
    ///
    /// # Panics
    /// Like a slice, if there is no image `i`.
    pub fn probabilities(&self, i: usize) -> &[f32] {
        &self.rows[i]
    }

    /// The most probable class of each image: the first of equally probable ones, 0 for a row that is all NaN.
    pub fn classes(&self) -> Vec<usize> {
        self.rows.iter().map(|row| argmax(row).unwrap_or(0)).collect()
    }

    /// The probability of the most probable class of image `i`; 0 for a row that is all NaN.
    ///
    /// # Panics
    /// Like a slice, if there is no image `i`.
    pub fn certainty(&self, i: usize) -> f32 {
        let row = &self.rows[i];
        argmax(row).map_or(0.0, |class| row[class])
    }

    /// The `k` most probable classes of each image with their probabilities, the most probable first. Of equally
    /// probable classes the one with the lower number comes first. NaN is left out.
    pub fn top(&self, k: usize) -> Vec<Vec<(usize, f32)>> {
        self.rows.iter().map(|row| most_probable(row, k)).collect()
    }

    /// How many images have their label as the most probable class.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one label per image.
    pub fn correct(&self, labels: &[usize]) -> Result<usize> {
        Ok(self.hits(labels)?.into_iter().filter(|&hit| hit).count())
    }

    /// The share of images that have their label as the most probable class, from 0 to 1; 0 without images.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one label per image.
    pub fn accuracy(&self, labels: &[usize]) -> Result<f32> {
        Ok((self.correct(labels)? as f64 / self.len().max(1) as f64) as f32)
    }

    /// The numbers of the up to `n` images that were classified wrongly with the greatest certainty, most certain
    /// first.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one label per image.
    pub fn most_confident_wrong(&self, labels: &[usize], n: usize) -> Result<Vec<usize>> {
        let hits = self.hits(labels)?;
        Ok(self.by_certainty().into_iter().filter(|&i| !hits[i]).take(n).collect())
    }

    /// The numbers of the up to `n` images that were classified correctly with the greatest certainty, most certain
    /// first.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one label per image.
    pub fn most_confident_right(&self, labels: &[usize], n: usize) -> Result<Vec<usize>> {
        let hits = self.hits(labels)?;
        Ok(self.by_certainty().into_iter().filter(|&i| hits[i]).take(n).collect())
    }

    /// The numbers of the up to `n` images with the least certainty, least certain first.
    pub fn least_confident(&self, n: usize) -> Vec<usize> {
        self.by_certainty().into_iter().rev().take(n).collect()
    }

    /// The up to `n` most frequent mistakes, most frequent first: images of which class were taken for which other.
    /// `names` has the names of the classes. A row that is all NaN was taken for nothing, so it is left out.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let predictions = Predictions::new(vec![vec![0.9, 0.1], vec![0.8, 0.2], vec![0.3, 0.7]])?;
    /// let confused = predictions.most_confused(&[0, 1, 1], &["cat", "dog"], 3)?;
    /// assert_eq!(confused[0].to_string(), "dog taken for cat: 1");
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one label per image, or a label or a predicted class has no name.
    pub fn most_confused(&self, labels: &[usize], names: &[impl AsRef<str>], n: usize) -> Result<Vec<Confusion>> {
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let mut counts: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        for (i, (hit, &label)) in self.hits(labels)?.into_iter().zip(labels).enumerate() {
            if let Some(class) = argmax(&self.rows[i]).filter(|_| !hit) {
                *counts.entry((label, class)).or_default() += 1;
            }
        }
        let mut pairs: Vec<_> = counts.into_iter().collect();
        pairs.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let name = |class: usize| {
            names.get(class).map(ToString::to_string).ok_or_else(|| {
                let names = names.len();
                Error::Shape(format!(
                    "there are images of class {class}, but only {names} class names; pass one per class"
                ))
            })
        };
        let confusion =
            |((label, class), count)| Ok(Confusion { actual: name(label)?, predicted: name(class)?, count });
        pairs.into_iter().take(n).map(confusion).collect()
    }

    /// The up to `n` images with the greatest loss, greatest first, each with its number and its loss: the cross-entropy
    /// −ln p of its label. These are the images that the model is most wrong about, and often those with wrong labels. NaN
    /// counts as infinite.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one label per image, or a label is no class.
    pub fn top_losses(&self, labels: &[usize], n: usize) -> Result<Vec<(usize, f32)>> {
        self.hits(labels)?;
        let loss = |(i, &label): (usize, &usize)| match self.rows[i].get(label) {
            Some(p) => Ok((i, -p.ln())),
            None => {
                Err(Error::Shape(format!("image {i} has label {label}, but there are {} classes", self.rows[i].len())))
            }
        };
        let mut losses = labels.iter().enumerate().map(loss).collect::<Result<Vec<_>>>()?;
        let rank = |loss: f32| if loss.is_nan() { f32::INFINITY } else { loss };
        losses.sort_by(|a, b| rank(b.1).total_cmp(&rank(a.1)));
        losses.truncate(n);
        Ok(losses)
    }

    /// The mean of these and other predictions for the same images, for example of the mirrored images: test-time
    /// augmentation.
    ///
    /// # Errors
    /// [`Error::Shape`] if the numbers of images or classes differ.
    pub fn average(&self, other: &Predictions) -> Result<Predictions> {
        let size = |predictions: &Predictions| (predictions.len(), predictions.rows.first().map_or(0, Vec::len));
        if size(self) != size(other) {
            let ((images, classes), (other_images, other_classes)) = (size(self), size(other));
            return Err(Error::Shape(format!(
                "cannot average predictions of {} images and {classes} classes with predictions of {} images and \
                 {other_classes} classes; both must be for the same images and classes",
                thousands(images),
                thousands(other_images)
            )));
        }
        let mean = |(a, b): (&f32, &f32)| 0.5 * (a + b);
        let rows = self.rows.iter().zip(&other.rows).map(|(a, b)| a.iter().zip(b).map(mean).collect());
        let misnumbered = self.misnumbered.clone().or_else(|| other.misnumbered.clone());
        Ok(Predictions { rows: rows.collect(), misnumbered })
    }

    /// For each image whether its label is the most probable class.
    pub(super) fn hits(&self, labels: &[usize]) -> Result<Vec<bool>> {
        if let Some(why) = &self.misnumbered {
            return Err(Error::Name(why.clone()));
        }
        if labels.len() != self.len() {
            return Err(Error::Shape(format!(
                "there are predictions for {} images but {} labels; pass one label per image",
                thousands(self.len()),
                thousands(labels.len())
            )));
        }
        Ok(self.rows.iter().zip(labels).map(|(row, &label)| argmax(row) == Some(label)).collect())
    }

    /// All images, the most certain first; equally certain ones in their order.
    fn by_certainty(&self) -> Vec<usize> {
        let certainty: Vec<f32> = (0..self.len()).map(|i| self.certainty(i)).collect();
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by(|&a, &b| certainty[b].total_cmp(&certainty[a]));
        order
    }
}

/// The `k` most probable classes of a row, the most probable first; of equally probable ones the lower number first.
/// NaN is left out.
pub(crate) fn most_probable(row: &[f32], k: usize) -> Vec<(usize, f32)> {
    let mut order: Vec<usize> = (0..row.len()).filter(|&class| !row[class].is_nan()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    order.into_iter().take(k).map(|class| (class, row[class])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shapes;
    use crate::model::{Seed, conv2d, global_avg_pool, linear, softmax};

    const NAN: f32 = f32::NAN;

    /// Five images of three classes; the fourth has two equally probable classes, the last has no probabilities.
    fn predictions() -> Predictions {
        let rows = [[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.6, 0.3, 0.1], [0.1, 0.45, 0.45], [NAN, NAN, NAN]];
        Predictions::new(rows.map(Vec::from).to_vec()).unwrap()
    }

    const LABELS: [usize; 5] = [0, 2, 2, 1, 0];

    /// The expected values are NumPy's: `p.argmax(1)`, `(p.argmax(1) == labels)[:4]`, `np.argsort(-p, kind="stable")`.
    #[test]
    fn classes_and_top_match_numpy() {
        let predictions = predictions();
        assert_eq!((predictions.len(), predictions.is_empty()), (5, false));
        assert_eq!(predictions.classes(), [0, 1, 0, 1, 0]);
        let top = predictions.top(2);
        let expected: [&[(usize, f32)]; 5] =
            [&[(0, 0.7), (1, 0.2)], &[(1, 0.9), (0, 0.05)], &[(0, 0.6), (1, 0.3)], &[(1, 0.45), (2, 0.45)], &[]];
        assert_eq!(top, expected);
        assert_eq!(predictions.top(9)[0].len(), 3);
        assert_eq!([0, 3, 4].map(|i| predictions.certainty(i)), [0.7, 0.45, 0.0]);
    }

    #[test]
    fn a_row_of_nan_is_wrong_for_every_label() {
        let predictions = predictions();
        assert_eq!(predictions.correct(&LABELS).unwrap(), 2);
        assert_eq!(predictions.accuracy(&LABELS).unwrap(), 0.4);
        assert_eq!(Predictions::new(vec![]).unwrap().accuracy(&[]).unwrap(), 0.0);
    }

    #[test]
    fn images_are_ordered_by_certainty() {
        let predictions = predictions();
        assert_eq!(predictions.most_confident_wrong(&LABELS, 9).unwrap(), [1, 2, 4]);
        assert_eq!(predictions.most_confident_wrong(&LABELS, 1).unwrap(), [1]);
        assert_eq!(predictions.most_confident_right(&LABELS, 9).unwrap(), [0, 3]);
        assert_eq!(predictions.least_confident(2), [4, 3]);
    }

    /// Eight images: two cats taken for dogs, two ships for cats, one dog for a ship, one row of NaN, two right.
    #[test]
    fn the_most_confused_classes_come_first_and_the_right_ones_not_at_all() {
        let of = |class: usize| (0..3).map(|k| if k == class { 0.8 } else { 0.1 }).collect::<Vec<f32>>();
        let (mut rows, predicted) = (vec![], [1, 0, 1, 2, 0, 0, 2]);
        rows.extend(predicted.map(of));
        rows.push(vec![NAN; 3]);
        let labels = [0, 2, 0, 1, 2, 0, 2, 1];
        let predictions = Predictions::new(rows).unwrap();
        let confused = predictions.most_confused(&labels, &["cat", "dog", "ship"], 9).unwrap();
        let texts: Vec<String> = confused.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["cat taken for dog: 2", "ship taken for cat: 2", "dog taken for ship: 1"]);
        assert_eq!(predictions.most_confused(&labels, &["cat", "dog", "ship"], 1).unwrap(), confused[..1]);
        let error = predictions.most_confused(&labels, &["cat", "dog"], 9).unwrap_err().to_string();
        assert!(error.contains("images of class 2, but only 2 class names"), "{error}");
    }

    /// The losses are NumPy's `-np.log(p[range(5), labels])`.
    #[test]
    fn the_greatest_losses_come_first() {
        let losses = predictions().top_losses(&LABELS, 9).unwrap();
        assert_eq!(losses.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [4, 1, 2, 3, 0]);
        assert!(losses[0].1.is_nan());
        for ((_, loss), p) in losses[1..].iter().zip([0.05f64, 0.1, 0.45, 0.7]) {
            let expected = -p.ln() as f32;
            assert!((loss - expected).abs() < 1e-6, "{loss} instead of {expected}");
        }
        assert_eq!(predictions().top_losses(&LABELS, 2).unwrap().len(), 2);
        let error = predictions().top_losses(&[0, 0, 0, 0, 3], 1).unwrap_err().to_string();
        assert!(error.contains("image 4 has label 3, but there are 3 classes"), "{error}");
    }

    #[test]
    fn the_average_is_the_mean_and_chooses_the_classes_of_the_sum() {
        let (a, b) = ([[0.9, 0.1], [0.4, 0.6]], [[0.2, 0.8], [0.7, 0.3]]);
        let new = |rows: [[f32; 2]; 2]| Predictions::new(rows.map(Vec::from).to_vec()).unwrap();
        let average = new(a).average(&new(b)).unwrap();
        for (i, row) in average.rows().iter().enumerate() {
            let sum: Vec<f32> = a[i].iter().zip(&b[i]).map(|(a, b)| a + b).collect();
            assert_eq!(row, &sum.iter().map(|sum| sum / 2.0).collect::<Vec<_>>());
            assert_eq!(argmax(row), argmax(&sum));
        }
        assert_eq!(average.classes(), [0, 0]);
    }

    #[test]
    fn wrong_lengths_are_refused_in_a_sentence() {
        let predictions = predictions();
        let says = |error: Error, text: &str| assert!(error.to_string().contains(text), "{error}");
        says(predictions.accuracy(&[0]).unwrap_err(), "5 images but 1 labels");
        says(predictions.most_confident_wrong(&[], 1).unwrap_err(), "5 images but 0 labels");
        says(predictions.most_confident_right(&[], 1).unwrap_err(), "5 images but 0 labels");
        says(predictions.average(&Predictions::new(vec![]).unwrap()).unwrap_err(), "cannot average");
        says(Predictions::new(vec![vec![0.5], vec![]]).unwrap_err(), "row 1 has 0 probabilities");
    }

    /// With and without a softmax layer at the end, over several batches.
    #[test]
    fn predict_agrees_with_forward_and_evaluate() -> Result<()> {
        let mut model = Sequential::new((32, 32, 3), Seed(3));
        model.push("conv", conv2d(4).relu())?;
        model.push("pool", global_avg_pool())?;
        model.push("predictions", linear(10))?;
        let data = shapes::generate(150, (32, 32), 1);
        let predictions = model.predict(&data)?;
        model.push("softmax", softmax())?;
        assert_eq!(model.predict(&data)?, predictions);
        assert_eq!(predictions.accuracy(data.labels())?, model.evaluate(&data)?.accuracy);
        let mut values = vec![0.0; 32 * 32 * 3];
        data.read(149, &mut values);
        let forward = model.forward(images(values, (1, 32, 32, 3))?)?.as_vec();
        for (a, b) in predictions.probabilities(149).iter().zip(forward) {
            assert!((a - b).abs() < 1e-6, "{a} and {b}");
        }
        Ok(())
    }
}
