//! Nodes that compute whole numbers, mostly shapes.

use super::super::proto::{Attribute, Node};
use super::MAX_NUMBERS;
use super::graph::{GraphReader, GraphValue};
use crate::formats::Outcome;

type Numbers = Vec<Option<i64>>;

impl<'a> GraphReader<'a> {
    /// The value of a node all of whose inputs are constants.
    pub(super) fn constant(&self, node: &'a Node) -> Outcome<GraphValue<'a>> {
        let numbers = match node.op_type.as_str() {
            "Constant" => match node.attribute.first() {
                Some(Attribute { t: Some(tensor), .. }) => return Ok(GraphValue::Tensor(tensor)),
                Some(Attribute { i: Some(number), .. }) => vec![Some(*number)],
                Some(Attribute { name, ints, .. }) if name == "value_ints" => ints.iter().copied().map(Some).collect(),
                _ => return Err(node.fault("is neither a tensor nor whole numbers")),
            },
            "Identity" => match self.values.get(node.input_name(0)) {
                Some(GraphValue::Tensor(tensor)) => return Ok(GraphValue::Tensor(tensor)),
                _ => self.numbers(node, 0)?,
            },
            "Cast" | "Unsqueeze" | "Squeeze" => self.numbers(node, 0)?,
            "Concat" => {
                let parts: Outcome<Vec<_>> = (0..node.input.len()).map(|i| self.numbers(node, i)).collect();
                parts?.concat()
            }
            "Gather" => gather(&self.numbers(node, 0)?, &self.numbers(node, 1)?)
                .ok_or_else(|| node.fault("picks a number that does not exist"))?,
            "Slice" => self.slice(node)?,
            "Mul" => multiply(self.numbers(node, 0)?, self.numbers(node, 1)?),
            "ReduceProd" => {
                let mut all = self.numbers(node, 0)?.into_iter();
                vec![all.try_fold(1i64, |product, x| product.checked_mul(x?))]
            }
            _ => return Err(node.unknown()),
        };
        if numbers.len() > MAX_NUMBERS {
            return Err(node.fault("gives more numbers than a shape has"));
        }
        Ok(GraphValue::Numbers(numbers))
    }

    fn slice(&self, node: &Node) -> Outcome<Numbers> {
        let from = self.numbers(node, 0)?;
        let end = |name: &str, input: usize| -> Outcome<usize> {
            let number = match node.ints(name) {
                Some(numbers) => numbers.first().copied(),
                None => self.numbers(node, input)?.first().copied().flatten(),
            };
            Ok(clamped(number.ok_or_else(|| node.fault("has no fixed start and end"))?, from.len()))
        };
        let (start, end) = (end("starts", 1)?, end("ends", 2)?);
        if node.input.len() > 4 && self.numbers(node, 4)? != [Some(1)] {
            return Err(node.fault("takes steps other than 1"));
        }
        Ok(from[start.min(end)..end].to_vec())
    }

    /// The sizes of the axes of the data that the node takes.
    pub(super) fn shape_of(&self, node: &'a Node) -> Outcome<GraphValue<'a>> {
        let Some(GraphValue::Data(dims)) = self.values.get(node.input_name(0)) else { return Err(node.unknown()) };
        let all: Numbers = std::iter::once(self.batch).chain(dims.iter().map(|&len| Some(len as i64))).collect();
        let place = |name: &str, absent: usize| clamped(node.int(name, absent as i64), all.len());
        let (start, end) = (place("start", 0), place("end", all.len()));
        Ok(GraphValue::Numbers(all[start.min(end)..end].to_vec()))
    }

    /// The whole numbers that the node takes as this input.
    pub(super) fn numbers(&self, node: &Node, input: usize) -> Outcome<Numbers> {
        let numbers = match self.values.get(node.input_name(input)) {
            Some(GraphValue::Numbers(numbers)) => Some(numbers.clone()),
            Some(GraphValue::Tensor(tensor)) => tensor.whole_numbers(),
            _ => None,
        };
        numbers.ok_or_else(|| node.fault(format!("needs a few whole numbers as its input {}", input + 1)))
    }
}

/// A place in a list of this length; negative ones count from the end.
fn clamped(place: i64, len: usize) -> usize {
    let len = len as i64;
    (if place < 0 { place.saturating_add(len) } else { place }).clamp(0, len) as usize
}

fn gather(from: &[Option<i64>], indices: &[Option<i64>]) -> Option<Numbers> {
    let place = |index: &Option<i64>| {
        let index = (*index)?;
        from.get(usize::try_from(if index < 0 { index + from.len() as i64 } else { index }).ok()?).copied()
    };
    indices.iter().map(place).collect()
}

/// The shorter list is repeated.
fn multiply(a: Numbers, b: Numbers) -> Numbers {
    let (long, short) = if a.len() < b.len() { (b, a) } else { (a, b) };
    let product = |(i, x): (usize, &Option<i64>)| {
        let (x, y) = x.zip(*short.get(i % short.len().max(1))?)?;
        x.checked_mul(y)
    };
    long.iter().enumerate().map(product).collect()
}
