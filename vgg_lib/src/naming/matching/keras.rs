//! Keras' HDF5 files: layers are matched in order, whatever their names.
//!
//! Where a file leaves the order open, as a `.weights.h5` does for models within the model, the shapes of the layers
//! decide. If they allow several orders, the file is refused.

use super::super::layout::Layout;
use super::super::names::is_dense;
use super::super::view::View;
use super::{Matching, OTHER_NETWORK, Origin, ParamSource, other_counts};
use crate::formats::keras_layers::{KerasLayer, KerasLayers, Lanes, Member};
use crate::model::{Layer, Op};

/// More tries than any VGG needs.
const MAX_STEPS: usize = 20_000;
const NO_ORDER: &str = "does not say in which order its layers follow each other";

/// What to do about a file without an order. Even a `.keras` has none if the network is a subclass of `keras.Model`.
fn order_advice(whole: bool) -> &'static str {
    match whole {
        true => "rename the tensors with `load_weights_with` and `LoadOptions::rename`",
        false => {
            "save the whole model as .keras, which says it unless the model is a subclass, or rename the tensors with \
             `load_weights_with` and `LoadOptions::rename`"
        }
    }
}

/// The number of axes of the first tensor of a layer in the file.
fn rank(layer: &Layer) -> usize {
    match layer.op() {
        Op::Conv2d { .. } => 4,
        Op::Linear { .. } => 2,
        _ => 1,
    }
}

/// The same of a layer of the file.
fn rank_in(file: &View, layer: &KerasLayer) -> usize {
    layer.tensors.first().and_then(|(_, name)| file.get(name)).map_or(0, |tensor| tensor.shape.len())
}

