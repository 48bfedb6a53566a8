//! Output sizes and receptive fields: how large the output of a convolution or pooling is, and how much of the image
//! one of its values depends on.
//!
//! Take an input whose values each see r pixels of the image and whose neighbors are j pixels apart. A window of k
//! values with stride s sees r + (k − 1)·j pixels, and its outputs are j·s pixels apart (Araujo, Norris & Sim 2019,
//! <https://distill.pub/2019/computing-receptive-fields>).

use crate::model::{Op, Sequential, Shape};
use crate::table::{Column, Table};
use crate::{Error, Result};
use std::fmt;

/// The output size of a convolution or pooling along one side: O = ⌊(W − K + 2P) / S⌋ + 1 for an `input` of W pixels,
/// a `kernel` of K, a `padding` of P pixels at each end and a `stride` of S.
///
/// # Errors
/// [`Error::Config`] if the kernel or the stride is 0, or the kernel is larger than the padded input.
///
/// ```
/// use vgg_lib::prelude::*;
/// assert_eq!(output_size(224, 3, 1, 1)?, 224); // VGG's convolutions
/// assert_eq!(output_size(227, 2, 0, 2)?, 113); // VGG's poolings
/// # Ok::<(), vgg_lib::Error>(())
/// ```
pub fn output_size(input: usize, kernel: usize, padding: usize, stride: usize) -> Result<usize> {
    if kernel == 0 || stride == 0 {
        return Err(Error::Config(format!("kernel and stride must be at least 1, but are {kernel} and {stride}")));
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
    /// The shape of its output for one image.
    pub output: Shape,
    /// The side of the square of image pixels that one output depends on, and the distance between two neighboring
    /// outputs, both in pixels of the image. `None` from a layer on that sees the whole image, such as a dense layer,
    /// or windows that are not squares of one size, as those of an adaptive pooling may be.
    pub field_and_jump: Option<(usize, usize)>,
}

/// The receptive field of each layer. Displays as a table: HTML in evcxr, text elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceptiveFields {
    /// One per layer.
    pub rows: Vec<ReceptiveField>,
}

impl Sequential {
    /// The theoretical receptive field of each layer for an image of `(height, width, channels)`. It may be larger than
    /// a small image; what lies outside is padding. The center of the field has much more influence than its edge.
    ///
    /// # Errors
    /// [`Error::Shape`] if the image does not fit the model.
    pub fn receptive_fields(&self, (h, w, c): (usize, usize, usize)) -> Result<ReceptiveFields> {
        self.check_complete()?;
        let mut shape = Shape::Map(h, w, c);
        let mut field_and_jump = Some((1, 1));
        let mut rows = vec![];
        for layer in self.layers() {
            let input = shape;
            shape = layer.output(input)?;
            field_and_jump = field_and_jump.and_then(|(field, jump)| match layer.op() {
                Op::Conv2d { kernel, .. } => Some((field + (kernel - 1) * jump, jump)),
                Op::MaxPool2d => Some((field + jump, 2 * jump)),
                Op::AdaptiveAvgPool2d { .. } => {
                    let side = input.windows(shape).filter(|[down, across]| down == across)?[0];
                    Some((field + (side - 1) * jump, side * jump))
                }
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
        let table = self.table(["Sees", "Jump"]);
        let lines = table.lines();
        write!(f, "{}\n{}", lines[0], table.rule())?;
        lines[1..].iter().try_for_each(|line| write!(f, "\n{line}"))
    }
}

impl ReceptiveFields {
    fn table(&self, [sees, jump]: [&'static str; 2]) -> Table<4> {
        let columns = [
            Column::left("Layer", 12),
            Column::left("Output shape", 21),
            Column::right(sees, 9),
            Column::right(jump, 4),
        ];
        let rows = self.rows.iter().map(|row| {
            let [field, jump] = row.cells();
            [row.name.clone(), row.output.to_string(), field, jump]
        });
        Table { columns, rows: rows.collect() }
    }

    /// The table as HTML.
    pub fn to_html(&self) -> String {
        self.table(["Sees (pixels)", "Jump (pixels)"]).html()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Init, Seed, conv2d, flatten, linear, max_pool2d, relu};
    use crate::{tensor::images, vgg};

    #[test]
    fn output_sizes_follow_the_formula() {
        // The first layers of AlexNet, the first of ResNet, and a kernel that just fits.
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
        // Araujo, Norris & Sim 2019, table for VGG-16: 212 after pool5, with stride 32.
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
    fn a_dense_layer_sees_the_whole_image() {
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

    /// Exactly the pixels of the theoretical receptive field change an output, and they form a square.
    #[test]
    fn an_output_depends_only_on_its_receptive_field() {
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
                // One of the two signs gets through the pooling, whatever the signs of the weights are.
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
