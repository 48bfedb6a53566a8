//! Python's pickles, as far as PyTorch's weight files need them. Reading one runs nothing.
//!
//! A pickle is a program for a stack machine, and some of Python's instructions call whatever function the file names.
//! Here a call makes plain data: those of the functions in [`GLOBALS`] make dicts and tensors, and a call of any other
//! function or class makes an [`Instance`], which only remembers what was called. So a checkpoint may hold a scheduler,
//! settings or dates beside its weights. Compound values refer to each other by index, so that nothing recurses,
//! however deeply the data is nested.

mod machine;
mod opcode;
mod write;

pub(super) use machine::unpickle;
pub(super) use write::PickleWriter;

/// The longest pickle that is read, in instructions. A ResNet-152 with its optimizer has 30,000, but a checkpoint may
/// also hold the loss of every step.
const MAX_INSTRUCTIONS: usize = 1_000_000;
/// The most compound values in a pickle.
const MAX_OBJECTS: usize = 300_000;
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
    Global(Global<'a>),
    /// An index into [`Pickle::objects`].
    Object(usize),
}

impl Value<'_> {
    fn as_size(self) -> Option<usize> {
        if let Value::Int(value) = self { value.try_into().ok() } else { None }
    }
}

/// A function or class that a pickle names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global<'a> {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// Makes a tensor of a subclass, or one with attributes, by one of the two above.
    RebuildFromType,
    /// The class of tensors, which before 2017 was called without arguments and got its content afterwards.
    Tensor,
    Parameter,
    Storage(StorageType<'a>),
    /// Anything else. Nothing is run: a call of it makes an [`Instance`].
    Other(Class<'a>),
}

/// The name of a function or class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class<'a> {
    pub module: &'a str,
    pub name: &'a str,
}

/// The type of a PyTorch storage: its name and the bytes per number, 0 if they are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StorageType<'a> {
    pub name: &'a str,
    pub size: usize,
}

impl StorageType<'_> {
    pub fn is_float(self) -> bool {
        ["Float", "Half", "BFloat16", "Double"].contains(&self.name)
    }
}

const GLOBALS: [(&str, &str, Global<'static>); 9] = [
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch._utils", "_rebuild_tensor", Global::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("torch._utils", "_rebuild_parameter_with_state", Global::RebuildParameter),
    ("torch._tensor", "_rebuild_from_type_v2", Global::RebuildFromType),
    ("torch.nn.parameter", "Parameter", Global::Parameter),
    ("torch", "FloatTensor", Global::Tensor),
    ("torch.cuda", "FloatTensor", Global::Tensor),
];

/// Bytes per number of PyTorch's storages.
const STORAGES: [(&str, usize); 16] = [
    ("Float", 4),
    ("Half", 2),
    ("BFloat16", 2),
    ("Double", 8),
    ("Long", 8),
    ("Int", 4),
    ("Short", 2),
    ("Char", 1),
    ("Byte", 1),
    ("Bool", 1),
    ("ComplexFloat", 8),
    ("ComplexDouble", 16),
    ("QInt8", 1),
    ("QUInt8", 1),
    ("QInt32", 4),
    ("Untyped", 1),
];

fn global<'a>(module: &'a str, name: &'a str) -> Global<'a> {
    if let Some((.., global)) =
        GLOBALS.iter().find(|(its_module, its_name, _)| *its_module == module && *its_name == name)
    {
        return *global;
    }
    match name.strip_suffix("Storage") {
        Some(numbers) if ["torch", "torch.cuda", "torch.storage"].contains(&module) => {
            let size = STORAGES.iter().find(|(known, _)| *known == numbers).map_or(0, |(_, size)| *size);
            Global::Storage(StorageType { name: numbers, size })
        }
        _ => Global::Other(Class { module, name }),
    }
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
    Instance(Box<Instance<'a>>),
}

/// What a call of a function or class that is not known here makes. What a pickle adds to it is kept, because it may be
/// a dict of weights of another class, or a whole network.
#[derive(Debug)]
pub(super) struct Instance<'a> {
    pub class: Class<'a>,
    /// Entries, if it is a dict of some class.
    entries: Vec<(Value<'a>, Value<'a>)>,
    /// The state that BUILD gave it: for most classes a dict of its attributes.
    pub state: Value<'a>,
}

/// Numbers stored elsewhere in the file, under a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub numbers: StorageType<'a>,
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

    /// The entries of a dict of any class.
    pub fn dict(&self, value: Value) -> Option<&[(Value<'a>, Value<'a>)]> {
        match self.object(value)? {
            Object::Dict(entries) => Some(entries),
            Object::Instance(instance) => Some(&instance.entries),
            _ => None,
        }
    }

    /// The value under a key of a dict.
    pub fn get(&self, dict: Value, key: &str) -> Option<Value<'a>> {
        self.dict(dict)?.iter().find(|entry| entry.0 == Value::Text(key)).map(|entry| entry.1)
    }

    /// The number of compound values.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn instance(&self, value: Value) -> Option<&Instance<'a>> {
        if let Some(Object::Instance(instance)) = self.object(value) { Some(instance) } else { None }
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
