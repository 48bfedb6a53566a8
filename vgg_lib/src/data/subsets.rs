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

    /// All images, those of small classes several times, so that every class has as many as the largest one has. A
    /// network that is trained on classes of very different sizes otherwise learns to prefer the large ones. Which images
    /// of a class occur once more than the others depends on `seed`.
    pub fn balanced(&self, seed: u64) -> Dataset {
        let mut of_class = vec![vec![]; self.classes.len()];
        shuffled(self.len(), seed, 0).into_iter().for_each(|i| of_class[self.labels[i]].push(i));
        let largest = of_class.iter().map(Vec::len).max().unwrap_or(0);
        let repeated = of_class.iter().flat_map(|images| images.iter().cycle().take(largest));
        let mut chosen: Vec<usize> = repeated.copied().collect();
        chosen.sort_unstable();
        self.subset(&chosen)
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
