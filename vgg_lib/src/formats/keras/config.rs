//! The description of a network, in the `config.json` of a `.keras` file and in the attribute `model_config` of an
//! `.h5` file: `{"class_name": "Sequential", "config": {"name": …, "layers": [{"class_name": "Conv2D", …}, …]}}`.

use crate::formats::Outcome;
use crate::formats::keras_layers::{PixelChange, PixelStep};
use crate::text::printable;
use serde_json::Value;

/// VGG19's takes 20 KB.
const MAX_CONFIG: usize = 1 << 20;

/// The mean and the variance of a normalization, and the names of these tensors.
pub(super) type Statistics = ((Vec<f64>, Vec<f64>), Vec<String>);

/// A layer, which may be a model with layers of its own.
#[derive(Debug)]
pub(super) struct Config {
    class: String,
    pub name: String,
    /// The settings of the layer.
    settings: Value,
    /// The layers of a model, in their order.
    pub layers: Vec<Config>,
    /// Whether it is an operation such as x − 1, not a layer.
    is_operation: bool,
}

impl Config {
    /// The network; `None` if it is described in another way.
    pub fn parse(json: &[u8]) -> Option<Config> {
        if json.len() > MAX_CONFIG {
            return None;
        }
        let config = Config::of(serde_json::from_slice(json).ok()?)?;
        (!config.layers.is_empty()).then_some(config)
    }

    /// The parser limits the depth.
    fn of(mut value: Value) -> Option<Config> {
        let class = value.get("class_name")?.as_str()?.to_string();
        let module = value.get("module").and_then(Value::as_str).unwrap_or_default();
        let is_operation = module.starts_with("keras.src.ops") || class.ends_with("OpLambda") || class == "Lambda";
        let mut settings = value.get_mut("config").map(Value::take).unwrap_or_default();
        // The configuration of an old Sequential is its list of layers.
        let layers = if settings.is_array() { settings.take() } else { settings["layers"].take() };
        let layers = match layers {
            Value::Array(layers) => layers.into_iter().filter_map(Config::of).collect(),
            _ => vec![],
        };
        let name = settings.get("name").or(value.get("name")).and_then(Value::as_str).unwrap_or_default().to_string();
        Some(Config { class, name, settings, layers, is_operation })
    }

    pub fn class(&self) -> &str {
        &self.class
    }

    pub fn is_operation(&self) -> bool {
        self.is_operation
    }

    /// A setting that is a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.settings.get(name)?.as_str()
    }

    /// Whether a setting has a number other than 0.
    pub fn is_set(&self, name: &str) -> bool {
        self.settings.get(name).and_then(Value::as_f64).is_some_and(|value| value != 0.0)
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        self.settings.get(name)?.as_bool()
    }

    /// The class as it is in the names of groups: `Conv2D` is `conv2d`, `BatchNormalization` is `batch_normalization`.
    pub fn snake_case(&self) -> String {
        let letters: Vec<char> = self.class.chars().filter(|c| c.is_alphanumeric() || *c == '_').collect();
        let mut snake = String::new();
        for (i, &letter) in letters.iter().enumerate() {
            let before = i.checked_sub(1).map(|i| letters[i]);
            let starts_word =
                |before: char| before.is_ascii_lowercase() || letters.get(i + 1).is_some_and(char::is_ascii_lowercase);
            if letter.is_ascii_uppercase() && before.is_some_and(starts_word) {
                snake.push('_');
            }
            snake.extend(letter.to_lowercase());
        }
        snake
    }

    /// Whether the layer has weights that a VGG has.
    fn has_weights(&self) -> bool {
        ["Conv", "Dense", "BatchNormalization"].iter().any(|part| self.class.contains(part))
    }

    /// What the layer does to pixels; `None` if it leaves them as they are, or moves and disturbs them for training.
    /// `statistics` are the mean and the variance of a normalization.
    fn pixel_change(&self, statistics: Option<(Vec<f64>, Vec<f64>)>) -> Option<PixelChange> {
        match self.class.as_str() {
            "Rescaling" => {
                let (scale, offset) = (self.numbers("scale"), self.numbers("offset"));
                let change = scale.zip(offset).map(|(scale, offset)| PixelChange::Rescaling { scale, offset });
                Some(change.unwrap_or(PixelChange::Unknown))
            }
            "Normalization" => {
                let statistics = statistics.or_else(|| self.numbers("mean").zip(self.numbers("variance")));
                let plain = self.flag("invert") != Some(true);
                Some(match statistics.filter(|_| plain) {
                    Some((mean, variance)) => PixelChange::Normalization { mean, variance },
                    None => PixelChange::Unknown,
                })
            }
            _ => self.is_operation.then_some(PixelChange::Code),
        }
    }

    /// A setting that is one number or a list; NumPy's arrays are wrapped in an object.
    pub fn numbers(&self, name: &str) -> Option<Vec<f64>> {
        let value = self.settings.get(name)?;
        let value = value.pointer("/config/value").unwrap_or(value);
        match value.as_array() {
            Some(list) => list.iter().map(Value::as_f64).collect(),
            None => Some(vec![value.as_f64()?]),
        }
    }

    /// What the network does to its pixels before its first layer with weights. `statistics` returns the tensors of a
    /// normalization, and their values.
    pub fn pixel_steps(&self, statistics: impl Fn(&Config) -> Option<Statistics>) -> Outcome<Vec<PixelStep>> {
        let (mut steps, mut in_front) = (vec![], true);
        for layer in self.flat() {
            in_front &= !layer.has_weights();
            let (values, tensors) = statistics(layer).map_or((None, vec![]), |found| (Some(found.0), found.1));
            let Some(change) = layer.pixel_change(values) else { continue };
            let shown = printable(&layer.name);
            if in_front {
                steps.push(PixelStep { layer: shown, change, tensors });
            } else if !layer.is_operation {
                return Err(format!(
                    "has a layer '{shown}' ({}) after layers with weights, where this library has none; load another \
                     network",
                    layer.class
                ));
            }
        }
        Ok(steps)
    }

    /// The layers without models, in their order.
    pub fn flat(&self) -> Vec<&Config> {
        let mut flat = vec![];
        for layer in &self.layers {
            if layer.layers.is_empty() {
                flat.push(layer);
            } else {
                flat.extend(layer.flat());
            }
        }
        flat
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_written_as_keras_writes_them() {
        for (class, want) in [
            ("Conv2D", "conv2d"),
            ("BatchNormalization", "batch_normalization"),
            ("MaxPooling2D", "max_pooling2d"),
            ("GlobalAveragePooling2D", "global_average_pooling2d"),
            ("ReLU", "re_lu"),
            ("Functional", "functional"),
            ("MyVGG", "my_vgg"),
            ("VGGBlock", "vgg_block"),
        ] {
            let json = format!(r#"{{"class_name": "{class}", "config": {{"name": "a"}}}}"#);
            assert_eq!(Config::of(serde_json::from_str(&json).unwrap()).unwrap().snake_case(), want);
        }
    }
}
