//! Datasets made from others: parts, other orders, some of the classes, mirror images. All except the mirror images
//! share the pixels of the original.

use std::sync::Arc;

use super::{
    Dataset, shuffled,
    storage::{Storage, Values},
};
use crate::text::{listed, same_name};
use crate::{Error, Result};

impl Dataset {
    /// The first `n` images, or all if there are fewer.
    pub fn take(&self, n: usize) -> Dataset {
        self.split(n).0
    }

    /// The first `n` images (or all if there are fewer) and the rest.
    pub fn split(&self, n: usize) -> (Dataset, Dataset) {
        let indices: Vec<usize> = (0..self.len()).collect();
        let (first, rest) = indices.split_at(n.min(indices.len()));
        (self.subset(first), self.subset(rest))
    }

    /// The same images in a random order that depends on `seed`. Useful before [`split`](Dataset::split) for images
    /// from a folder, which are sorted by class.
    pub fn shuffled(&self, seed: u64) -> Dataset {
        self.subset(&shuffled(self.len(), seed, 0))
    }

    /// A training set and a validation set, which has this share of each class, rounded, and in any case one image of each
    /// class that has two. Which images these are depends on `seed`; their order is kept. (Keras' `validation_split`,
    /// fastai's `valid_pct`, scikit-learn's `stratify`.)
    ///
    /// ```
    /// use vgg_lib::data::shapes;
    /// let (train, valid) = shapes::generate(100, (32, 32), 0).validation_split(0.2, 0)?;
    /// assert_eq!((train.len(), valid.len()), (80, 20)); // two of each class
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Config`] if the share is not between 0 and 1.
    pub fn validation_split(&self, share: f64, seed: u64) -> Result<(Dataset, Dataset)> {
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::Config(format!("a validation share must be between 0 and 1, such as 0.2, not {share}")));
        }
        let mut is_valid = vec![false; self.len()];
        for images in self.of_classes(seed).iter().filter(|images| images.len() > 1) {
            let count = (share * images.len() as f64).round().clamp(1.0, images.len() as f64 - 1.0) as usize;
            images[..count].iter().for_each(|&image| is_valid[image] = true);
        }
        let (valid, train): (Vec<usize>, Vec<usize>) = (0..self.len()).partition(|&image| is_valid[image]);
        Ok((self.subset(&train), self.subset(&valid)))
    }

    /// The numbers of the images of each class, in a random order.
    fn of_classes(&self, seed: u64) -> Vec<Vec<usize>> {
        let mut of_class = vec![vec![]; self.classes.len()];
        shuffled(self.len(), seed, 0).into_iter().for_each(|i| of_class[self.labels[i]].push(i));
        of_class
    }

    /// All images, those of small classes several times, so that every class has as many as the largest one has. A
    /// network that is trained on classes of very different sizes otherwise learns to prefer the large ones. Which images
    /// of a class occur once more than the others depends on `seed`. Split validation images off first: both parts would
    /// have copies of the same images otherwise.
    pub fn balanced(&self, seed: u64) -> Dataset {
        let of_class = self.of_classes(seed);
        let largest = of_class.iter().map(Vec::len).max().unwrap_or(0);
        let repeated = of_class.iter().flat_map(|images| images.iter().cycle().take(largest));
        let mut chosen: Vec<usize> = repeated.copied().collect();
        chosen.sort_unstable();
        self.subset(&chosen)
    }

    /// One weight per class for [`FitConfig::class_weights`](crate::train::FitConfig::class_weights), which makes all
    /// classes count the same: the number of images over the number of classes and the images of this one, as
    /// scikit-learn's "balanced". 1 for a class without images, which is not counted.
    ///
    /// ```
    /// use vgg_lib::data::Dataset;
    /// let classes = vec!["common".to_string(), "rare".to_string()];
    /// let data = Dataset::new(vec![0; 4], (1, 1, 1), vec![0, 0, 0, 1], classes)?;
    /// assert_eq!(data.class_weights(), [2.0 / 3.0, 2.0]);
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    pub fn class_weights(&self) -> Vec<f32> {
        let mut images = vec![0; self.classes.len()];
        self.labels.iter().for_each(|&label| images[label] += 1);
        let classes = images.iter().filter(|&&images| images > 0).count();
        let weight = |images| if images == 0 { 1.0 } else { self.len() as f32 / (classes * images) as f32 };
        images.into_iter().map(weight).collect()
    }

