//! How good predictions are, class by class and altogether: the measures of scikit-learn's `classification_report`,
//! `top_k_accuracy_score` and `roc_auc_score`.

use super::Predictions;
use crate::tensor::argmax;
use crate::{Error, Result};

/// How well each class is recognized. [`Predictions::report`] returns it; a notebook shows it as a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// In the order of the names.
    pub classes: Vec<ClassReport>,
}

/// What became of the images of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassReport {
    /// The name of the class.
    pub class: String,
    /// Images of the class that the model recognized.
    pub right: usize,
    /// Images of the class.
    pub images: usize,
    /// Images that the model took for the class, rightly or wrongly.
    pub predicted: usize,
}

/// Precision, recall and F1, as means over the classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measures {
    /// See [`ClassReport::precision`].
    pub precision: f64,
    /// See [`ClassReport::recall`].
    pub recall: f64,
    /// See [`ClassReport::f1`].
    pub f1: f64,
}

/// All three are from 0 to 1, and 0 where there is nothing to divide by.
impl ClassReport {
    /// The share of the class among the images that were taken for it: low if the model says the class too often.
    pub fn precision(&self) -> f64 {
        self.right as f64 / self.predicted.max(1) as f64
    }

    /// The share of the images of the class that were recognized, which is the accuracy within the class.
    pub fn recall(&self) -> f64 {
        self.right as f64 / self.images.max(1) as f64
    }

    /// The harmonic mean of precision and recall, which is near the smaller of the two.
    pub fn f1(&self) -> f64 {
        2.0 * self.right as f64 / (self.images + self.predicted).max(1) as f64
    }
}

impl Report {
    /// The share of all images that were recognized, from 0 to 1; 0 without images.
    pub fn accuracy(&self) -> f64 {
        let right: usize = self.classes.iter().map(|class| class.right).sum();
        right as f64 / self.images().max(1) as f64
    }

    /// The number of images.
    pub fn images(&self) -> usize {
        self.classes.iter().map(|class| class.images).sum()
    }

    /// The means over the classes, each with the same weight: scikit-learn's "macro avg".
    pub fn mean(&self) -> Measures {
        self.measures(|_| 1.0)
    }

    /// The means over the classes, each weighted with its number of images: scikit-learn's "weighted avg".
    pub fn weighted_mean(&self) -> Measures {
        self.measures(|class| class.images as f64)
    }

    fn measures(&self, weight: impl Fn(&ClassReport) -> f64) -> Measures {
        let total = self.classes.iter().map(&weight).sum::<f64>().max(1.0);
        let mean = |of: fn(&ClassReport) -> f64| self.classes.iter().map(|c| weight(c) * of(c)).sum::<f64>() / total;
        Measures {
            precision: mean(ClassReport::precision),
            recall: mean(ClassReport::recall),
            f1: mean(ClassReport::f1),
        }
    }
}

impl Predictions {
    /// How well each class is recognized. `names` has the names of the classes. A row that is all NaN was taken for no
    /// class.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let predictions = Predictions::new(vec![vec![0.9, 0.1], vec![0.8, 0.2], vec![0.3, 0.7]])?;
    /// let report = predictions.report(&[0, 1, 1], &["cat", "dog"])?;
    /// assert_eq!((report.classes[0].precision(), report.classes[0].recall()), (0.5, 1.0));
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one label per image, or a label or a predicted class has no name.
    pub fn report(&self, labels: &[usize], names: &[impl AsRef<str>]) -> Result<Report> {
        let class = |name: &str| ClassReport { class: name.to_string(), right: 0, images: 0, predicted: 0 };
        let mut classes: Vec<ClassReport> = names.iter().map(|name| class(name.as_ref())).collect();
        let unnamed = |i, what, class| {
            Error::Shape(format!(
                "image {i} has {what} {class}, but there are only {} class names; pass one name per class",
                names.len()
            ))
        };
        for (i, (hit, &label)) in self.hits(labels)?.into_iter().zip(labels).enumerate() {
            let class = classes.get_mut(label).ok_or_else(|| unnamed(i, "label", label))?;
            class.right += usize::from(hit);
            class.images += 1;
            if let Some(predicted) = argmax(&self.rows()[i]) {
                classes.get_mut(predicted).ok_or_else(|| unnamed(i, "prediction", predicted))?.predicted += 1;
            }
        }
        Ok(Report { classes })
    }

    /// The share of images whose label is among the `k` most probable classes, from 0 to 1; 0 without images. ImageNet's
    /// "top-5 accuracy" is that of k = 5.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one label per image.
    pub fn top_k_accuracy(&self, labels: &[usize], k: usize) -> Result<f32> {
        self.hits(labels)?;
        let top = self.top(k).into_iter().zip(labels);
        let found = top.filter(|(top, label)| top.iter().any(|(class, _)| class == *label)).count();
        Ok((found as f64 / self.len().max(1) as f64) as f32)
    }

    /// The area under the ROC curve: the probability that an image of a class gets a higher probability for that class
    /// than an image of another class does, averaged over the classes. 0.5 is guessing, 1 perfect. Unlike the accuracy, it
    /// does not depend on how frequent the classes are, nor on where the line between yes and no is drawn.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not one label per image, or a class has no images or all of them;
    /// [`Error::Config`] if a probability is NaN.
    pub fn roc_auc(&self, labels: &[usize]) -> Result<f64> {
        self.hits(labels)?;
        if let Some(i) = self.rows().iter().position(|row| row.iter().any(|p| p.is_nan())) {
            return Err(Error::Config(format!(
                "the probabilities of image {i} are NaN, so it has no rank among the others; check the weights of the model"
            )));
        }
        let classes = self.rows().first().map_or(0, Vec::len);
        let areas = (0..classes).map(|class| self.area(labels, class)).collect::<Result<Vec<f64>>>()?;
        Ok(areas.iter().sum::<f64>() / classes.max(1) as f64)
    }

    /// The area under the ROC curve of one class against all others, by the ranks of the probabilities (Mann & Whitney
    /// 1947).
    fn area(&self, labels: &[usize], class: usize) -> Result<f64> {
        let mut order: Vec<(f32, bool)> =
            self.rows().iter().zip(labels).map(|(row, &label)| (row[class], label == class)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        let positive = order.iter().filter(|(_, positive)| *positive).count();
        let negative = order.len() - positive;
        if positive == 0 || negative == 0 {
            let which = if positive == 0 { "none" } else { "all" };
            return Err(Error::Shape(format!(
                "a ROC curve needs images of class {class} and of others, but {which} of the {} images are of it",
                order.len()
            )));
        }
        // Equal probabilities share the mean of their ranks, which are counted from 1.
        let (mut ranks, mut before) = (0.0, 0);
        for tied in order.chunk_by(|a, b| a.0 == b.0) {
            let rank = before as f64 + (tied.len() + 1) as f64 / 2.0;
            ranks += rank * tied.iter().filter(|(_, positive)| *positive).count() as f64;
            before += tied.len();
        }
        let (positive, negative) = (positive as f64, negative as f64);
        Ok((ranks - positive * (positive + 1.0) / 2.0) / (positive * negative))
    }
}
