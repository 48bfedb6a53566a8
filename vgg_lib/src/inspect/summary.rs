//! The table of a model's layers, as Keras prints it.

use crate::model::{Sequential, Shape};
use crate::text::{escape, thousands};
use std::fmt;

/// One layer of a [`Summary`].
#[derive(Clone, Debug, PartialEq)]
pub struct SummaryRow {
    /// The layer's name.
    pub name: String,
    /// What it computes.
    pub kind: &'static str,
    /// What it gives for one image.
    pub output: Shape,
    /// Parameters, learned or not.
    pub params: usize,
    /// Whether it has parameters and is not frozen; `None` if it has none.
    pub trainable: Option<bool>,
}

/// Layers, output shapes and parameter counts. Shows itself as a table: HTML in evcxr, text elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// One a layer.
    pub rows: Vec<SummaryRow>,
    /// All parameters.
    pub total: usize,
    /// Those that training changes by gradient.
    pub trainable: usize,
    /// Why the table ends early: a layer that cannot take its input.
    pub error: Option<String>,
}

impl Sequential {
    /// The layers with their output shapes for an image of `(height, width, channels)`.
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
        let name = |row: &SummaryRow| format!("{} ({})", row.name, row.kind);
        let width = self.rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max(12);
        let line = "─".repeat(width + 50);
        writeln!(f, "{:<width$}  {:<22} {:>13}  Trainable\n{line}", "Layer (type)", "Output shape", "Parameters")?;
        for row in &self.rows {
            let (params, mark) = (thousands(row.params), mark(row.trainable));
            writeln!(f, "{:<width$}  {:<22} {params:>13}  {mark:>9}", name(row), row.output)?;
        }
        writeln!(f, "{line}\nTotal parameters: {}", thousands(self.total))?;
        writeln!(f, "Trainable parameters: {}", thousands(self.trainable))?;
        write!(f, "Non-trainable parameters: {}", thousands(self.total - self.trainable))?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, "\n{error}"))
    }
}

impl Summary {
    /// The table as HTML.
    pub fn to_html(&self) -> String {
        let cell = |text: &str, align: &str| format!("<td style=\"text-align:{align}\">{}</td>", escape(text));
        let mut html = String::from(
            "<table><thead><tr><th style=\"text-align:left\">Layer</th><th style=\"text-align:left\">Type</th>\
             <th style=\"text-align:left\">Output shape</th><th>Parameters</th><th>Trainable</th></tr></thead><tbody>",
        );
        for row in &self.rows {
            html += "<tr>";
            html += &cell(&row.name, "left");
            html += &cell(row.kind, "left");
            html += &cell(&row.output.to_string(), "left");
            html += &cell(&thousands(row.params), "right");
            html += &cell(mark(row.trainable), "center");
            html += "</tr>";
        }
        html += &format!(
            "</tbody></table><p>Total parameters: <b>{}</b> (trainable {}, non-trainable {})</p>",
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
