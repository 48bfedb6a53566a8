//! Nodes that take the channels of an image apart and put them together in reverse order, red, green, blue to blue,
//! green, red: Gather, a Slice with step -1, or Split and Concat in several dialects. The result is a setting of the
//! preprocessing layer.

use super::super::proto::Node;
use super::MAX_NUMBERS;
use super::constants::places;
use super::graph::{GraphReader, GraphValue};
use crate::formats::Outcome;
use crate::model::{Op, preprocess};

/// An end of a slice that stands for none; tf2onnx writes this one.
const NO_END: i64 = 1_000_000_000;

/// Some of the channels of the data.
#[derive(Clone)]
pub(super) struct Channels<'a> {
    /// The name of the data.
    from: &'a str,
    channels: Vec<usize>,
    form: Form,
}

#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// The axes of the data.
    Map,
    /// One channel, without its axis.
    Plane,
    /// The axis of the channels comes before that of the batch.
    Swapped,
    /// A sequence of channels.
    Sequence,
}

impl<'a> GraphReader<'a> {
    /// What each output of the node stands for, if it picks channels from the data; `None` if it does something else.
    pub(super) fn pick(&mut self, node: &'a Node) -> Outcome<Option<Vec<GraphValue<'a>>>> {
        let (axis, count) = (self.channel_axis(), self.shape.channels());
        if self.dims.len() != 3 || count > MAX_NUMBERS {
            return Ok(None);
        }
        let is_channels = |absent| self.axis(node.int("axis", absent)) == Some(axis);
        let all = (0..count).collect::<Vec<_>>();
        let (channels, form) = match node.op_type.as_str() {
            "Split" if is_channels(0) => {
                let mut parts = vec![];
                for part in self.parts(node, count)? {
                    let channels = part.collect();
                    parts.push(self.picked(node, Channels { from: self.tip(), channels, form: Form::Map })?);
                }
                return Ok(Some(parts));
            }
            "SplitToSequence" if is_channels(0) && self.numbers(node, 1)? == [Some(1)] => (all, Form::Sequence),
            "Slice" => (self.sliced(node)?, Form::Map),
            "Gather" if is_channels(0) => {
                let is_plane = self.number_tensor(node, 1)?.dims.is_empty();
                (self.channel_numbers(node, 1, count)?, if is_plane { Form::Plane } else { Form::Map })
            }
            "Transpose" if node.is("perm", &[1, 0, 2, 3]) && axis == 1 => (all, Form::Swapped),
            _ => return Ok(None),
        };
        Ok(Some(vec![self.picked(node, Channels { from: self.tip(), channels, form })?]))
    }

    /// What the output of a node stands for that takes picked channels.
    pub(super) fn repick(&mut self, node: &Node) -> Outcome<GraphValue<'a>> {
        let mut inputs = vec![];
        for name in &node.input {
            match self.values.get(name.as_str()) {
                Some(GraphValue::Channels(channels)) => inputs.push(channels.clone()),
                Some(GraphValue::Weights(_) | GraphValue::Numbers(_)) if inputs.len() == 1 => {}
                _ => return Err(node.unknown()),
            }
        }
        let (axis, count) = (self.channel_axis(), self.shape.channels());
        let at = |axis| self.axis(axis);
        let Channels { from, channels, form } = inputs[0].clone();
        let (channels, form) = match (node.op_type.as_str(), form) {
            ("Identity" | "Cast", form) => (channels, form),
            ("Concat", Form::Map) if at(node.int("axis", 0)) == Some(axis) => {
                if !inputs.iter().all(|input| input.form == Form::Map && self.is_tip(input.from)) {
                    return Err(node.fault("joins two branches; only chains of layers can be read"));
                }
                (inputs.into_iter().flat_map(|input| input.channels).take(MAX_NUMBERS).collect(), Form::Map)
            }
            ("Unsqueeze", Form::Plane) if self.axes(node)? == [Some(axis)] => (channels, Form::Map),
            ("SequenceAt", Form::Sequence) => (self.channel_numbers(node, 1, count)?, Form::Map),
            ("GatherND", Form::Swapped) if node.int("batch_dims", 0) == 0 => {
                (self.channel_numbers(node, 1, count)?, Form::Swapped)
            }
            ("Gather", Form::Swapped) if node.int("axis", 0) == 0 => {
                (self.channel_numbers(node, 1, count)?, Form::Swapped)
            }
            ("Transpose", Form::Swapped) if node.is("perm", &[1, 0, 2, 3]) => (channels, Form::Map),
            _ => return Err(node.unknown()),
        };
        self.picked(node, Channels { from, channels, form })
    }

