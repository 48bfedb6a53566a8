//! How much memory a model needs, layer by layer, as document 002 and Stanford's CS231n reckon it.

use crate::Result;
use crate::model::{Op, Sequential, Shape};
use crate::text::{bytes as size, escape, thousands};
use std::fmt;

/// One layer of a [`MemoryEstimate`].
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryRow {
    /// The layer's name.
    pub name: String,
    /// What it computes.
    pub kind: &'static str,
    /// What it gives for one image.
    pub output: Shape,
    /// Weights, biases and statistics.
    pub weights: usize,
}

/// What a model keeps in memory. Shows itself as a table: HTML in evcxr, text elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryEstimate {
    /// The shape of one image.
    pub input: Shape,
    /// One a layer.
    pub rows: Vec<MemoryRow>,
    /// Images at a time.
    pub batch_size: usize,
    /// Bytes of all weights.
    pub weights: usize,
    /// Bytes of the weights' gradients and momentum; frozen layers have none.
    pub optimizer: usize,
    /// Bytes of every layer's output for the whole batch.
    pub activations: usize,
    /// Bytes for a training step: weights, optimizer, the outputs that the backward pass reads, two gradients in
    /// flight.
    pub training: usize,
    /// Bytes for use without training: weights, and the largest pair of a layer's input and output.
    pub inference: usize,
}

impl Sequential {
    /// What the model needs for a batch of `batch_size` images of `(height, width, channels)`. The numbers are those
    /// of the plain definition; what algorithms use for themselves, such as transformed filters, comes on top.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if a layer cannot take its input.
    pub fn memory_estimate(&self, (h, w, c): (usize, usize, usize), batch_size: usize) -> Result<MemoryEstimate> {
        const FLOAT: usize = 4;
        let input = Shape::Map(h, w, c);
        let (mut shape, mut rows, mut learned) = (input, vec![], 0);
        let (mut kept, mut largest, mut pair) = (0, 0, 0);
        let mut trained = false;
        let mut activations = input.size();
        for layer in self.layers() {
            let output = layer.output(shape)?;
            let sizes = layer.params().iter().map(|p| p.dims.iter().product::<usize>());
            let weights = sizes.sum();
            rows.push(MemoryRow { name: layer.name().to_string(), kind: layer.op().type_name(), output, weights });
            trained |= layer.learns();
            if layer.learns() {
                let sizes = layer.params().iter().filter(|p| p.learned).map(|p| p.dims.iter().product::<usize>());
                learned += sizes.sum::<usize>();
            }
            // From the first layer that learns on, a layer's output is kept; those before it give theirs up. Dropout
            // and flatten have no output of their own.
            if trained && !matches!(layer.op(), Op::Dropout { .. } | Op::Flatten) {
                kept += output.size();
                largest = largest.max(shape.size()).max(output.size());
            }
            pair = pair.max(shape.size() + output.size());
            activations += output.size();
            shape = output;
        }
        let weights = FLOAT * self.parameter_count();
        let bytes = |floats: usize| FLOAT * floats * batch_size;
        let optimizer = FLOAT * 2 * learned;
        Ok(MemoryEstimate {
            input,
            rows,
            batch_size,
            weights,
            optimizer,
            activations: bytes(activations),
            training: weights + optimizer + bytes((kept + 2 * largest).max(pair)),
            inference: weights + bytes(pair),
        })
    }
}

fn dims(shape: Shape) -> String {
    match shape {
        Shape::Map(h, w, c) => format!("{h}×{w}×{c}"),
        Shape::Flat(f) => f.to_string(),
    }
}

impl MemoryEstimate {
    /// Label and text of each line below the table.
    fn totals(&self) -> [(String, String); 5] {
        let images = if self.batch_size == 1 { "image" } else { "images" };
        let batch = format!("{} {images}", self.batch_size);
        [
            ("weights".to_string(), size(self.weights)),
            ("gradients and momentum".to_string(), size(self.optimizer)),
            (format!("all outputs, {batch}"), size(self.activations)),
            (format!("a training step, {batch}"), size(self.training)),
            (format!("in use, {batch}"), size(self.inference)),
        ]
    }

    /// Name and kind, output, values, weights of the input and of each layer.
    fn lines(&self) -> impl Iterator<Item = [String; 4]> {
        let input = ["input".to_string(), dims(self.input), thousands(self.input.size()), thousands(0)];
        std::iter::once(input).chain(self.rows.iter().map(|row| {
            let name = format!("{} ({})", row.name, row.kind);
            [name, dims(row.output), thousands(row.output.size()), thousands(row.weights)]
        }))
    }

    /// The table as HTML.
    pub fn to_html(&self) -> String {
        let mut html = String::from(
            "<table><thead><tr><th style=\"text-align:left\">Layer</th><th>Output</th><th>Values an image</th>\
             <th>Weights</th></tr></thead><tbody>",
        );
        for [name, output, values, weights] in self.lines() {
            let right = |text: &str| format!("<td style=\"text-align:right\">{text}</td>");
            html += &format!("<tr><td style=\"text-align:left\">{}</td>", escape(&name));
            html += &format!("{}{}{}</tr>", right(&output), right(&values), right(&weights));
        }
        html += "</tbody></table><p>";
        let totals = self.totals().map(|(label, size)| format!("{label}: <b>{size}</b>"));
        html + &totals.join("<br>") + "</p>"
    }
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let width = self.lines().map(|[name, ..]| name.chars().count()).max().unwrap_or(0);
        writeln!(f, "{:<width$}  {:>13}  {:>15}  {:>13}", "Layer", "Output", "Values an image", "Weights")?;
        for [name, output, values, weights] in self.lines() {
            writeln!(f, "{name:<width$}  {output:>13}  {values:>15}  {weights:>13}")?;
        }
        for (label, size) in self.totals() {
            write!(f, "\n{label}: {size}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::model::Seed;
    use crate::vgg;

    #[test]
    fn vgg16_is_the_table_of_cs231n() {
        let mut model = vgg::vgg16((224, 224, 3), 1000, Seed(0)).unwrap();
        let estimate = model.memory_estimate((224, 224, 3), 16).unwrap();
        let row = |name: &str| estimate.rows.iter().find(|row| row.name == name).unwrap();
        for (name, values, weights) in [
            ("block1_conv1", 3_211_264, 1_728 + 64),
            ("block2_pool", 401_408, 0),
            ("block5_conv3", 100_352, 2_359_296 + 512),
            ("fc1", 4096, 102_760_448 + 4096),
            ("predictions", 1000, 4_096_000 + 1000),
        ] {
            assert_eq!((row(name).output.size(), row(name).weights), (values, weights), "{name}");
        }
        assert_eq!(estimate.weights, 4 * 138_357_544);
        assert_eq!(estimate.optimizer, 2 * estimate.weights);
        // In use: the second convolution's input and output.
        assert_eq!(estimate.inference - estimate.weights, 4 * 16 * 2 * 3_211_264);

        model.freeze("").unwrap();
        model.unfreeze("predictions").unwrap();
        let frozen = model.memory_estimate((224, 224, 3), 16).unwrap();
        assert_eq!(frozen.optimizer, 4 * 2 * 4_097_000);
        assert_eq!(frozen.training, frozen.inference + frozen.optimizer);
        assert!(frozen.to_string().contains("weights: 527.8 MiB"), "{frozen}");
        assert!(model.memory_estimate((16, 16, 3), 1).is_err());
    }
}