    /// Mirrored copies of the images (left and right exchanged), in the same order. Averaging a model's predictions
    /// for an image and its mirror image is known as test-time augmentation by flipping.
    pub fn mirrored(&self) -> Dataset {
        let (h, w, c) = self.image_shape;
        let storage = if self.storage.is_bytes() {
            let mut bytes = vec![];
            for index in 0..self.len() {
                if let Values::Bytes(image) = self.image_values(index) {
                    bytes.extend(mirror(image, w, c));
                }
            }
            Storage::Bytes(bytes)
        } else {
            let mut image = vec![0.0; h * w * c];
            let mut floats = vec![];
            for index in 0..self.len() {
                self.read(index, &mut image);
                floats.extend(mirror(&image, w, c));
            }
            Storage::Floats(floats)
        };
        Dataset { storage: Arc::new(storage), places: Arc::new((0..self.len()).collect()), ..self.clone() }
    }

    /// The images with these numbers, in this order. A number may occur more than once.
    ///
    /// # Panics
    /// If there is no image of such a number.
    pub fn subset(&self, indices: &[usize]) -> Dataset {
        Dataset {
            places: Arc::new(indices.iter().map(|&i| self.places[i]).collect()),
            labels: Arc::new(indices.iter().map(|&i| self.labels[i]).collect()),
            ..self.clone()
        }
    }

    /// Only the images of these classes. The classes are renumbered in the given order.
    ///
    /// ```
    /// use vgg_lib::data::shapes;
    /// let two = shapes::generate(100, (32, 32), 0).only(&["star", "circle"])?;
    /// assert_eq!((two.len(), two.classes()[0].as_str()), (20, "star"));
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Name`] if there is no such class, or one is named twice.
    pub fn only(&self, classes: &[&str]) -> Result<Dataset> {
        let mut numbers = vec![None; self.classes.len()];
        for (new, name) in classes.iter().enumerate() {
            let Some(old) = self.classes.iter().position(|class| class == name) else {
                let names = listed(&self.classes, ", ");
                return Err(Error::Name(format!("there is no class '{name}'; the classes are {names}")));
            };
            if numbers[old].replace(new).is_some() {
                return Err(Error::Name(format!("the class '{name}' is named twice; name each class once")));
            }
        }
        let kept: Vec<usize> = (0..self.len()).filter(|&i| numbers[self.labels[i]].is_some()).collect();
        Ok(Dataset {
            labels: Arc::new(kept.iter().filter_map(|&i| numbers[self.labels[i]]).collect()),
            classes: Arc::new(classes.iter().map(|name| name.to_string()).collect()),
            ..self.subset(&kept)
        })
    }
}

impl Dataset {
    /// The same images with their labels renumbered by name, so that label k means `classes[k]`: for data that has other
    /// classes than the training data has, or has them in another order.
    ///
    /// ```
    /// use vgg_lib::data::shapes;
    /// let train = shapes::generate(100, (32, 32), 0);
    /// let stars = shapes::generate(100, (32, 32), 1).only(&["star"])?.with_classes(train.classes())?;
    /// assert_eq!(stars.classes(), train.classes());
    /// assert!(stars.labels().iter().all(|&label| train.classes()[label] == "star"));
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Name`] if an image belongs to another class.
    pub fn with_classes(&self, classes: &[String]) -> Result<Dataset> {
        let number = |name: &String| classes.iter().position(|class| same_name(class, name));
        let numbers: Vec<Option<usize>> = self.classes.iter().map(number).collect();
        let label = |&old: &usize| {
            numbers[old].ok_or_else(|| {
                let (name, classes) = (&self.classes[old], listed(classes, ", "));
                Error::Name(format!("there are images of '{name}', which is not one of the classes {classes}"))
            })
        };
        let labels = self.labels.iter().map(label).collect::<Result<Vec<usize>>>()?;
        Ok(Dataset { labels: Arc::new(labels), classes: Arc::new(classes.to_vec()), ..self.clone() })
    }
}

/// Reverses each row of `w` pixels of `c` values.
fn mirror<T: Copy>(image: &[T], w: usize, c: usize) -> impl Iterator<Item = T> {
    image.chunks_exact(w * c).flat_map(move |row| row.chunks_exact(c).rev().flatten().copied())
}