    /// Channels that are all there are again are the data.
    fn picked(&mut self, node: &Node, picked: Channels<'a>) -> Outcome<GraphValue<'a>> {
        let count = self.shape.channels();
        if picked.form != Form::Map || picked.channels.len() < count {
            return Ok(GraphValue::Channels(picked));
        }
        if !self.is_tip(picked.from) {
            return Err(node.fault("takes channels that another layer already took; only chains of layers can be read"));
        }
        if picked.channels.iter().copied().eq((0..count).rev()) && count == 3 {
            self.reverse_channels(node)?;
        } else if !picked.channels.iter().copied().eq(0..count) {
            return Err(node.fault("picks values in a way that no layer here does"));
        }
        Ok(GraphValue::Data(self.dims.clone()))
    }

    /// Red, green, blue to blue, green, red.
    fn reverse_channels(&mut self, node: &Node) -> Outcome<()> {
        if self.layers.is_empty() {
            self.push_same(node, preprocess([0.0; 3]))?;
        }
        match self.layers.last_mut().map(|layer| &mut layer.spec.op) {
            Some(Op::Preprocess { bgr, .. }) => *bgr = !*bgr,
            _ => return Err(node.fault("reverses the channels after the first layer, which no layer here does")),
        }
        Ok(())
    }

    /// The channels that each output of a Split gets.
    fn parts(&self, node: &Node, count: usize) -> Outcome<Vec<std::ops::Range<usize>>> {
        let outputs = node.output.len().max(1);
        let equal = vec![Some(count.div_ceil(outputs) as i64); outputs];
        let lens = match node.ints("split") {
            Some(lens) => lens.iter().copied().map(Some).collect(),
            None if node.input_name(1).is_empty() => equal,
            None => self.numbers(node, 1)?,
        };
        let mut start = 0;
        let mut next = |len: Option<i64>| {
            let end = usize::try_from(len?).ok()?.checked_add(start)?.min(count);
            let part = start..end;
            start = end;
            Some(part)
        };
        let parts: Option<Vec<_>> = lens.into_iter().map(&mut next).collect();
        let parts = parts.filter(|parts| parts.len() == outputs);
        parts.ok_or_else(|| node.fault("splits the channels in a way that cannot be read"))
    }

    /// The channels that a Slice of the whole map takes.
    fn sliced(&self, node: &Node) -> Outcome<Vec<usize>> {
        let list = |name: &str, input: usize| match node.ints(name) {
            Some(numbers) => Ok(numbers.iter().copied().map(Some).collect()),
            None if node.input_name(input).is_empty() => Ok(vec![]),
            None => self.numbers(node, input),
        };
        let (starts, ends) = (list("starts", 1)?, list("ends", 2)?);
        let (axes, steps) = (list("axes", 3)?, list("steps", 4)?);
        let unread = || node.fault("cuts out a part of the data, which no layer here does");
        let mut channels = (0..self.shape.channels()).collect();
        for (i, (start, end)) in starts.into_iter().zip(ends).enumerate() {
            let axis = axes.get(i).copied().unwrap_or(Some(i as i64)).and_then(|axis| self.axis(axis));
            let step = steps.get(i).copied().unwrap_or(Some(1));
            let (Some(axis), Some(start), Some(step)) = (axis, start, step) else { return Err(unread()) };
            let is_whole = start == 0 && step == 1;
            match (axis, end) {
                (0, None) if is_whole => {}
                (0, Some(end)) if is_whole && (end >= NO_END || Some(end) == self.batch) => {}
                (0, _) | (_, None) => return Err(unread()),
                (axis, Some(end)) => {
                    let len = self.dims[axis - 1];
                    let taken = places(len, start, end, step).ok_or_else(unread)?;
                    if axis == self.channel_axis() {
                        channels = taken;
                    } else if !taken.into_iter().eq(0..len) {
                        return Err(unread());
                    }
                }
            }
        }
        if channels.is_empty() { Err(unread()) } else { Ok(channels) }
    }

    /// The numbers of channels that the node takes as this input.
    fn channel_numbers(&self, node: &Node, input: usize, count: usize) -> Outcome<Vec<usize>> {
        let channel = |number: &Option<i64>| {
            let number = (*number)?;
            let number = if number < 0 { number.saturating_add(count as i64) } else { number };
            usize::try_from(number).ok().filter(|&channel| channel < count)
        };
        let channels: Option<Vec<usize>> = self.numbers(node, input)?.iter().map(channel).collect();
        let channels = channels.filter(|channels| !channels.is_empty());
        channels.ok_or_else(|| node.fault("picks channels that do not exist"))
    }
}
