//! The two conventions for the input of ImageNet networks, under Keras' names for them, and the conversion of a model's
//! first convolution from one to the other.

use crate::data::normalize::{IMAGENET_MEAN, IMAGENET_STD};
use crate::model::{Op, Sequential};
use crate::{Error, Result};

/// How the pixels of an image become the input values of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pixels {
    /// Blue, green, red, each 0 to 255 minus its mean (103.939, 116.779, 123.68): for the original weights and Keras'.
    Caffe,
    /// Red, green, blue: (v/255 − mean) / std, with means (0.485, 0.456, 0.406) and stds (0.229, 0.224, 0.225):
    /// for the weights of torchvision and timm.
    Torch,
}

/// The value of a channel is (pixel − mean) / std. Means and stds are in the order red, green, blue, also where the
/// channels are not.
#[derive(Clone, Copy)]
struct Convention {
    reversed: bool,
    mean: [f64; 3],
    std: [f64; 3],
}

impl Convention {
    /// The color of a channel: 0 for red, 1 for green, 2 for blue.
    fn color(self, channel: usize) -> usize {
        if self.reversed { 2 - channel } else { channel }
    }
}

impl Pixels {
    fn convention(self) -> Convention {
        match self {
            Pixels::Caffe => Convention { reversed: true, mean: [123.68, 116.779, 103.939], std: [1.0; 3] },
            Pixels::Torch => Convention {
                reversed: false,
                mean: IMAGENET_MEAN.map(|v| v * 255.0),
                std: IMAGENET_STD.map(|v| v * 255.0),
            },
        }
    }

    /// The three input values for a pixel of red, green and blue, each 0 to 255.
    pub fn values(self, rgb: [u8; 3]) -> [f32; 3] {
        let convention = self.convention();
        std::array::from_fn(|channel| {
            let color = convention.color(channel);
            ((f64::from(rgb[color]) - convention.mean[color]) / convention.std[color]) as f32
        })
    }

    /// Rewrites the model's first convolution, which expects pixels as in `self`, to expect them as in `to`: channels
    /// are swapped, the kernel absorbs the scale, and the bias absorbs the difference of the means.
    ///
    /// The model computes the same function up to rounding, except at the border of the image: the padding is zeros,
    /// which stand for the mean color, and the means of the two conventions differ by up to half a step of 255.
    ///
    /// # Errors
    /// [`Error::Shape`] if the model does not begin with a convolution of three channels.
    pub fn convert(self, model: &mut Sequential, to: Pixels) -> Result<()> {
        convert(model, self.convention(), to.convention())
    }
}

