//! The table of a model's layers, as Keras prints it: name, type, output shape, parameters.

use crate::model::{Sequential, Shape};
use crate::table::{Column, Table};
use crate::text::{escape, thousands};
use std::fmt;

/// One layer of a [`Summary`].
#[derive(Clone, Debug, PartialEq)]
pub struct SummaryRow {
    /// The layer's name.
    pub name: String,
    /// What it computes.
    pub kind: &'static str,
    /// The shape of its output for one image.
    pub output: Shape,
    /// Number of parameters, learned or not.
    pub params: usize,
    /// Whether it has parameters and is not frozen; `None` if it has none.
    pub trainable: Option<bool>,
}

/// Layers, output shapes and parameter counts. Displays as a table: HTML in evcxr, text elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// One per layer.
    pub rows: Vec<SummaryRow>,
    /// Number of all parameters.
    pub total: usize,
    /// Number of the parameters that gradients change.
    pub trainable: usize,
    /// What is wrong with the model: why the table ends early, or a layer that could not be added.
    pub error: Option<String>,
}

impl Sequential {
    /// The layers with their output shapes for an image of `(height, width, channels)`. If a layer cannot take its
    /// input, the table ends before it and `error` says why, as it does if a layer could not be added.
    pub fn summary(&self, (h, w, c): (usize, usize, usize)) -> Summary {
        let mut summary = Summary { rows: vec![], total: self.parameter_count(), trainable: 0, error: None };
        let mut shape = Shape::Map(h, w, c);
        for layer in &self.layers {
            let sizes = layer.params().iter().map(|p| (p.dims.iter().product::<usize>(), p.learned));
            let params = sizes.clone().map(|(size, _)| size).sum();
            let learned: usize = sizes.filter(|(_, learned)| *learned && !layer.frozen).map(|(size, _)| size).sum();
            summary.trainable += learned;
            if summary.error.is_some() {
                continue;
            }
            match layer.output(shape) {
                Ok(output) => shape = output,
                Err(error) => {
                    summary.error = Some(error.to_string());
                    continue;
                }
            }
            let (name, kind) = (layer.name.clone(), layer.op.type_name());
            let trainable = (params > 0).then_some(!layer.frozen);
            summary.rows.push(SummaryRow { name, kind, output: shape, params, trainable });
        }
        summary.error = self.fault().or(summary.error);
        summary
    }
}

fn mark(trainable: Option<bool>) -> &'static str {
    match trainable {
        Some(true) => "yes",
        Some(false) => "no",
        None => "–",
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let columns = [
            Column::left("Layer (type)", 0),
            Column::left("Output shape", 21),
            Column::right("Parameters", 13),
            Column::right("Trainable", 0),
        ];
        let rows = self.rows.iter().map(|row| {
            let name = format!("{} ({})", row.name, row.kind);
            [name, row.output.to_string(), thousands(row.params), mark(row.trainable).to_string()]
        });
        let table = Table { columns, rows: rows.collect() };
        let (lines, rule) = (table.lines(), table.rule());
        writeln!(f, "{}\n{rule}", lines[0])?;
        lines[1..].iter().try_for_each(|line| writeln!(f, "{line}"))?;
        writeln!(f, "{rule}\nTotal parameters: {}", thousands(self.total))?;
        writeln!(f, "Trainable parameters: {}", thousands(self.trainable))?;
        write!(f, "Non-trainable parameters: {}", thousands(self.total - self.trainable))?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, "\n{error}"))
    }
}

impl Summary {
    /// The table as HTML.
    pub fn to_html(&self) -> String {
        let columns = [
            Column::left("Layer", 0),
            Column::left("Type", 0),
            Column::left("Output shape", 0),
            Column::right("Parameters", 0),
            Column::center("Trainable", 0),
        ];
        let rows = self.rows.iter().map(|row| {
            let (kind, trainable) = (row.kind.to_string(), mark(row.trainable).to_string());
            [row.name.clone(), kind, row.output.to_string(), thousands(row.params), trainable]
        });
        let mut html = Table { columns, rows: rows.collect() }.html();
        html += &format!(
            "<p>Total parameters: <b>{}</b> (trainable {}, non-trainable {})</p>",
            thousands(self.total),
            thousands(self.trainable),
            thousands(self.total - self.trainable)
        );
        if let Some(error) = &self.error {
            html += &format!("<p>{}</p>", escape(error));
        }
        html
    }
}
