//! Nodes all of whose inputs are constants: those that compute whole numbers, mostly shapes, and those that give weights
//! another form. The values of weights are not touched: a transposed tensor is a view of the one in the file.

use super::super::proto::{self, Attribute, Node};
use super::MAX_NUMBERS;
use super::graph::{GraphReader, GraphValue};
use super::weights::Weights;
use crate::formats::Outcome;

/// Whole numbers; `None` is the number of images in the batch.
pub(super) type Numbers = Vec<Option<i64>>;

/// Whole numbers in the form of a tensor.
#[derive(Clone)]
pub(super) struct NumberTensor {
    pub dims: Vec<usize>,
    pub numbers: Numbers,
}

impl NumberTensor {
    pub fn list(numbers: Numbers) -> NumberTensor {
        NumberTensor { dims: vec![numbers.len()], numbers }
    }
}

impl<'a> GraphReader<'a> {
    /// The value of a node all of whose inputs are constants.
    pub(super) fn constant(&self, node: &'a Node) -> Outcome<GraphValue<'a>> {
        if node.op_type == "Constant" {
            return self.constant_node(node);
        }
        if let Some(GraphValue::Weights(weights)) = self.values.get(node.input_name(0)) {
            return match self.reshaped(node, weights) {
                Some(reshaped) => Ok(GraphValue::Weights(reshaped?)),
                // Whole numbers are stored like weights.
                None => self.number_node(node),
            };
        }
        self.number_node(node)
    }

    fn constant_node(&self, node: &'a Node) -> Outcome<GraphValue<'a>> {
        Ok(match node.attribute.first() {
            Some(Attribute { t: Some(tensor), .. }) => GraphValue::Weights(Weights::of(tensor)),
            Some(Attribute { i: Some(number), .. }) => {
                GraphValue::Numbers(NumberTensor { dims: vec![], numbers: vec![Some(*number)] })
            }
            Some(Attribute { f: Some(number), .. }) => GraphValue::Weights(Weights::new(vec![], vec![*number])),
            Some(Attribute { name, ints, .. }) if name == "value_ints" => {
                GraphValue::Numbers(NumberTensor::list(ints.iter().copied().map(Some).collect()))
            }
            _ => return Err(node.fault("is neither a tensor nor whole numbers")),
        })
    }

    /// Weights in another form; `None` if they are whole numbers, or the node computes with them.
    fn reshaped(&self, node: &Node, weights: &Weights<'a>) -> Option<Outcome<Weights<'a>>> {
        if node.op_type == "Identity" {
            return Some(Ok(weights.clone()));
        }
        if !weights.are_floats() {
            return None;
        }
        let reshaped = match node.op_type.as_str() {
            // The values stay as precise as they are stored.
            "Cast" if is_float(node) => Ok(Some(weights.clone())),
            "Transpose" => Ok(weights.transposed(node.ints("perm"))),
            "Reshape" => self.numbers(node, 1).map(|target| weights.reshaped(&target)),
            "Flatten" if node.int("axis", 1) == 1 => {
                let first = weights.shape().first().map(|&len| len as i64);
                Ok(weights.reshaped(&[first, Some(-1)]))
            }
            "Unsqueeze" | "Squeeze" => self.own_axes(node).map(|axes| match node.op_type.as_str() {
                "Squeeze" => weights.squeezed(&axes),
                _ => weights.unsqueezed(&axes),
            }),
            _ => return None,
        };
        Some(reshaped.and_then(|reshaped| {
            reshaped
                .ok_or_else(|| node.fault("gives weights a form that they cannot be read in; simplify the file first"))
        }))
    }

    /// The axes of a node that takes weights: an attribute in older files, the second input in newer ones.
    fn own_axes(&self, node: &Node) -> Outcome<Numbers> {
        match node.ints("axes") {
            Some(axes) => Ok(axes.iter().copied().map(Some).collect()),
            None if node.input.len() < 2 => Ok(vec![]),
            None => self.numbers(node, 1),
        }
    }

    fn number_node(&self, node: &'a Node) -> Outcome<GraphValue<'a>> {
        let tensor = match node.op_type.as_str() {
            "Cast" if is_float(node) => {
                let NumberTensor { dims, numbers } = self.number_tensor(node, 0)?;
                let values: Option<Vec<f32>> = numbers.into_iter().map(|number| Some(number? as f32)).collect();
                let values = values.ok_or_else(|| node.fault("computes with the number of images"))?;
                return Ok(GraphValue::Weights(Weights::new(dims, values)));
            }
            "Identity" | "Cast" => self.number_tensor(node, 0)?,
            "Unsqueeze" | "Squeeze" => NumberTensor::list(self.numbers(node, 0)?),
            "Concat" => {
                let parts: Outcome<Vec<_>> = (0..node.input.len()).map(|i| self.numbers(node, i)).collect();
                NumberTensor::list(parts?.concat())
            }
            "Gather" => {
                let picked = gather(&self.numbers(node, 0)?, &self.numbers(node, 1)?);
                NumberTensor::list(picked.ok_or_else(|| node.fault("picks a number that does not exist"))?)
            }
            "Slice" => self.slice(node)?,
            "Reshape" => self.reshape_numbers(node)?,
            "Transpose" => transpose(self.number_tensor(node, 0)?),
            "ConstantOfShape" => {
                let count =
                    self.numbers(node, 0)?.into_iter().try_fold(1, |product: i64, len| product.checked_mul(len?));
                let count = count.filter(|count| (0..=MAX_NUMBERS as i64).contains(count));
                let count = count.ok_or_else(|| node.fault("gives more numbers than a shape has"))?;
                let value = match node.attribute("value").and_then(|value| value.t.as_ref()) {
                    Some(tensor) => tensor.whole_numbers().and_then(|numbers| *numbers.first()?),
                    None => Some(0),
                };
                NumberTensor::list(vec![value; count as usize])
            }
            "Add" | "Sub" | "Mul" | "Div" => {
                NumberTensor::list(arithmetic(&node.op_type, &self.numbers(node, 0)?, &self.numbers(node, 1)?))
            }
            "ReduceProd" => {
                let mut all = self.numbers(node, 0)?.into_iter();
                NumberTensor::list(vec![all.try_fold(1i64, |product, x| product.checked_mul(x?))])
            }
            _ => return Err(node.unknown()),
        };
        if tensor.numbers.len() > MAX_NUMBERS {
            return Err(node.fault("gives more numbers than a shape has"));
        }
        Ok(GraphValue::Numbers(tensor))
    }

    /// Rows of a list or a matrix.
    fn slice(&self, node: &Node) -> Outcome<NumberTensor> {
        let NumberTensor { dims, numbers } = self.number_tensor(node, 0)?;
        let rows = dims.first().copied().unwrap_or(1);
        let row = numbers.len() / rows.max(1);
        let end = |name: &str, input: usize| -> Outcome<i64> {
            let number = match node.ints(name) {
                Some(numbers) => numbers.first().copied(),
                None => self.numbers(node, input)?.first().copied().flatten(),
            };
            number.ok_or_else(|| node.fault("has no fixed start and end"))
        };
        let step = if node.input.len() > 4 { self.numbers(node, 4)?.first().copied().flatten() } else { Some(1) };
        let places = places(rows, end("starts", 1)?, end("ends", 2)?, step.unwrap_or(0));
        let places = places.ok_or_else(|| node.fault("takes steps other than 1 and -1"))?;
        let numbers: Numbers = places.iter().flat_map(|at| numbers[at * row..][..row].to_vec()).collect();
        let dims = std::iter::once(places.len()).chain(dims.into_iter().skip(1)).collect();
        Ok(NumberTensor { dims, numbers })
    }

    fn reshape_numbers(&self, node: &Node) -> Outcome<NumberTensor> {
        let numbers = self.numbers(node, 0)?;
        let target = self.numbers(node, 1)?;
        let known: i64 = target.iter().flatten().filter(|&&len| len > 0).product();
        let open = (numbers.len() as i64).checked_div(known.max(1)).unwrap_or(0);
        let dims = target.iter().map(|len| match len {
            Some(-1) => usize::try_from(open).ok(),
            Some(len) => usize::try_from(*len).ok().filter(|&len| len > 0),
            None => None,
        });
        let dims: Option<Vec<usize>> = dims.collect();
        let fits = |dims: &Vec<usize>| dims.iter().product::<usize>() == numbers.len();
        let dims = dims.filter(fits).ok_or_else(|| node.fault("gives numbers a form that they do not fit"))?;
        Ok(NumberTensor { dims, numbers })
    }

    /// The sizes of the axes of the data that the node takes.
    pub(super) fn shape_of(&self, node: &'a Node) -> Outcome<GraphValue<'a>> {
        let Some(GraphValue::Data(dims)) = self.values.get(node.input_name(0)) else { return Err(node.unknown()) };
        let all: Numbers = std::iter::once(self.batch).chain(dims.iter().map(|&len| Some(len as i64))).collect();
        let place = |name: &str, absent: usize| clamped(node.int(name, absent as i64), all.len());
        let (start, end) = (place("start", 0), place("end", all.len()));
        Ok(GraphValue::Numbers(NumberTensor::list(all[start.min(end)..end].to_vec())))
    }

    /// The whole numbers that the node takes as this input.
    pub(super) fn numbers(&self, node: &Node, input: usize) -> Outcome<Numbers> {
        self.number_tensor(node, input).map(|tensor| tensor.numbers)
    }

    pub(super) fn number_tensor(&self, node: &Node, input: usize) -> Outcome<NumberTensor> {
        let tensor = match self.values.get(node.input_name(input)) {
            Some(GraphValue::Numbers(tensor)) => Some(tensor.clone()),
            Some(GraphValue::Weights(weights)) => weights.whole_numbers(),
            _ => None,
        };
        tensor.ok_or_else(|| node.fault(format!("needs a few whole numbers as its input {}", input + 1)))
    }
}

/// Whether the node casts to floating-point numbers.
pub(super) fn is_float(cast: &Node) -> bool {
    let kind = i32::try_from(cast.int("to", 0));
    kind.is_ok_and(|kind| {
        [proto::Tensor::FLOAT, proto::Tensor::FLOAT16, proto::Tensor::DOUBLE, proto::Tensor::BFLOAT16].contains(&kind)
    })
}

/// A place in a list of this length; negative ones count from the end.
fn clamped(place: i64, len: usize) -> usize {
    let len = len as i64;
    (if place < 0 { place.saturating_add(len) } else { place }).clamp(0, len) as usize
}

/// The places from `start` to before `end`, as Python's slices count; `None` for steps other than 1 and -1.
pub(super) fn places(len: usize, start: i64, end: i64, step: i64) -> Option<Vec<usize>> {
    match step {
        1 => Some((clamped(start, len)..clamped(end, len)).collect()),
        -1 => {
            let start = if start >= len as i64 { len } else { clamped(start, len) + 1 };
            let end = if end.saturating_add(len as i64) < 0 { 0 } else { clamped(end, len) + 1 };
            Some((end.min(start)..start.min(len)).rev().collect())
        }
        _ => None,
    }
}

fn gather(from: &[Option<i64>], indices: &[Option<i64>]) -> Option<Numbers> {
    let place = |index: &Option<i64>| {
        let index = (*index)?;
        from.get(usize::try_from(if index < 0 { index.saturating_add(from.len() as i64) } else { index }).ok()?)
            .copied()
    };
    indices.iter().map(place).collect()
}

/// Swaps the axes of a matrix; lists stay as they are.
fn transpose(NumberTensor { dims, numbers }: NumberTensor) -> NumberTensor {
    let [rows, columns] = dims[..] else { return NumberTensor { dims, numbers } };
    let swapped = (0..columns).flat_map(|column| (0..rows).map(move |row| row * columns + column));
    NumberTensor { dims: vec![columns, rows], numbers: swapped.map(|at| numbers[at]).collect() }
}

/// Computes with two lists; the shorter one is repeated.
fn arithmetic(operator: &str, a: &Numbers, b: &Numbers) -> Numbers {
    let (len, empty) = (a.len().max(b.len()), a.is_empty() || b.is_empty());
    let compute = |i: usize| {
        let (x, y) = a[i % a.len()].zip(b[i % b.len()])?;
        match operator {
            "Add" => x.checked_add(y),
            "Sub" => x.checked_sub(y),
            "Mul" => x.checked_mul(y),
            _ => x.checked_div(y),
        }
    };
    if empty { vec![] } else { (0..len).map(compute).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_count_as_in_python() {
        let cases = [
            ((0, i64::MAX, 1), vec![0, 1, 2, 3]),
            ((1, -1, 1), vec![1, 2]),
            ((-2, 9, 1), vec![2, 3]),
            ((3, 1, 1), vec![]),
            ((-1, i64::MIN, -1), vec![3, 2, 1, 0]),
            ((i64::MAX, -i64::MAX, -1), vec![3, 2, 1, 0]),
            ((3, 0, -1), vec![3, 2, 1]),
            ((-2, -4, -1), vec![2, 1]),
            ((0, 3, -1), vec![]),
        ];
        for ((start, end, step), want) in cases {
            assert_eq!(places(4, start, end, step).unwrap(), want, "{start}:{end}:{step}");
        }
        assert!(places(4, 0, 4, 2).is_none() && places(4, 0, 4, 0).is_none());
    }
}
