//! Measuring an ONNX file before anything in it is decoded.

use super::MAX_FIELDS;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// What a file holds.
#[derive(Default)]
pub(super) struct FileSize {
    /// Fields of messages that would be decoded.
    pub fields: usize,
    /// Bytes that are values of tensors. They would not be copied.
    pub values: usize,
}

/// A message that would be decoded.
#[derive(Clone, Copy, PartialEq)]
enum MessageKind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    ValueInfo,
    Type,
    TensorType,
    TensorShape,
}

impl MessageKind {
    /// The kind of message in a field.
    fn inner(self, field: u32) -> Option<MessageKind> {
        match (self, field) {
            (MessageKind::Model, 7) => Some(MessageKind::Graph),
            (MessageKind::Graph, 1) => Some(MessageKind::Node),
            (MessageKind::Graph, 5) | (MessageKind::Attribute, 5) => Some(MessageKind::Tensor),
            (MessageKind::Graph, 11 | 12) => Some(MessageKind::ValueInfo),
            (MessageKind::Node, 5) => Some(MessageKind::Attribute),
            (MessageKind::ValueInfo, 2) => Some(MessageKind::Type),
            (MessageKind::Type, 1) => Some(MessageKind::TensorType),
            (MessageKind::TensorType, 2) => Some(MessageKind::TensorShape),
            _ => None,
        }
    }
}

impl FileSize {
    /// Adds a whole file; stops once there are too many fields. `None` if a message is longer than the one around it.
    pub fn add_model(&mut self, file: &[u8]) -> Option<()> {
        self.add(file, MessageKind::Model)
    }

    fn add(&mut self, mut message: &[u8], kind: MessageKind) -> Option<()> {
        while !message.is_empty() && self.fields <= MAX_FIELDS {
            self.fields += 1;
            let (field, wire) = decode_key(&mut message).ok()?;
            if wire != WireType::LengthDelimited {
                skip_field(wire, field, &mut message, DecodeContext::default()).ok()?;
                continue;
            }
            let len = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
            let (bytes, rest) = message.split_at_checked(len)?;
            message = rest;
            match kind.inner(field) {
                Some(inner) => self.add(bytes, inner)?,
                // float_data, raw_data
                None if kind == MessageKind::Tensor && matches!(field, 4 | 9) => self.values += len,
                None => {}
            }
        }
        Some(())
    }
}