impl Matching<'_> {
    pub fn keras_layers(&mut self, keras: &KerasLayers) -> Result<(), String> {
        self.pixels(&keras.pixels)?;
        self.notes.extend(keras.differences.clone());
        let (file, all) = (self.file, keras.layers());
        let count = |rank| all.iter().filter(|layer| rank_in(file, layer) == rank).count();
        let mut dense = count(2);
        let (mut ours, mut head) = self.trunk_and_head();
        if dense == 0 {
            self.keep(&head);
            head.clear();
        }
        ours.append(&mut head);
        let of_rank = |wanted| ours.iter().filter(|&&i| rank(&self.layers()[i]) == wanted).count();
        if let Some(what) = other_counts((count(4), count(1)), (of_rank(4), of_rank(1)), "") {
            return Err(format!("{what}; {OTHER_NETWORK}"));
        }
        // A file with fewer dense layers leaves the last ones of the model unchanged.
        let (ours, kept): (Vec<_>, Vec<_>) = ours.into_iter().partition(|&i| {
            let is_kept = is_dense(&self.layers()[i]) && dense == 0;
            dense -= usize::from(is_dense(&self.layers()[i]) && !is_kept);
            !is_kept
        });
        self.keep(&kept);

        let order = self.keras_order(keras, &ours)?;
        let layout = self.keras_layout(keras, &ours, &order);
        for (&layer, found) in ours.iter().zip(&order) {
            self.keras_layer(layer, found, layout);
        }
        let spare = all.into_iter().filter(|layer| rank_in(file, layer) == 2 && !order.contains(layer));
        self.spare.extend(spare.flat_map(|layer| layer.tensors.iter().map(|(_, name)| name.clone())));
        Ok(())
    }

    /// The layer of the file for each of our layers `ours`.
    fn keras_order<'k>(&self, keras: &'k KerasLayers, ours: &[usize]) -> Result<Vec<&'k KerasLayer>, String> {
        let all = keras.layers();
        let by_kind = || {
            let of_rank = |wanted| all.iter().filter(move |layer| rank_in(self.file, layer) == wanted);
            let (mut convolutions, mut dense, mut norms) = (of_rank(4), of_rank(2), of_rank(1));
            let next = |&layer: &usize| match rank(&self.layers()[layer]) {
                4 => convolutions.next(),
                2 => dense.next(),
                _ => norms.next(),
            };
            ours.iter().map(next).map(|layer| *layer.expect("counted")).collect::<Vec<_>>()
        };
        if let [lanes] = &keras.orders[..]
            && self.is_flat(lanes)
        {
            return Ok(by_kind());
        }
        for with_dense in [true, false] {
            let search = Search { matching: self, ours, with_dense, steps: 0, chosen: vec![], found: vec![] };
            let found = search
                .run(&keras.orders)
                .ok_or_else(|| format!("{NO_ORDER}, and there are too many to try; {}", order_advice(keras.whole)))?;
            match &found[..] {
                [] => {}
                [one] => return Ok(one.clone()),
                [one, other, ..] => {
                    let at = one.iter().zip(other).position(|(a, b)| a != b).expect("different");
                    let [one, other] = [one, other].map(|order| order[at].tensors[0].1.trim_end_matches("/vars/0"));
                    let ours = self.layers()[ours[at]].name();
                    let advice = order_advice(keras.whole);
                    return Err(format!("{NO_ORDER}: {one} or {other} may be layer '{ours}'; {advice}"));
                }
            }
        }
        let order = by_kind();
        let misfit = ours.iter().zip(&order).find_map(|(&layer, found)| self.misfit(layer, found));
        let misfit = misfit.unwrap_or_else(|| "its models are of other layers".into());
        Err(format!("these weights do not fit the model ({misfit}); {OTHER_NETWORK}"))
    }

    /// Whether the order of the layers of each kind is known.
    fn is_flat(&self, lanes: &Lanes) -> bool {
        let has = |lane: &Vec<Member>, wanted| {
            lane.iter().any(|member| matches!(member, Member::Layer(layer) if rank_in(self.file, layer) == wanted))
        };
        let no_models = lanes.iter().flatten().all(|member| matches!(member, Member::Layer(_)));
        no_models && [1, 2, 4].iter().all(|&rank| lanes.iter().filter(|lane| has(lane, rank)).count() <= 1)
    }

    /// What is wrong with the shapes of a layer of the file for a layer of the model.
    fn misfit(&self, layer: usize, found: &KerasLayer) -> Option<String> {
        let layer = &self.layers()[layer];
        found.tensors.iter().find_map(|(role, name)| {
            let (param, shape) =
                (layer.params().iter().find(|param| param.name == *role)?, &self.file.get(name)?.shape);
            let text = || format!("{name} has shape {shape:?}, but layer '{}' needs {:?}", layer.name(), param.dims);
            (*shape != param.dims).then(text)
        })
    }

    /// The layout of the file, by the shape of the first convolution that is not the same in both layouts. Keras 1 does
    /// not say which backend it used, but on TensorFlow its kernels were (k, k, in, out).
    fn keras_layout(&self, keras: &KerasLayers, ours: &[usize], order: &[&KerasLayer]) -> Layout {
        let mut channels_first = ours.iter().zip(order).filter_map(|(&layer, found)| {
            let [h, w, i, o] = self.layers()[layer].params()[0].dims[..] else { return None };
            let shape = &self.file.get(&found.tensors[0].1)?.shape;
            ([h, w, i, o] != [o, i, h, w]).then(|| *shape == [o, i, h, w])
        });
        let channels_first = channels_first.next().unwrap_or(false);
        Layout::Keras { channels_first, rotated: keras.theano.unwrap_or(channels_first) }
    }

    /// Takes a layer's parameters from the tensors that the file has for it. Those that Keras' layers can do without,
    /// biases and a batch norm's gamma and beta, are zeros and ones.
    fn keras_layer(&mut self, index: usize, found: &KerasLayer, layout: Layout) {
        let layer = &self.layers()[index];
        let is_known = |role: &str| layer.params().iter().any(|param| param.name == role);
        if !found.tensors.iter().all(|(role, _)| is_known(role)) {
            let (first, count, wanted) = (&found.tensors[0].1, found.tensors.len(), layer.params().len());
            let what = format!("the layer of {first} has {count} tensors, but layer '{}' needs {wanted}", layer.name());
            let advice = match (layer.op(), count) {
                (Op::BatchNorm { .. }, 3) => {
                    "the file does not say whether gamma or beta is missing: save the whole model as .keras"
                }
                _ => OTHER_NETWORK,
            };
            self.fault(index, what, advice);
            self.used.extend(found.tensors.iter().map(|(_, name)| name.clone()));
            return;
        }
        for (number, param) in layer.params().iter().enumerate() {
            if let Some((_, name)) = found.tensors.iter().find(|(role, _)| *role == param.name) {
                self.param(index, number, name.clone(), layout);
                continue;
            }
            let value = match (layer.op(), param.name) {
                (Op::BatchNorm { .. }, "weight") => 1.0,
                (_, "bias") => 0.0,
                _ => {
                    let first = &found.tensors[0].1;
                    self.fault(index, format!("the layer of {first} has no {}", param.name), OTHER_NETWORK);
                    continue;
                }
            };
            self.sources.push(ParamSource { layer: index, param: number, origin: Origin::Constant(value) });
        }
    }
}

