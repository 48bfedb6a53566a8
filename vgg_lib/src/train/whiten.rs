//! Turns the first convolution into one that whitens the images (Page 2018, "How to train your ResNet"; Jordan 2024,
//! arXiv:2404.00498).

use crate::data::{Dataset, shuffled};
use crate::model::{Op, Sequential};
use crate::{Error, Result};

impl Sequential {
    /// Computes the filters of the first convolution from the images. The filters are the eigenvectors of the
    /// covariance of the images' k×k patches, largest variance first, each divided by the square root of its
    /// eigenvalue, so that all filters respond equally strongly and independently of each other. Neighboring pixels are
    /// nearly equal; with these filters, a network learns much sooner from the small differences between them. Each
    /// filter is followed by its negative, because a ReLU would drop one half of its values. Any further filters are
    /// not changed.
    ///
    /// Pass the normalized images that `fit` will get. Then call [`freeze`](Self::freeze) on the layer: training gains
    /// nothing from changing these filters, and l2 would shrink them.
    ///
    /// # Errors
    /// [`Error::Name`] if the model has no convolution; [`Error::Shape`] if the dataset is empty or its images have
    /// another number of channels or are smaller than the kernel, or have NaN or infinite values.
    pub fn whiten(&mut self, data: &Dataset) -> Result<()> {
        let Some(layer) = self.layers.iter_mut().find(|layer| matches!(layer.op, Op::Conv2d { .. })) else {
            return Err(Error::Name(
                "the model has no convolution that could whiten the images; push one first".into(),
            ));
        };
        let weight = &mut layer.params_mut()[0];
        let (k, channels, outputs) = (weight.dims[0], weight.dims[2], weight.dims[3]);
        let (h, w, c) = data.image_shape();
        if c != channels || h < k || w < k || data.is_empty() {
            return Err(Error::Shape(format!(
                "the first convolution whitens images of {channels} channels and at least {k}×{k} pixels, not {} of {h}×{w}×{c}",
                data.len()
            )));
        }
        let n = k * k * c;
        let covariance = covariance(data, k);
        if !covariance.iter().all(|value| value.is_finite()) {
            return Err(Error::Shape(
                "the images have NaN or infinite values, so they cannot be whitened; remove these images".to_string(),
            ));
        }
        let (values, vectors) = eigen(covariance, n);
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
        let mut filters = weight.tensor().as_vec();
        let signed = order.iter().flat_map(|&which| [(which, 1.0), (which, -1.0)]);
        for (output, (which, sign)) in signed.enumerate().take(outputs) {
            // Without the constant, a direction of zero variance would be divided by 0.
            let scale = sign / (values[which] + 5e-4).sqrt();
            (0..n).for_each(|i| filters[i * outputs + output] = (scale * vectors[i * n + which]) as f32);
        }
        weight.set(filters);
        Ok(())
    }
}

/// The mean of p·pᵀ over the k×k patches p of up to 5,000 images.
fn covariance(data: &Dataset, k: usize) -> Vec<f64> {
    let (h, w, c) = data.image_shape();
    let n = k * k * c;
    let (mut image, mut patch) = (vec![0.0; h * w * c], Vec::with_capacity(n));
    let (mut sums, mut patches) = (vec![0.0; n * n], 0.0);
    for index in shuffled(data.len(), 0, 0).into_iter().take(5000) {
        data.read(index, &mut image);
        for top in (0..=h - k).step_by(k) {
            for left in (0..=w - k).step_by(k) {
                patch.clear();
                for row in top..top + k {
                    patch.extend(image[(row * w + left) * c..][..k * c].iter().map(|&value| f64::from(value)));
                }
                for (sums, a) in sums.chunks_mut(n).zip(&patch) {
                    sums.iter_mut().zip(&patch).for_each(|(sum, b)| *sum += a * b);
                }
                patches += 1.0;
            }
        }
    }
    sums.iter_mut().for_each(|sum| *sum /= patches);
    sums
}

/// The eigenvalues of a symmetric n×n matrix, and its eigenvectors as columns, by Jacobi rotations.
fn eigen(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let size: f64 = a.iter().map(|v| v * v).sum();
    let mut rotated = true;
    while rotated {
        rotated = false;
        for p in 0..n {
            for q in p + 1..n {
                let significant = a[p * n + q].powi(2) > 1e-26 * size; // false if NaN
                if !significant {
                    continue;
                }
                rotated = true;
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
                let tan = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let cos = 1.0 / (tan * tan + 1.0).sqrt();
                let sin = tan * cos;
                let rotate = |matrix: &mut [f64], i: usize, j: usize| {
                    let (x, y) = (matrix[i], matrix[j]);
                    (matrix[i], matrix[j]) = (cos * x - sin * y, sin * x + cos * y);
                };
                for i in 0..n {
                    rotate(&mut a, i * n + p, i * n + q);
                    rotate(&mut vectors, i * n + p, i * n + q);
                }
                (0..n).for_each(|i| rotate(&mut a, p * n + i, q * n + i));
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), vectors)
}
