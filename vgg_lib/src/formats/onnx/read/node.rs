//! Access to the attributes of nodes and the values of tensors, and descriptions of them for errors.

use super::super::proto::{self, Attribute, Node};
use super::MAX_NUMBERS;
use crate::formats::Outcome;
use crate::formats::tensors::{FileTensor, FloatType};
use half::{bf16, f16};
use std::fmt::Display;

/// Whether these are ONNX's own operators.
pub(super) fn is_onnx(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
}

impl Node {
    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attribute.iter().find(|attribute| attribute.name == name)
    }

    pub(super) fn int(&self, name: &str, absent: i64) -> i64 {
        self.attribute(name).and_then(|attribute| attribute.i).unwrap_or(absent)
    }

    pub(super) fn float(&self, name: &str, absent: f32) -> f32 {
        self.attribute(name).and_then(|attribute| attribute.f).unwrap_or(absent)
    }

    pub(super) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|attribute| &attribute.ints[..])
    }

    pub(super) fn text(&self, name: &str) -> &str {
        self.attribute(name).and_then(|attribute| str::from_utf8(&attribute.s).ok()).unwrap_or_default()
    }

    pub(super) fn is(&self, name: &str, numbers: &[i64]) -> bool {
        self.ints(name) == Some(numbers)
    }

    /// Whether all numbers of the attribute are this one; true if it is absent.
    pub(super) fn all(&self, name: &str, number: i64) -> bool {
        self.ints(name).unwrap_or_default().iter().all(|&n| n == number)
    }

    /// The name of an input, "" if there is no such input.
    pub(super) fn input_name(&self, index: usize) -> &str {
        self.input.get(index).map_or("", String::as_str)
    }

    /// A sentence about the node.
    pub(super) fn fault(&self, what: impl Display) -> String {
        let operator = shown(&self.op_type);
        match (self.name.as_str(), self.output.first()) {
            ("", output) => format!("its node for '{}' ({operator}) {what}", shown(output.map_or("", String::as_str))),
            (name, _) => format!("its node '{}' ({operator}) {what}", shown(name)),
        }
    }

    pub(super) fn unknown(&self) -> String {
        self.fault(
            "has no counterpart among this library's layers, which are convolution, ReLU, batch norm, pooling, \
             flatten, dense, dropout and softmax",
        )
    }

    /// Whether the node computes with the whole numbers of a quantized model.
    pub(super) fn is_quantized(&self) -> bool {
        let operator = self.op_type.as_str();
        operator.starts_with("QLinear")
            || operator.ends_with("Integer")
            || operator.ends_with("QuantizeLinear")
            || operator.starts_with("DequantizeLinear")
    }
}

impl proto::Tensor {
    /// The type of the numbers, if they are read as they are stored.
    pub(super) fn float_type(&self) -> Option<FloatType> {
        match self.data_type {
            proto::Tensor::FLOAT => Some(FloatType::F32),
            proto::Tensor::FLOAT16 => Some(FloatType::F16),
            proto::Tensor::BFLOAT16 => Some(FloatType::Bf16),
            _ => None,
        }
    }

    /// The tensor, without copying its values.
    pub(super) fn file_tensor(&self) -> Outcome<FileTensor<'_>> {
        let name = shown(&self.name);
        let shape: Option<Vec<usize>> = self.dims.iter().map(|&len| usize::try_from(len).ok()).collect();
        let shape = shape.filter(|shape| !shape.contains(&0)); // so that products of some of the sizes fit, too
        let tensor = match (self.float_type(), self.data_type) {
            (Some(FloatType::F32), _) if self.raw_data.is_empty() => {
                shape.and_then(|shape| FileTensor::of_bytes(shape, FloatType::F32, &self.float_data))
            }
            (Some(float), _) if self.raw_data.is_empty() => {
                let numbers = self.int32_data.iter().map(|&bits| match float {
                    FloatType::F16 => f16::from_bits(bits as u16).to_f32(),
                    _ => bf16::from_bits(bits as u16).to_f32(),
                });
                shape.and_then(|shape| FileTensor::of_vec(shape, numbers.collect()))
            }
            (Some(float), _) => shape.and_then(|shape| FileTensor::of_bytes(shape, float, &self.raw_data)),
            (None, proto::Tensor::DOUBLE) => {
                let numbers = self.raw_data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32);
                shape.and_then(|shape| FileTensor::of_vec(shape, numbers.collect()))
            }
            (None, other) => {
                return Err(format!("its tensor '{name}' has numbers of ONNX's type {other}; export the model in f32"));
            }
        };
        tensor.ok_or_else(|| {
            format!("its tensor '{name}' is empty or does not have the size of its shape; save the file again")
        })
    }

    /// The values of a small tensor of whole numbers.
    pub(super) fn whole_numbers(&self) -> Option<Vec<Option<i64>>> {
        let raw = &self.raw_data;
        let numbers: Vec<i64> = match (self.data_type, raw.is_empty()) {
            _ if raw.len() > 8 * MAX_NUMBERS || self.int64_data.len() + self.int32_data.len() > MAX_NUMBERS => {
                return None;
            }
            (proto::Tensor::INT64, true) => self.int64_data.clone(),
            (proto::Tensor::INT64, false) => raw.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            (proto::Tensor::INT32, true) => self.int32_data.iter().map(|&number| number.into()).collect(),
            (proto::Tensor::INT32, false) => raw.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
            _ => return None,
        };
        Some(numbers.into_iter().map(Some).collect())
    }
}

/// A name from the file, for a sentence.
pub(super) fn shown(name: &str) -> String {
    const LONGEST: usize = 60;
    let mut shown: String = name.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if name.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}
