//! Which layers of a Keras network compute something that no layer of this library does.
//!
//! Their weights, if they have any, load all the same, as Keras' own `load_weights` would load them into another
//! network. But the outputs are not Keras', so the report names the layers.

use super::config::Config;
use crate::text::{listed, printable};

/// Layers that this library has, or that do nothing in inference.
const SAME: [&str; 19] = [
    "InputLayer",
    "Sequential",
    "Functional",
    "Model",
    "Conv2D",
    "Dense",
    "BatchNormalization",
    "Activation",
    "ReLU",
    "Softmax",
    "MaxPooling2D",
    "GlobalAveragePooling2D",
    "AdaptiveAveragePooling2D",
    "Flatten",
    "Reshape",
    "Dropout",
    "SpatialDropout2D",
    "Rescaling",
    "Normalization",
];

/// A sentence that names the layers; `None` if there are none.
pub(super) fn note(network: &Config) -> Option<String> {
    let layers = network.flat();
    let before = |at: usize| at.checked_sub(1).map_or("", |at| layers[at].class());
    let found = layers.iter().enumerate().filter_map(|(at, layer)| {
        let what = difference(layer, before(at))?;
        Some(format!("'{}' ({what})", printable(&layer.name)))
    });
    let found: Vec<String> = found.collect();
    (!found.is_empty()).then(|| {
        format!(
            "Its network computes what this library's layers do not, so outputs may differ from Keras': {}.",
            listed(&found, ", ")
        )
    })
}

/// What is different about a layer; `before` is the class of the layer before it.
fn difference(layer: &Config, before: &str) -> Option<String> {
    let class = layer.class();
    let with = |what: &str| Some(format!("{class} with {what}"));
    let is_one = |name: &str| layer.numbers(name).is_none_or(|values| values.iter().all(|&value| value == 1.0));
    let is_two = |name: &str| layer.numbers(name).is_none_or(|values| values.iter().all(|&value| value == 2.0));
    let activation = layer.text("activation").filter(|name| !["linear", "relu", "softmax"].contains(name));
    if let Some(name) = activation {
        return with(&format!("activation {}", printable(name)));
    }
    match class {
        "Conv2D" if !is_one("strides") => with("strides"),
        "Conv2D" if !is_one("dilation_rate") => with("dilation"),
        "Conv2D" if !is_one("groups") => with("groups"),
        // Older networks pad in a layer of its own.
        "Conv2D" if layer.text("padding") == Some("valid") && !is_one("kernel_size") && before != "ZeroPadding2D" => {
            with("padding 'valid'")
        }
        "MaxPooling2D" if !is_two("pool_size") || !is_two("strides") => with("another window than 2×2"),
        "ReLU" if ["max_value", "negative_slope", "threshold"].iter().any(|name| layer.is_set(name)) => with("limits"),
        "ZeroPadding2D" => None,
        // They change images in training only.
        _ if SAME.contains(&class) || class.starts_with("Random") || class.starts_with("Gaussian") => None,
        _ if layer.is_operation() => None, // pixels or the report name it
        _ => Some(class.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note_of(layers: &str) -> Option<String> {
        let json = format!(r#"{{"class_name": "Sequential", "config": {{"name": "net", "layers": [{layers}]}}}}"#);
        note(&Config::parse(json.as_bytes()).unwrap())
    }

    fn layer(class: &str, settings: &str) -> String {
        format!(r#"{{"class_name": "{class}", "config": {{"name": "x"{settings}}}}}"#)
    }

    #[test]
    fn layers_that_this_library_has_are_not_named() {
        let plain = r#", "strides": [1, 1], "padding": "same", "activation": "relu", "dilation_rate": [1, 1]"#;
        let padded = [layer("ZeroPadding2D", ""), layer("Conv2D", r#", "padding": "valid", "kernel_size": [3, 3]"#)];
        let all = [
            layer("Conv2D", plain),
            layer("MaxPooling2D", r#", "pool_size": [2, 2], "strides": [2, 2]"#),
            layer("ReLU", r#", "max_value": null, "negative_slope": 0.0, "threshold": 0.0"#),
            layer("RandomFlip", ""),
            layer("Dense", r#", "activation": "softmax""#),
        ];
        assert_eq!(note_of(&all.join(",")), None);
        assert_eq!(note_of(&padded.join(",")), None);
    }

    #[test]
    fn other_computations_are_named() {
        for (class, settings, want) in [
            ("Add", "", "'x' (Add)"),
            ("AveragePooling2D", "", "'x' (AveragePooling2D)"),
            ("Conv2DTranspose", "", "'x' (Conv2DTranspose)"),
            ("Permute", "", "'x' (Permute)"),
            ("Conv2D", r#", "strides": [2, 2]"#, "'x' (Conv2D with strides)"),
            ("Conv2D", r#", "dilation_rate": 2"#, "'x' (Conv2D with dilation)"),
            ("Conv2D", r#", "padding": "valid", "kernel_size": 3"#, "'x' (Conv2D with padding 'valid')"),
            ("Dense", r#", "activation": "elu""#, "'x' (Dense with activation elu)"),
            ("ReLU", r#", "max_value": 6.0"#, "'x' (ReLU with limits)"),
            ("MaxPooling2D", r#", "pool_size": [3, 3]"#, "'x' (MaxPooling2D with another window than 2×2)"),
        ] {
            let note = note_of(&layer(class, settings)).unwrap_or_default();
            assert!(note.contains(want), "{note} for {want}");
        }
    }
}
