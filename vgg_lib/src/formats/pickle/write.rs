//! Writing pickles, for [`torch`](crate::formats::torch), which writes state dicts.

use super::opcode;

/// A pickle in the making. Each method appends instructions.
pub(in crate::formats) struct PickleWriter(Vec<u8>);

impl PickleWriter {
    /// A pickle of protocol 2, the one that PyTorch writes.
    pub fn new() -> PickleWriter {
        PickleWriter(vec![opcode::PROTO, 2])
    }

    /// A function or class.
    pub fn global(&mut self, module: &str, name: &str) {
        self.0.extend(format!("{}{module}\n{name}\n", char::from(opcode::GLOBAL)).bytes());
    }

    /// An empty `collections.OrderedDict`.
    pub fn ordered_dict(&mut self) {
        self.global("collections", "OrderedDict");
        self.0.extend([opcode::EMPTY_TUPLE, opcode::REDUCE]);
    }

    pub fn text(&mut self, text: &str) {
        self.0.push(opcode::BIN_UNICODE);
        self.0.extend((text.len() as u32).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    pub fn integer(&mut self, value: usize) {
        self.0.extend([opcode::LONG1, 8]);
        self.0.extend((value as i64).to_le_bytes());
    }

    pub fn integers(&mut self, values: impl IntoIterator<Item = usize>) {
        self.mark();
        values.into_iter().for_each(|value| self.integer(value));
        self.0.push(opcode::TUPLE);
    }

    pub fn false_(&mut self) {
        self.0.push(opcode::NEW_FALSE);
    }

    /// What follows is collected by the next [`call`](Self::call), [`persistent`](Self::persistent) or
    /// [`set_items`](Self::set_items).
    pub fn mark(&mut self) {
        self.0.push(opcode::MARK);
    }

    /// Calls the function below the mark with what is above it.
    pub fn call(&mut self) {
        self.0.extend([opcode::TUPLE, opcode::REDUCE]);
    }

    /// The persistent object whose identifier is the tuple of what is above the mark.
    pub fn persistent(&mut self) {
        self.0.extend([opcode::TUPLE, opcode::BIN_PERS_ID]);
    }

    /// Puts the keys and values above the mark into the dict below it.
    pub fn set_items(&mut self) {
        self.0.push(opcode::SET_ITEMS);
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.0.push(opcode::STOP);
        self.0
    }
}
