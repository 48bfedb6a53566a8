//! Python's pickles, as far as PyTorch's weight files need them. Reading one runs nothing.
//!
//! A pickle is a program for a stack machine, and two of Python's instructions call whatever function the file names.
//! Here a name outside [`GLOBALS`] is an error, and a call makes one of five kinds of plain data. Compound values refer
//! to each other by index, so that nothing recurses, however deeply the data is nested.

mod machine;
mod opcode;
mod write;

pub(super) use machine::unpickle;
pub(super) use write::PickleWriter;

use super::Outcome;
use crate::text::printable;

/// The longest pickle that is read, in instructions. A ResNet-152 with its optimizer has 30,000.
const MAX_INSTRUCTIONS: usize = 300_000;
/// The most axes of a tensor.
const MAX_AXES: usize = 8;

/// A value. Those with parts are [`Object`]s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    /// Bytes, or an integer of more than eight bytes.
    Bytes(&'a [u8]),
    Global(Global),
    /// An index into [`Pickle::objects`].
    Object(usize),
}

impl Value<'_> {
    fn as_size(self) -> Option<usize> {
        if let Value::Int(value) = self { value.try_into().ok() } else { None }
    }
}

/// A function or class that a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// The class of tensors, which before 2017 was called without arguments and got its content afterwards.
    Tensor,
    Parameter,
    Storage(StorageType),
}

/// The type of a PyTorch storage: its name and the bytes per number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StorageType {
    pub name: &'static str,
    pub size: usize,
}

const fn storage(name: &'static str, size: usize) -> Global {
    Global::Storage(StorageType { name, size })
}

const GLOBALS: [(&str, &str, Global); 17] = [
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch._utils", "_rebuild_tensor", Global::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("torch.nn.parameter", "Parameter", Global::Parameter),
    ("torch", "FloatTensor", Global::Tensor),
    ("torch.cuda", "FloatTensor", Global::Tensor),
    ("torch", "FloatStorage", storage("Float", 4)),
    ("torch", "HalfStorage", storage("Half", 2)),
    ("torch", "BFloat16Storage", storage("BFloat16", 2)),
    ("torch", "DoubleStorage", storage("Double", 8)),
    ("torch", "LongStorage", storage("Long", 8)),
    ("torch", "IntStorage", storage("Int", 4)),
    ("torch", "ShortStorage", storage("Short", 2)),
    ("torch", "CharStorage", storage("Char", 1)),
    ("torch", "ByteStorage", storage("Byte", 1)),
    ("torch", "BoolStorage", storage("Bool", 1)),
];

fn global(module: &str, name: &str) -> Outcome<Global> {
    let known = GLOBALS.iter().find(|(known, its_name, _)| *known == module && *its_name == name);
    known.map(|(.., global)| *global).ok_or_else(|| {
        let asked = printable(&format!("{module}.{name}"));
        format!("asks to run {asked}, and a weight file must not run anything; {SAVE_WEIGHTS_ONLY}")
    })
}

#[derive(Debug)]
enum Object<'a> {
    /// A tuple or a list.
    List(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    View(TensorView),
    /// A tensor or parameter that does not have its content yet.
    Blank,
}

/// Numbers stored elsewhere in the file, under a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub numbers: StorageType,
    pub key: &'a str,
    /// How many numbers there are.
    pub len: usize,
    /// The index of the first one; not 0 only in files from before 2018.
    pub first: usize,
}

/// A tensor: a view of a storage. Sizes are counted in numbers.
#[derive(Clone, Debug)]
pub(super) struct TensorView {
    /// An index into [`Pickle::objects`].
    storage: usize,
    pub first: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// What a pickle holds.
pub(super) struct Pickle<'a> {
    objects: Vec<Object<'a>>,
    pub root: Value<'a>,
}

impl<'a> Pickle<'a> {
    fn object(&self, value: Value) -> Option<&Object<'a>> {
        if let Value::Object(index) = value { self.objects.get(index) } else { None }
    }

    pub fn dict(&self, value: Value) -> Option<&[(Value<'a>, Value<'a>)]> {
        if let Some(Object::Dict(pairs)) = self.object(value) { Some(pairs) } else { None }
    }

    pub fn list(&self, value: Value) -> Option<&[Value<'a>]> {
        if let Some(Object::List(values)) = self.object(value) { Some(values) } else { None }
    }

    /// A tensor and the storage that it is a view of.
    pub fn tensor(&self, value: Value) -> Option<(&TensorView, Storage<'a>)> {
        let Some(Object::View(view)) = self.object(value) else { return None };
        let Some(Object::Storage(storage)) = self.objects.get(view.storage) else { return None };
        Some((view, *storage))
    }

    pub fn storages(&self) -> impl Iterator<Item = Storage<'a>> {
        self.objects
            .iter()
            .filter_map(|object| if let Object::Storage(storage) = object { Some(*storage) } else { None })
    }
}

/// What to do about a file that holds more than weights.
pub(super) const SAVE_WEIGHTS_ONLY: &str =
    "in Python, save only the weights, with torch.save(model.state_dict(), path)";

/// The sentence for a file that is cut off or makes no sense.
pub(super) fn damaged(why: &str) -> String {
    format!("is not a complete PyTorch file ({why}); download or save it again")
}
