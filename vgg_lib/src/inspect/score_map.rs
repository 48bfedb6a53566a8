//! Dense layers at every position of a larger image, as in the VGG paper (Simonyan & Zisserman 2014, arXiv:1409.1556,
//! section 3.2) and in OverFeat (Sermanet et al. 2013, arXiv:1312.6229).

use crate::engine::nhwc;
use crate::model::{Op, Sequential, Shape};
use crate::tensor::{Images, images, values};
use crate::{Error, Result};
use dfdx::prelude::*;

impl Sequential {
    /// What the model says about every part of larger images: its dense layers slide over the map of the convolutions,
    /// as if the first one were a convolution with a kernel of the map's usual size and no padding, and the others of
    /// 1×1. For a VGG, whose five poolings divide the sides by 32, that is an answer every 32 pixels.
    ///
    /// The result has the shape (n, rows, columns, classes): for a VGG for 224×224, (n, 8, 8, classes) from images of
    /// 448×448. Like those of [`forward`](Self::forward), the values are the outputs of the last layer. The mean over rows
    /// and columns is the paper's prediction for the whole image. An answer is not exactly that for a crop of the image: at its
    /// edges, the convolutions see the neighboring pixels, not zeros.
    ///
    /// ```
    /// use vgg_lib::prelude::*;
    /// let model = vgg::cifar_vgg16(Seed(0)); // for images of 32×32
    /// let scores = model.score_map(images(vec![0.5; 96 * 64 * 3], (1, 96, 64, 3))?)?;
    /// assert_eq!(*scores.shape(), (1, 3, 2, 10));
    /// # Ok::<(), vgg_lib::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] if the images are smaller than the model's own size, or the model has no dense layers, or pools the
    /// map to one size before them.
    pub fn score_map(&self, x: Images) -> Result<Images> {
        let (at, (h, w, c)) = self.first_dense()?;
        let (maps, head) = match at.checked_sub(1) {
            None => (x, self.clone()),
            Some(last) => {
                let (features, head) = self.split_after(self.layers()[last].name())?;
                (features.forward(x)?, head)
            }
        };
        let (n, rows, columns, _) = *maps.shape();
        if rows < h || columns < w {
            let (own_h, own_w, _) = self.input_shape();
            return Err(Error::Shape(format!(
                "a score map needs images of at least {own_h}×{own_w}, the size of the model: these give maps of \
                 {rows}×{columns}, and its dense layers take {h}×{w}"
            )));
        }
        let (down, across) = (rows - h + 1, columns - w + 1);
        let windows: Vec<usize> = (0..n)
            .flat_map(|image| {
                (0..down).flat_map(move |row| (0..across).map(move |column| (image * rows + row) * columns + column))
            })
            .collect();
        let maps = values(&maps);
        let mut scores = vec![];
        for part in windows.chunks(head.inference_batch(Shape::Map(h, w, c))) {
            let mut batch = Vec::with_capacity(part.len() * h * w * c);
            for corner in part {
                (0..h).for_each(|row| batch.extend_from_slice(&maps[(corner + row * columns) * c..][..w * c]));
            }
            scores.extend(head.forward(images(batch, (part.len(), h, w, c))?)?.as_vec());
        }
        let classes = nhwc(1, head.output_shape(Shape::Map(h, w, c))?).3;
        images(scores, (n, down, across, classes))
    }

    /// The index of the first layer that makes a vector of a map, and the size of that map for images of the model's
    /// own size.
    fn first_dense(&self) -> Result<(usize, (usize, usize, usize))> {
        let (h, w, c) = self.input_shape();
        let mut shape = Shape::Map(h, w, c);
        for (index, layer) in self.layers().iter().enumerate() {
            let output = layer.output(shape)?;
            match (layer.op(), shape, output) {
                (Op::AdaptiveAvgPool2d { .. } | Op::GlobalAvgPool, ..) => {
                    return Err(Error::Shape(format!(
                        "layer '{}' pools the map to one size, so no dense layer can slide over it; call this before \
                         `accept_any_size`, or use `forward`",
                        layer.name()
                    )));
                }
                (_, Shape::Map(h, w, c), Shape::Flat(_)) => return Ok((index, (h, w, c))),
                _ => shape = output,
            }
        }
        Err(Error::Shape(
            "the model has no dense layers that could slide over a map; `forward` takes larger images".to_string(),
        ))
    }
}