/// Tries the orders that the file allows.
struct Search<'s, 'k> {
    matching: &'s Matching<'s>,
    ours: &'s [usize],
    /// Whether dense layers have to have the right shape, too.
    with_dense: bool,
    steps: usize,
    /// The layers of the file for the first of our layers.
    chosen: Vec<&'k KerasLayer>,
    found: Vec<Vec<&'k KerasLayer>>,
}

/// A model within the model that the search is in, and the place in each of its lanes.
#[derive(Clone)]
struct Inside<'k> {
    lanes: &'k Lanes,
    at: Vec<usize>,
}

impl<'k> Search<'_, 'k> {
    /// The orders whose shapes fit, up to two of them; `None` if there are too many to try.
    fn run(mut self, orders: &'k [Lanes]) -> Option<Vec<Vec<&'k KerasLayer>>> {
        orders.iter().for_each(|lanes| self.go(vec![Inside { lanes, at: vec![0; lanes.len()] }]));
        (self.found.len() > 1 || self.steps <= MAX_STEPS).then_some(self.found)
    }

    fn go(&mut self, mut models: Vec<Inside<'k>>) {
        self.steps += 1;
        if self.found.len() > 1 || self.steps > MAX_STEPS {
            return;
        }
        if self.chosen.len() == self.ours.len() {
            if !self.found.contains(&self.chosen) {
                self.found.push(self.chosen.clone());
            }
            return;
        }
        let is_done = |model: &Inside| model.lanes.iter().zip(&model.at).all(|(lane, &at)| at == lane.len());
        while models.pop_if(|model| is_done(model)).is_some() {}
        let Some(model) = models.last() else { return };
        let (lanes, places) = (model.lanes, model.at.clone());
        for (lane, at) in places.into_iter().enumerate() {
            let Some(member) = lanes[lane].get(at) else { continue };
            let mut after = models.clone();
            after.last_mut().expect("not empty").at[lane] += 1;
            match member {
                Member::Model(lanes) => {
                    after.push(Inside { lanes, at: vec![0; lanes.len()] });
                    self.go(after);
                }
                Member::Layer(layer) if !matches!(rank_in(self.matching.file, layer), 1 | 2 | 4) => self.go(after),
                Member::Layer(layer) if self.fits(layer) => {
                    self.chosen.push(layer);
                    self.go(after);
                    self.chosen.pop();
                }
                Member::Layer(_) => {}
            }
        }
    }

    /// Whether the layer can be the next of ours.
    fn fits(&self, layer: &KerasLayer) -> bool {
        let next = self.ours[self.chosen.len()];
        let kind = rank(&self.matching.layers()[next]);
        kind == rank_in(self.matching.file, layer)
            && (kind == 2 && !self.with_dense || self.matching.misfit(next, layer).is_none())
    }
}
