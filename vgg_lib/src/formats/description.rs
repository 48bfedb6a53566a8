//! The description of a whole model, which its `.safetensors` file has beside the weights: JSON in the metadata, under
//! the key [`KEY`].
//!
//! ```text
//! {"format": 1, "input": [32, 32, 3],
//!  "layers": [{"name": "conv1", "op": {"conv2d": {"filters": 64, "kernel": 3, "relu": true}}, "l2": 0.0005},
//!             {"name": "pool", "op": "max_pool2d", "frozen": true}, …,
//!             {"name": "predictions", "op": {"linear": …}, "classes": ["cat", "dog"]}],
//!  "preparation": {"resize": "stretch", "normalization": {"mean": [120.7, …], "std": [64.1, …]}, …},
//!  "seed": 0, "built": 20, "steps": 3910}
//! ```
//!
//! Files of earlier versions must stay readable: new fields get a default, and `format` grows when a file cannot be
//! understood without them.

use super::Outcome;
use super::tensors::FileTensors;
use crate::model::{Init, Layer, LayerSpec, Op, Preparation, Seed, Sequential, Shape};
use crate::text::printable;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The key in the metadata.
pub(super) const KEY: &str = "vgg_lib.model";
/// The version of the description.
const FORMAT: u32 = 1;
/// More layers than any network has. Layers without weights take almost no space in a file, but time to build.
const MOST_LAYERS: usize = 10_000;

/// A model without its weights.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    format: u32,
    /// Height, width and channels, or the length of a vector.
    input: Vec<usize>,
    layers: Vec<StoredLayer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preparation: Option<Preparation>,
    /// With the next two, random numbers continue where they were.
    seed: u64,
    built: u64,
    steps: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredLayer {
    name: String,
    op: Op,
    #[serde(default, skip_serializing_if = "is_default")]
    l2: f32,
    /// Factor on the learning rate, if it is not 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<f32>,
    #[serde(default, skip_serializing_if = "is_default")]
    frozen: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    classes: Option<Vec<String>>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Description {
    pub fn of(model: &Sequential) -> Description {
        let layer = |layer: &Layer| StoredLayer {
            name: layer.name.clone(),
            op: layer.op,
            l2: layer.l2,
            rate: Some(layer.rate).filter(|rate| *rate != 1.0),
            frozen: layer.frozen,
            classes: layer.classes.as_ref().map(|classes| classes.to_vec()),
        };
        Description {
            format: FORMAT,
            input: match model.input {
                Shape::Map(h, w, c) => vec![h, w, c],
                Shape::Flat(values) => vec![values],
            },
            layers: model.layers.iter().map(layer).collect(),
            preparation: model.preparation.clone(),
            seed: model.seed.0,
            built: model.built,
            steps: model.steps,
        }
    }

    pub fn to_json(&self) -> Outcome<String> {
        self.check()?;
        serde_json::to_string(self).map_err(|error| error.to_string())
    }

    /// # Errors
    /// A sentence without its subject, the file.
    pub fn parse(json: &str) -> Outcome<Description> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let damaged =
            |error: serde_json::Error| format!("has a damaged description ({})", printable(&error.to_string()));
        let Version { format } = serde_json::from_str(json).map_err(damaged)?;
        if format != FORMAT {
            return Err(format!(
                "was written by another version of vgg_lib: its description has format {format}, and this version reads \
                 {FORMAT}"
            ));
        }
        let description: Description = serde_json::from_str(json).map_err(damaged)?;
        description.check()?;
        Ok(description)
    }

    fn check(&self) -> Outcome<()> {
        if self.layers.len() > MOST_LAYERS {
            return Err(format!("has {} layers; a model has at most {MOST_LAYERS}", self.layers.len()));
        }
        match &self.preparation {
            Some(known) => known.normalization.check().map_err(|what| format!("has a normalization that {what}")),
            None => Ok(()),
        }
    }

    /// What the model knows besides its weights.
    pub fn preparation(&self) -> Option<&Preparation> {
        self.preparation.as_ref()
    }

    /// The class names that the layer of this name remembers.
    pub fn classes(&self, layer: &str) -> Option<&Vec<String>> {
        self.layers.iter().find(|stored| stored.name == layer)?.classes.as_ref()
    }

    /// Builds the model with these weights, whose names are given by `name`.
    ///
    /// # Errors
    /// A sentence without its subject, the file.
    pub fn build(self, tensors: &FileTensors, name: impl Fn(&str, &str) -> String) -> Outcome<Sequential> {
        let input = match self.input[..] {
            [h, w, c] => Shape::Map(h, w, c),
            [values] => Shape::Flat(values),
            _ => return Err("has a damaged description (its input has neither one size nor three)".to_string()),
        };
        let damaged = |error: crate::Error| format!("has a damaged description ({error})");
        let mut model = Sequential::new((1, 1, 1), Seed(self.seed));
        model.input = input;
        model.check_input().map_err(damaged)?;
        let mut shape = input;
        let mut used = 0;
        for StoredLayer { name: layer, op, l2, rate, frozen, classes } in self.layers {
            let mut values = vec![];
            for (param, dims, _) in op.params(shape) {
                let name = name(&layer, param);
                let tensor = tensors.get(&name).ok_or_else(|| format!("has no tensor {}", printable(&name)))?;
                if tensor.shape != dims {
                    let (name, found) = (printable(&name), &tensor.shape);
                    return Err(format!("has a tensor {name} of shape {found:?}, but its description needs {dims:?}"));
                }
                values.push(tensor.to_vec());
            }
            used += values.len();
            model.push_with(&layer, LayerSpec { op, l2, init: Init::GlorotUniform }, values).map_err(damaged)?;
            model.set_rate(&layer, rate.unwrap_or(1.0)).map_err(damaged)?;
            let last = model.layers.last_mut().expect("just pushed");
            (last.frozen, last.classes) = (frozen, classes.map(Arc::new));
            shape = last.output(shape).map_err(damaged)?;
        }
        if used != tensors.len() + tensors.skipped.len() {
            return Err(format!(
                "has {} tensors, but its description needs {used}",
                tensors.len() + tensors.skipped.len()
            ));
        }
        (model.built, model.steps, model.preparation) = (self.built, self.steps, self.preparation);
        Ok(model)
    }
}
