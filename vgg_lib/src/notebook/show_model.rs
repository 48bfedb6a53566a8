//! How models, layers and parameters look in a notebook.

use super::show::{Show, Shown};
use super::show_values::described;
use crate::model::{
    AdaptiveAvgPool2d, BatchNorm, Conv2d, Dropout, Flatten, GlobalAvgPool, Layer, LayerSpec, Linear, MaxPool2d, Param,
    Preprocess, Relu, Sequential, Softmax,
};
use crate::table::{Column, Table};

/// The summary, for images of the size that the model was built for.
impl Show for Sequential {
    fn shown(&self) -> Shown {
        self.summary(self.input_shape()).shown()
    }
}

/// What was written to make the layer, then its parameters.
impl Show for Layer {
    fn shown(&self) -> Shown {
        let mut text = format!("{self:?}");
        for param in self.params() {
            text += &format!("\n  {}", parameter(param));
        }
        Shown::text(&text)
    }
}

fn parameter(param: &Param) -> String {
    format!("{param:?}, {}", described(&param.tensor().as_vec()))
}

impl Show for [Layer] {
    fn shown(&self) -> Shown {
        let columns = [Column::left("Layer", 0), Column::left("What it computes", 0), Column::left("Parameters", 0)];
        let row = |layer: &Layer| {
            let params = layer.params().iter().map(|param| format!("{param:?}"));
            [layer.name().to_string(), format!("{:?}", layer.op()), params.collect::<Vec<_>>().join(", ")]
        };
        let table = Table { columns, rows: self.iter().map(row).collect() };
        Shown::html(table.html(), &table.lines().join("\n"))
    }
}

impl Show for Param {
    fn shown(&self) -> Shown {
        Shown::text(&parameter(self))
    }
}

impl Show for [Param] {
    fn shown(&self) -> Shown {
        Shown::text(&self.iter().map(parameter).collect::<Vec<_>>().join("\n"))
    }
}

/// Layers before they are part of a model.
macro_rules! specs {
    ($($type:ty),*) => {$(
        impl Show for $type {
            fn shown(&self) -> Shown {
                Shown::debug(self)
            }
        }
    )*};
}

specs!(
    AdaptiveAvgPool2d,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    LayerSpec,
    Linear,
    MaxPool2d,
    Preprocess,
    Relu,
    Softmax
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::*;

    fn model() -> Sequential {
        let mut model = Sequential::new((8, 8, 3), Seed(0));
        model.push("conv", conv2d(4).relu().l2(0.5).init(Init::Normal(0.0))).unwrap();
        model.push("pool", max_pool2d()).unwrap();
        model.freeze("conv").unwrap();
        model
    }

    fn text(value: &(impl Show + ?Sized)) -> String {
        value.shown().contents.iter().find(|(mime, _)| *mime == "text/plain").expect("text").1.clone()
    }

    #[test]
    fn a_model_shows_its_summary_and_its_fault() {
        let mut model = model();
        assert_eq!(model.shown(), model.summary((8, 8, 3)).shown());
        let _ = model.push("conv", relu());
        let shown = model.shown();
        assert!(shown.contents.iter().all(|(_, content)| content.contains("layer 'conv' was not added")), "{shown:?}");
        assert_eq!(format!("{model:?}"), "Sequential for (8, 8, 3): 2 layers, 112 parameters");
    }

    #[test]
    fn a_layer_shows_its_settings_and_parameters() {
        let conv = "conv: Conv2d { filters: 4, kernel: 3, relu: true }, l2(0.5), frozen";
        let zeros = "from 0 to 0, mean 0: 0, 0, 0, 0";
        let model = model();
        let layer = model.layer("conv").unwrap();
        assert_eq!(format!("{layer:?}"), conv);
        let rest = ", 0, 0, 0, 0, 0, 0, …";
        assert_eq!(text(layer), format!("{conv}\n  weight (3, 3, 3, 4), {zeros}{rest}\n  bias (4), {zeros}"));
        assert_eq!(text(&layer.params()[1]), format!("bias (4), {zeros}"));
        assert_eq!(text(layer.params()).lines().count(), 2);
        assert_eq!(text(model.layers()).lines().count(), 3);
    }
}
