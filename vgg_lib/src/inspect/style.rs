//! The losses of style transfer (Gatys, Ecker & Bethge 2016, "Image Style Transfer Using Convolutional Neural Networks"),
//! each times its weight, and with its gradient, for [`Probed::input_gradient`](super::Probed::input_gradient).
//!
//! For a layer with N channels and M positions, F is the matrix of its outputs, M×N.

use crate::kernel::gemm::{Matrix, gemm};
use crate::tensor::{Images, images, some_values};
use crate::{Error, Result};
use dfdx::prelude::*;
use ndarray::Array2;

/// The Gram matrix FᵀF / (M·N): how often each pair of channels answers at the same place, wherever that is. It says
/// what an image is made of, and not what is where: its style. One image, (1, h, w, c), gives a c×c matrix.
///
/// # Errors
/// [`Error::Shape`] if there is not exactly one image.
pub fn gram_matrix(maps: &Images) -> Result<Array2<f32>> {
    let (n, h, w, c) = *maps.shape();
    if n != 1 {
        return Err(Error::Shape(format!("a Gram matrix is that of one image, not of {n}")));
    }
    let values = some_values(maps)?;
    let f = Matrix::new(&values, h * w, c);
    let mut gram = vec![0.0; c * c];
    gemm(&mut gram, f.t(), f, false, true);
    let scale = 1.0 / (h * w * c).max(1) as f32;
    gram.iter_mut().for_each(|g| *g *= scale);
    Ok(Array2::from_shape_vec((c, c), gram).expect("c × c"))
}

/// `weight` · Σ (G − A)², where G is the Gram matrix of the maps and A that of the style image; and its gradient with
/// respect to the maps, `weight` · 4 F (G − A) / (M·N).
///
/// # Errors
/// [`Error::Shape`] if there is not exactly one image, or A belongs to a layer with other channels.
pub fn style_loss(maps: &Images, style: &Array2<f32>, weight: f32) -> Result<(f32, Images)> {
    let gram = gram_matrix(maps)?;
    let (wanted, columns) = style.dim();
    if wanted != columns {
        let text = format!("a Gram matrix is square, but that of the style is {wanted}×{columns}; use `gram_matrix`");
        return Err(Error::Shape(text));
    }
    if gram.dim() != style.dim() {
        let found = gram.nrows();
        return Err(Error::Shape(format!(
            "the maps have {found} channels, but the Gram matrix of the style is that of {wanted}; take both from the \
             same layer"
        )));
    }
    let difference = gram - style;
    let loss = difference.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>();
    let (_, h, w, c) = *maps.shape();
    let (values, difference) = (maps.as_vec(), difference.into_raw_vec_and_offset().0);
    let mut gradient = vec![0.0; h * w * c];
    gemm(&mut gradient, Matrix::new(&values, h * w, c), Matrix::new(&difference, c, c), false, true);
    let scale = 4.0 * weight / (h * w * c).max(1) as f32;
    gradient.iter_mut().for_each(|g| *g *= scale);
    Ok((weight * loss as f32, images(gradient, (1, h, w, c))?))
}

/// `weight` times the mean of (F − P)², where P has the maps of the content image; and its gradient with respect to F.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ.
pub fn content_loss(maps: &Images, content: &Images, weight: f32) -> Result<(f32, Images)> {
    if maps.shape() != content.shape() {
        return Err(Error::Shape(format!(
            "the maps are {:?}, but those of the content are {:?}; take both from the same layer, for images of one size",
            maps.shape(),
            content.shape()
        )));
    }
    let difference: Vec<f32> = some_values(maps)?.iter().zip(content.as_vec()).map(|(f, p)| f - p).collect();
    let scale = f64::from(weight) / difference.len().max(1) as f64;
    let loss = difference.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>() * scale;
    let gradient = difference.iter().map(|d| (2.0 * f64::from(*d) * scale) as f32).collect();
    Ok((loss as f32, images(gradient, *maps.shape())?))
}

/// `weight` times the mean squared difference between neighboring pixels, across and down, which is large for noise; and
/// its gradient with respect to the image.
///
/// # Errors
/// [`Error::Device`] if dfdx cannot allocate.
pub fn total_variation(image: &Images, weight: f32) -> Result<(f32, Images)> {
    let (n, h, w, c) = *image.shape();
    let values = some_values(image)?;
    let mut gradient = vec![0.0; values.len()];
    let (mut sum, scale) = (0.0, weight / values.len().max(1) as f32);
    let mut pair = |i: usize, j: usize| {
        let difference = values[i] - values[j];
        sum += f64::from(difference).powi(2);
        gradient[i] += 2.0 * scale * difference;
        gradient[j] -= 2.0 * scale * difference;
    };
    for i in 0..n * h * w * c {
        let (x, y) = (i / c % w, i / (c * w) % h);
        if x + 1 < w {
            pair(i, i + c);
        }
        if y + 1 < h {
            pair(i, i + w * c);
        }
    }
    Ok(((sum * f64::from(scale)) as f32, images(gradient, (n, h, w, c))?))
}
