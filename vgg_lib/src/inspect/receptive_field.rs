//! How large a map a window leaves, and how much of the image each layer's outputs see.
//!
//! A window of k pixels at stride s on an input of receptive field r whose neighbors are j pixels of the image
//! apart sees r + (k − 1)·j pixels, and its outputs are j·s apart (Araujo, Norris & Sim 2019,
//! distill.pub/2019/computing-receptive-fields).

use crate::model::{Op, Sequential, Shape};
use crate::text::escape;
use crate::{Error, Result};
use std::fmt;

/// Outputs along one side of a convolution or pooling: O = ⌊(W − K + 2P) / S⌋ + 1 for an `input` of W pixels, a
/// `kernel` of K, `padding` of P pixels at each end and a `stride` of S.
///
/// # Errors
/// [`Error::Config`] if kernel or stride is 0 or the kernel is larger than the padded input.
///
/// ```
/// use vgg_lib::prelude::*;
/// assert_eq!(output_size(224, 3, 1, 1)?, 224); // VGG's convolutions
/// assert_eq!(output_size(227, 2, 0, 2)?, 113); // VGG's poolings
/// # Ok::<(), vgg_lib::Error>(())
/// ```
pub fn output_size(input: usize, kernel: usize, padding: usize, stride: usize) -> Result<usize> {
    if kernel == 0 || stride == 0 {
        return Err(Error::Config(format!("kernel and stride must be at least 1, not {kernel} and {stride}")));
    }
    let padded = input.saturating_add(padding.saturating_mul(2));
    match padded.checked_sub(kernel) {
        Some(room) => Ok(room / stride + 1),
        None => Err(Error::Config(format!(
            "a kernel of {kernel} does not fit an input of {input} with padding {padding}; \
             use a larger input, a smaller kernel or more padding"
        ))),
    }
}

/// One layer of [`ReceptiveFields`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceptiveField {
    /// The layer's name.
    pub name: String,
    /// What it gives for one image.
    pub output: Shape,
    /// Side of the square of image pixels that one output depends on, and the distance in the image between two
    /// neighboring outputs. `None` after a layer that sees the whole image, as a dense one.
    pub field_and_jump: Option<(usize, usize)>,
}

/// What each layer sees. Shows itself as a table: HTML in evcxr, text elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceptiveFields {
    /// One a layer.
    pub rows: Vec<ReceptiveField>,
}

impl Sequential {
    /// The receptive field of each layer for an image of `(height, width, channels)`, by theory: in a small image it
    /// may be larger than the image, and what lies outside is padding. The middle of the field counts for much more
    /// than its edge.
    ///
    /// # Errors
    /// [`Error::Shape`] if the image does not fit the model.
    pub fn receptive_fields(&self, (h, w, c): (usize, usize, usize)) -> Result<ReceptiveFields> {
        let mut shape = Shape::Map(h, w, c);
        let mut field_and_jump = Some((1, 1));
        let mut rows = vec![];
        for layer in self.layers() {
            shape = layer.output(shape)?;
            field_and_jump = field_and_jump.and_then(|(field, jump)| match layer.op() {
                Op::Conv2d { kernel, .. } => Some((field + (kernel - 1) * jump, jump)),
                Op::MaxPool2d => Some((field + jump, 2 * jump)),
                Op::GlobalAvgPool | Op::Flatten | Op::Linear { .. } => None,
                _ => Some((field, jump)),
            });
            rows.push(ReceptiveField { name: layer.name().to_string(), output: shape, field_and_jump });
        }
        Ok(ReceptiveFields { rows })
    }
}

impl ReceptiveField {
    /// Size and jump in words.
    fn cells(&self) -> [String; 2] {
        match self.field_and_jump {
            Some((field, jump)) => [format!("{field}×{field}"), jump.to_string()],
            None => ["all".to_string(), "–".to_string()],
        }
    }
}

impl fmt::Display for ReceptiveFields {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(12);
        write!(
            f,
            "{:<width$}  {:<22} {:>9}  {:>4}\n{}",
            "Layer",
            "Output shape",
            "Sees",
            "Jump",
            "─".repeat(width + 40)
        )?;
        self.rows.iter().try_for_each(|row| {
            let [field, jump] = row.cells();
            write!(f, "\n{:<width$}  {:<22} {field:>9}  {jump:>4}", row.name, row.output)
        })
    }
}

impl ReceptiveFields {
    /// The table as HTML.
    pub fn to_html(&self) -> String {
        let mut html = String::from(
            "<table><thead><tr><th style=\"text-align:left\">Layer</th><th style=\"text-align:left\">Output shape</th>\
             <th>Sees (pixels)</th><th>Jump (pixels)</th></tr></thead><tbody>",
        );
        for row in &self.rows {
            let [field, jump] = row.cells();
            html += &format!(
                "<tr><td style=\"text-align:left\">{}</td><td style=\"text-align:left\">{}</td>\
                 <td style=\"text-align:right\">{field}</td><td style=\"text-align:right\">{jump}</td></tr>",
                escape(&row.name),
                row.output
            );
        }
        html + "</tbody></table>"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Init, Seed, conv2d, flatten, linear, max_pool2d, relu};
    use crate::{tensor::images, vgg};