fn convert(model: &mut Sequential, from: Convention, to: Convention) -> Result<()> {
    let first = model.layers.iter_mut().find(|layer| !layer.params().is_empty());
    let Some(layer) = first.filter(|l| matches!(l.op, Op::Conv2d { .. }) && l.params()[0].dims[2] == 3) else {
        let what = "cannot convert the pixels of this model; its first layer with weights must be a convolution of three channels";
        return Err(Error::Shape(what.into()));
    };
    let [weight, bias] = layer.params_mut() else { unreachable!("a convolution has a kernel and a bias") };
    let old = weight.tensor().as_vec();
    let mut new = vec![0.0; old.len()];
    let outputs = weight.dims[3];
    let mut shift = vec![0.0; outputs];
    for position in 0..old.len() / (3 * outputs) {
        for channel in 0..3 {
            // pixel = std · value + mean, so the values of one convention are those of the other, scaled and shifted.
            let color = to.color(channel);
            let scale = to.std[color] / from.std[color];
            let difference = (to.mean[color] - from.mean[color]) / from.std[color];
            let source = (0..3).find(|&c| from.color(c) == color).expect("three colors");
            for out in 0..outputs {
                let value = f64::from(old[(position * 3 + source) * outputs + out]);
                new[(position * 3 + channel) * outputs + out] = (value * scale) as f32;
                shift[out] += value * difference;
            }
        }
    }
    weight.set(new);
    let moved = bias.tensor().as_vec().iter().zip(shift).map(|(b, shift)| (f64::from(*b) + shift) as f32).collect();
    bias.set(moved);
    Ok(())
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;
    use crate::model::{Seed, conv2d, dropout};
    use crate::tensor::images;

    const SIZE: usize = 12;

    /// The output of `model` for an image whose pixels follow this convention.
    fn output(model: &Sequential, convention: Convention) -> Vec<f32> {
        let bytes: Vec<f64> = (0..SIZE * SIZE * 3).map(|i| (i * 7919 % 256) as f64).collect();
        let values = bytes.chunks(3).flat_map(|rgb| {
            (0..3).map(|channel| {
                let color = convention.color(channel);
                ((rgb[color] - convention.mean[color]) / convention.std[color]) as f32
            })
        });
        model.forward(images(values.collect(), (1, SIZE, SIZE, 3)).unwrap()).unwrap().as_vec()
    }

    fn model() -> Sequential {
        let mut model = Sequential::new((SIZE, SIZE, 3), Seed(4));
        model.push("dropout", dropout(0.5)).unwrap();
        model.push("conv", conv2d(5)).unwrap();
        model
    }

    /// The largest differences that the conversion makes, relative to the largest value: inside the image and at its
    /// border.
    fn differences(from: Convention, to: Convention) -> [f32; 2] {
        let mut model = model();
        let want = output(&model, from);
        convert(&mut model, from, to).unwrap();
        let got = output(&model, to);
        let largest = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let mut worst = [0.0f32; 2];
        for (i, (a, b)) in got.iter().zip(&want).enumerate() {
            let (row, column) = (i / 5 / SIZE, i / 5 % SIZE);
            let inside = [row, column].iter().all(|&at| at > 0 && at + 1 < SIZE);
            worst[usize::from(!inside)] = worst[usize::from(!inside)].max((a - b).abs() / largest);
        }
        worst
    }

    #[test]
    fn conversion_changes_only_the_border() {
        let (caffe, torch) = (Pixels::Caffe.convention(), Pixels::Torch.convention());
        for (from, to) in [(caffe, torch), (torch, caffe)] {
            let [inside, border] = differences(from, to);
            assert!(inside < 1e-5, "{inside}");
            assert!(border > 1e-5 && border < 1e-2, "{border}");
            let [inside, border] = differences(from, Convention { mean: from.mean, ..to });
            assert!(inside < 1e-5 && border < 1e-5, "equal means: {inside}, {border}");
        }
    }

    #[test]
    fn converting_back_restores_the_model() {
        let mut converted = model();
        Pixels::Caffe.convert(&mut converted, Pixels::Torch).unwrap();
        Pixels::Torch.convert(&mut converted, Pixels::Caffe).unwrap();
        for (name, values) in model().state_dict() {
            let back = &converted.state_dict()[&name];
            assert!(values.iter().zip(back).all(|(a, b)| (a - b).abs() < 1e-5), "{name}");
        }
    }

    #[test]
    fn values_match_the_published_means_and_stds() {
        assert_eq!(Pixels::Caffe.values([255, 0, 10]), [10.0 - 103.939, -116.779, 255.0 - 123.68]);
        let torch = Pixels::Torch.values([255, 0, 51]);
        for (value, want) in torch.iter().zip([(1.0 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]) {
            assert!((value - want).abs() < 1e-6, "{value} {want}");
        }
    }

    #[test]
    fn a_model_for_gray_images_is_refused() {
        let mut gray = Sequential::new((8, 8, 1), Seed(0));
        gray.push("conv", conv2d(2)).unwrap();
        let error = Pixels::Caffe.convert(&mut gray, Pixels::Torch).unwrap_err().to_string();
        assert!(error.contains("three channels"), "{error}");
    }
}
