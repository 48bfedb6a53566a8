//! Nodes that change the shape: flatten, reshape, squeeze and transpose.

use super::super::proto::Node;
use super::graph::{Begun, GraphReader, TO_CHANNELS_FIRST};
use crate::formats::Outcome;
use crate::model::{Shape, flatten};

/// The `perm` of a transpose that moves the channels of a map to the end.
const TO_CHANNELS_LAST: [i64; 4] = [0, 2, 3, 1];

impl GraphReader<'_> {
    /// Height, width and channels of the node's input.
    pub(super) fn map(&self, node: &Node) -> Outcome<(usize, usize, usize)> {
        match self.shape {
            Shape::Map(h, w, c) if self.dims.len() == 3 && !self.channels_last => Ok((h, w, c)),
            Shape::Flat(c) if self.dims == [c, 1, 1] => Ok((1, 1, c)),
            _ => Err(node.fault(format!("needs channels, height and width, not {:?}", self.dims))),
        }
    }

    /// An axis, which may count from the end; the batch is axis 0.
    pub(super) fn axis(&self, axis: i64) -> Option<usize> {
        let count = self.dims.len() + 1;
        usize::try_from(if axis < 0 { axis + count as i64 } else { axis }).ok().filter(|&axis| axis < count)
    }

    /// The axes of a reduction: an attribute in older files, the second input in newer ones.
    pub(super) fn axes(&self, node: &Node) -> Outcome<Vec<Option<usize>>> {
        let axes = match node.ints("axes") {
            Some(axes) => axes.iter().copied().map(Some).collect(),
            None => self.numbers(node, 1)?,
        };
        Ok(axes.iter().map(|axis| self.axis(axis.unwrap_or(0))).collect())
    }

    /// The axis of the channels in the file.
    pub(super) fn channel_axis(&self) -> usize {
        if self.channels_last { self.dims.len() } else { 1 }
    }

    pub(super) fn flatten(&mut self, node: &Node) -> Outcome<()> {
        match self.axis(node.int("axis", 1)) {
            Some(1) => self.reshape_to(node, &[self.shape.size()]),
            _ => Err(node.fault("mixes the images of a batch")),
        }
    }

    pub(super) fn squeeze(&mut self, node: &Node) -> Outcome<()> {
        let has_axes = node.ints("axes").is_some() || !node.input_name(1).is_empty();
        if !has_axes && self.batch == Some(1) {
            return Err(node.fault("also takes away the axis of the batch"));
        }
        let all = (1..=self.dims.len()).map(Some).collect();
        let axes = if has_axes { self.axes(node)? } else { all };
        let kept = self.dims.iter().enumerate().filter(|(i, len)| **len != 1 || !axes.contains(&Some(i + 1)));
        let target: Vec<usize> = kept.map(|(_, len)| *len).collect();
        self.reshape_to(node, &target)
    }

    pub(super) fn unsqueeze(&mut self, node: &Node) -> Outcome<()> {
        let axes = match node.ints("axes") {
            Some(axes) => axes.iter().copied().map(Some).collect(),
            None => self.numbers(node, 1)?,
        };
        let count = (self.dims.len() + 1 + axes.len()) as i64;
        let place = |axis: &Option<i64>| axis.map(|axis| if axis < 0 { axis.saturating_add(count) } else { axis });
        let mut places: Vec<i64> = axes.iter().filter_map(place).collect();
        places.sort();
        let mut target = self.dims.clone();
        for place in &places {
            match usize::try_from(*place).ok().and_then(|place| place.checked_sub(1)) {
                Some(at) if at <= target.len() && places.len() == axes.len() => target.insert(at, 1),
                _ => return Err(node.fault("adds an axis before that of the batch")),
            }
        }
        self.reshape_to(node, &target)
    }

    pub(super) fn reshape(&mut self, node: &Node) -> Outcome<()> {
        let target = self.target(node)?;
        self.reshape_to(node, &target)
    }

    /// The target shape of a Reshape, without the batch.
    fn target(&self, node: &Node) -> Outcome<Vec<usize>> {
        let shape = self.numbers(node, 1)?;
        let copies_zeros = node.int("allowzero", 0) == 0;
        let keeps_batch = match shape.first() {
            Some(None | Some(-1)) => true,
            Some(Some(0)) => copies_zeros,
            Some(batch) => *batch == self.batch,
            None => false,
        };
        let size = self.shape.size();
        let unfit = || node.fault("mixes the images of a batch, or has no fixed shape");
        let mut known: usize = 1;
        let mut target = vec![];
        for (i, len) in shape.iter().skip(1).enumerate() {
            let len = match len {
                Some(-1) => Some(0), // to be computed
                Some(0) if copies_zeros => self.dims.get(i).copied(),
                _ => len.and_then(|len| usize::try_from(len).ok()).filter(|&len| len > 0 && len <= size),
            };
            let Some(len) = len else { return Err(unfit()) };
            known = known.saturating_mul(len.max(1));
            target.push(len);
        }
        let open = target.iter().filter(|&&len| len == 0).count();
        if !keeps_batch || open > 1 || !size.is_multiple_of(known) {
            return Err(unfit());
        }
        target.iter_mut().filter(|len| **len == 0).for_each(|len| *len = size / known);
        Ok(target)
    }

    /// Whether the data is one number per channel, with axes of size 1 perhaps.
    pub(super) fn is_vector(&self) -> bool {
        self.shape.size() == self.shape.channels()
    }

    /// The channels are last if the first axis is not theirs.
    pub(super) fn set_channels_last(&mut self) {
        self.channels_last = self.dims.len() > 1 && self.dims[0] != self.shape.channels();
    }

    /// Flattens, or does nothing.
    pub(super) fn reshape_to(&mut self, node: &Node, target: &[usize]) -> Outcome<()> {
        if target == self.dims {
            return Ok(());
        }
        let channels = self.shape.channels();
        let only_adds_ones = target.iter().product::<usize>() == channels && target.contains(&channels);
        if self.is_vector() && only_adds_ones && (2..=3).contains(&target.len()) {
            self.dims = target.to_vec();
            self.set_channels_last();
            return Ok(());
        }
        if let (Shape::Map(h, w, c), false, 3) = (self.shape, self.channels_last, self.dims.len())
            && target == [c, h * w]
        {
            self.begun = Some(Begun::Mean(2)); // perhaps
            self.dims = target.to_vec();
            return Ok(());
        }
        if target != [self.shape.size()] {
            return Err(node.fault(format!("changes {:?} to {target:?}; only a flatten can be read", self.dims)));
        }
        if let Shape::Map(h, w, c) = self.shape {
            self.flattened = (!self.channels_last && (h, w) != (1, 1)).then_some((h, w, c));
            self.push(node, flatten(), vec![], vec![])?;
        }
        self.dims = target.to_vec(); // the mean over a map is a vector here already
        self.channels_last = false;
        Ok(())
    }

    /// Zeros around the map become part of the convolution after them.
    pub(super) fn pad(&mut self, node: &Node) -> Outcome<()> {
        let first = if self.channels_last { 1 } else { 2 };
        let count = self.dims.len() + 1;
        let pads: Vec<Option<i64>> = match node.ints("pads") {
            Some(pads) => pads.iter().copied().map(Some).collect(),
            None => self.numbers(node, 1)?,
        };
        let value = match node.input_name(2) {
            "" => node.float("value", 0.0),
            _ => self.vector(node, 2, 1)?[0],
        };
        let is_constant = matches!(node.text("mode"), "" | "constant") && value == 0.0;
        let padding = pads.get(first).copied().flatten().unwrap_or(0);
        let is_even = pads.iter().enumerate().all(|(i, &pad)| {
            let is_side = (first..first + 2).contains(&(i % count));
            pad == Some(if is_side { padding } else { 0 })
        });
        let is_map = self.dims.len() == 3 && pads.len() == 2 * count && node.input_name(3).is_empty();
        match usize::try_from(padding) {
            Ok(padding) if is_map && is_even && is_constant => {
                self.begun = (padding > 0).then_some(Begun::Padding(padding));
                Ok(())
            }
            _ => Err(node.fault("pads the map in a way that no convolution of this library does")),
        }
    }

    pub(super) fn transpose(&mut self, node: &Node) -> Outcome<()> {
        let perm = node.ints("perm").unwrap_or_default();
        let is_map = self.dims.len() == 3;
        if is_map && perm == TO_CHANNELS_FIRST && self.channels_last {
            self.dims.rotate_right(1);
            self.channels_last = false;
        } else if is_map && perm == TO_CHANNELS_LAST && !self.channels_last {
            self.dims.rotate_left(1);
            self.channels_last = true;
        } else if !perm.iter().copied().eq(0..=self.dims.len() as i64) {
            return Err(node.fault("swaps axes in a way that no layer of this library does"));
        }
        Ok(())
    }

    /// Puts values for the channels of a flattened map, `width` per channel, into our order.
    pub(super) fn ordered(&self, values: Vec<f32>, width: usize) -> Vec<f32> {
        let Some((h, w, c)) = self.flattened else { return values };
        let rows = (0..h * w).flat_map(|at| (0..c).map(move |channel| channel * h * w + at));
        rows.flat_map(|row| &values[row * width..(row + 1) * width]).copied().collect()
    }
}