    #[test]
    fn output_sizes_are_those_of_the_formula() {
        // AlexNet's first layers, ResNet's first, and a kernel that just fits.
        let cases =
            [((227, 11, 0, 4), 55), ((55, 3, 0, 2), 27), ((224, 7, 3, 2), 112), ((5, 5, 0, 3), 1), ((1, 3, 1, 1), 1)];
        for ((input, kernel, padding, stride), output) in cases {
            assert_eq!(output_size(input, kernel, padding, stride).unwrap(), output);
        }
    }

    #[test]
    fn impossible_windows_are_refused() {
        for (input, kernel, padding, stride) in [(2, 3, 0, 1), (9, 0, 0, 1), (9, 3, 1, 0), (0, 1, 0, 1)] {
            assert!(output_size(input, kernel, padding, stride).is_err());
        }
        assert!(output_size(usize::MAX, 3, usize::MAX, 1).is_ok());
    }

    #[test]
    fn vgg16_has_the_published_receptive_fields() {
        let mut model = vgg::vgg16((32, 32, 3), 10, Seed(0)).unwrap();
        let fields = model.receptive_fields((224, 224, 3));
        assert!(fields.unwrap_err().to_string().contains("fc1"), "dense weights for 32×32 do not fit 224×224");
        while model.layers().last().unwrap().name() != "block5_pool" {
            model.pop();
        }
        let fields = model.receptive_fields((224, 224, 3)).unwrap();
        let of = |name: &str| fields.rows.iter().find(|row| row.name == name).unwrap().field_and_jump.unwrap();
        // Araujo, Norris & Sim 2019, table of VGG-16: 212 after pool5, at stride 32.
        let published = [
            ("block1_conv1", (3, 1)),
            ("block1_pool", (6, 2)),
            ("block3_conv3", (40, 4)),
            ("block5_conv3", (196, 16)),
            ("block5_pool", (212, 32)),
        ];
        for (name, field_and_jump) in published {
            assert_eq!(of(name), field_and_jump, "{name}");
        }
        assert_eq!(fields.rows.last().unwrap().output, Shape::Map(7, 7, 512));
    }

    #[test]
    fn a_dense_layer_sees_all() {
        let mut model = Sequential::new((8, 8, 1), Seed(0));
        model.push("conv", conv2d(2)).unwrap();
        model.push("<flat>", flatten()).unwrap();
        model.push("fc", linear(3)).unwrap();
        model.push("relu", relu()).unwrap();
        let fields = model.receptive_fields((8, 8, 1)).unwrap();
        let found: Vec<_> = fields.rows.iter().map(|row| row.field_and_jump).collect();
        assert_eq!(found, [Some((3, 1)), None, None, None]);
        let text = fields.to_string();
        assert!(text.lines().nth(2).unwrap().ends_with("3×3     1"), "{text}");
        assert!(text.lines().last().unwrap().ends_with("all     –"), "{text}");
        let html = fields.to_html();
        assert!(html.contains("&lt;flat&gt;") && html.matches("<tr>").count() == 5, "{html}");
    }

    /// The pixels that change an output are as many as the theory says, and lie in a square.
    #[test]
    fn an_output_depends_on_its_receptive_field_only() {
        let mut model = Sequential::new((24, 24, 1), Seed(1));
        model.push("conv1", conv2d(3).init(Init::Normal(1.0))).unwrap();
        model.push("conv2", conv2d(3).kernel(5).init(Init::Normal(1.0))).unwrap();
        model.push("pool", max_pool2d()).unwrap();
        model.push("conv3", conv2d(1).init(Init::Normal(1.0))).unwrap();
        let (field, jump) = model.receptive_fields((24, 24, 1)).unwrap().rows[3].field_and_jump.unwrap();
        assert_eq!((field, jump), (12, 2));
        let middle =
            |image: Vec<f32>| model.forward(images(image, (1, 24, 24, 1)).unwrap()).unwrap().as_vec()[6 * 12 + 6];
        let empty = middle(vec![0.0; 24 * 24]);
        let seen: Vec<usize> = (0..24 * 24)
            .filter(|&pixel| {
                // Whatever the weights' signs are, one of the two gets through the pooling.
                [1.0, -1.0].into_iter().any(|value| {
                    let mut image = vec![0.0; 24 * 24];
                    image[pixel] = value;
                    (middle(image) - empty).abs() > 1e-4
                })
            })
            .collect();
        assert_eq!(seen.len(), field * field);
        let side = |coordinate: fn(usize) -> usize| {
            let values = seen.iter().map(|&pixel| coordinate(pixel));
            values.clone().max().unwrap() - values.min().unwrap() + 1
        };
        assert_eq!((side(|p| p / 24), side(|p| p % 24)), (field, field));
    }
}
