//! Nodes that compute with a constant for each channel: preprocessing, biases and batch norms.

use super::super::proto::Node;
use super::graph::{GraphReader, NewLayer};
use crate::formats::Outcome;
use crate::model::{Op, batch_norm, preprocess};

impl GraphReader<'_> {
    /// Adds, subtracts, multiplies by or divides by a constant for each channel, the node's input `constant`.
    pub(super) fn affine(&mut self, node: &Node, constant: usize) -> Outcome<()> {
        let channels = self.shape.channels();
        let shape = self.tensor(node, constant)?.shape;
        // Shapes are aligned at their last axes, and so are counted from there.
        let place = self.dims.len() - self.channel_axis();
        let fits = |(i, len): (usize, &usize)| *len == 1 || (i == place && *len == channels);
        let from_constant = matches!(node.op_type.as_str(), "Sub" | "Div") && constant == 0;
        if !shape.iter().rev().enumerate().all(fits) || from_constant {
            return Err(
                node.fault(format!("computes with a constant of shape {shape:?} in a way that no layer here does"))
            );
        }
        let mut values = self.vector(node, constant, channels)?;
        if shape.iter().any(|&len| len != 1) {
            values = self.ordered(values, 1);
        }
        self.prepare_affine(node)?;
        apply(self.layers.last_mut().expect("just prepared"), node.op_type.as_str(), &values);
        Ok(())
    }

    /// Makes sure that the last layer can take the computation: adds a preprocessing layer before all others, or a
    /// batch norm that changes nothing.
    fn prepare_affine(&mut self, node: &Node) -> Outcome<()> {
        let channels = self.shape.channels();
        if self.layers.is_empty() && self.dims.len() == 3 && channels == 3 {
            self.push_same(node, preprocess([0.0; 3]))?;
        }
        let adds = matches!(node.op_type.as_str(), "Add" | "Sub");
        let has_bias = |op: Op| matches!(op, Op::Conv2d { relu: false, .. } | Op::Linear { relu: false, .. });
        let fits = |op: Op| matches!(op, Op::Preprocess { .. } | Op::BatchNorm { .. }) || adds && has_bias(op);
        if self.layers.last().is_some_and(|layer| fits(layer.spec.op)) {
            return Ok(());
        }
        self.afford(node, channels.saturating_mul(4))?;
        const EPSILON: f32 = 1e-3;
        let values = [1.0, 0.0, 0.0, 1.0 - EPSILON].map(|value| vec![value; channels]);
        self.push(node, batch_norm().epsilon(EPSILON), values.into(), self.dims.clone())
    }
}

/// Folds the computation into a preprocessing layer, a bias or a batch norm.
fn apply(layer: &mut NewLayer, operator: &str, values: &[f32]) {
    for (i, &value) in values.iter().enumerate() {
        match (&mut layer.spec.op, operator) {
            // (x − mean) / std
            (Op::Preprocess { mean, std, bgr }, operator) => {
                let color = if *bgr { 2 - i } else { i };
                match operator {
                    "Add" => mean[color] -= value * std[color],
                    "Sub" => mean[color] += value * std[color],
                    "Mul" => std[color] /= value,
                    _ => std[color] *= value,
                }
            }
            // The bias is the second parameter of all three.
            (_, "Add") => layer.values[1][i] += value,
            (_, "Sub") => layer.values[1][i] -= value,
            (_, operator) => {
                let factor = if operator == "Mul" { value } else { 1.0 / value };
                layer.values[..2].iter_mut().for_each(|param| param[i] *= factor);
            }
        }
    }
}
