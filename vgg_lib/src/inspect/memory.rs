//! How much memory a model needs, layer by layer, counted as in the notebook of fast.ai lessons 1 and 2 and in
//! Stanford's CS231n.

use crate::Result;
use crate::engine::memory::need;
use crate::model::{Sequential, Shape};
use crate::table::{Column, Table};
use crate::text::{bytes as size, thousands};
use std::fmt;

/// One layer of a [`MemoryEstimate`].
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryRow {
    /// The layer's name.
    pub name: String,
    /// What it computes.
    pub kind: &'static str,
    /// The shape of its output for one image.
    pub output: Shape,
    /// Number of weights, biases and statistics.
    pub weights: usize,
}

/// What a model keeps in memory. Displays as a table: HTML in evcxr, text elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryEstimate {
    /// The shape of one image.
    pub input: Shape,
    /// One per layer.
    pub rows: Vec<MemoryRow>,
    /// Images per batch.
    pub batch_size: usize,
    /// Bytes of all weights.
    pub weights: usize,
    /// Bytes of the weights' gradients and momentum; frozen layers have none.
    pub optimizer: usize,
    /// Bytes of every layer's output for the whole batch.
    pub activations: usize,
    /// Bytes for a training step: weights, optimizer, the outputs that the backward pass reads, and two gradients in
    /// flight.
    pub training: usize,
    /// Bytes for inference: weights, and the largest pair of a layer's input and output.
    pub inference: usize,
}

impl Sequential {
    /// What the model needs for a batch of `batch_size` images of `(height, width, channels)`. The numbers follow from
    /// the definition of each layer; what algorithms use for themselves, such as transformed filters, comes on top.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] if a layer cannot take its input.
    pub fn memory_estimate(&self, (h, w, c): (usize, usize, usize), batch_size: usize) -> Result<MemoryEstimate> {
        self.check_complete()?;
        let input = Shape::Map(h, w, c);
        let need = need(self, input, batch_size)?;
        let (mut shape, mut rows) = (input, vec![]);
        for layer in self.layers() {
            shape = layer.output(shape)?;
            let weights = layer.params().iter().map(|p| p.dims.iter().product::<usize>()).sum();
            let (name, kind) = (layer.name().to_string(), layer.op().type_name());
            rows.push(MemoryRow { name, kind, output: shape, weights });
        }
        Ok(MemoryEstimate {
            input,
            rows,
            batch_size,
            weights: need.weights,
            optimizer: need.optimizer,
            activations: need.activations,
            training: need.training,
            inference: need.inference,
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
    /// Label and size of each line below the table.
    fn totals(&self) -> [(String, String); 5] {
        let images = if self.batch_size == 1 { "image" } else { "images" };
        let batch = format!("{} {images}", self.batch_size);
        [
            ("weights".to_string(), size(self.weights)),
            ("gradients and momentum".to_string(), size(self.optimizer)),
            (format!("all outputs, {batch}"), size(self.activations)),
            (format!("training step, {batch}"), size(self.training)),
            (format!("inference, {batch}"), size(self.inference)),
        ]
    }

    /// One row for the input, then one per layer.
    fn table(&self) -> Table<4> {
        let columns = [
            Column::left("Layer", 0),
            Column::right("Output", 13),
            Column::right("Values per image", 0),
            Column::right("Weights", 13),
        ];
        let input = ["input".to_string(), dims(self.input), thousands(self.input.size()), thousands(0)];
        let layers = self.rows.iter().map(|row| {
            let name = format!("{} ({})", row.name, row.kind);
            [name, dims(row.output), thousands(row.output.size()), thousands(row.weights)]
        });
        Table { columns, rows: std::iter::once(input).chain(layers).collect() }
    }

    /// The table as HTML.
    pub fn to_html(&self) -> String {
        let totals = self.totals().map(|(label, size)| format!("{label}: <b>{size}</b>"));
        format!("{}<p>{}</p>", self.table().html(), totals.join("<br>"))
    }
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "{}", self.table().lines().join("\n"))?;
        self.totals().iter().try_for_each(|(label, size)| write!(f, "\n{label}: {size}"))
    }
}

#[cfg(test)]
mod tests {
    use crate::model::Seed;
    use crate::vgg;

    #[test]
    fn vgg16_matches_the_table_of_cs231n() {
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
        // Inference: the second convolution's input and output.
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
