//! Python's pickles as far as torch's weight files need them, read without running anything.
//!
//! A pickle is a program for a stack machine; in Python two of its instructions call whatever the file names. Here a
//! name outside [`GLOBALS`] is an error, and a call makes one of five kinds of plain data. No instruction refers to
//! data before it but through the machine's memory, so that nothing here recurses however deep the data is nested.
//!
//! The instructions are those of protocols 2 to 4: <https://github.com/python/cpython/blob/3.13/Lib/pickletools.py>.

use crate::text::printable;
use std::collections::HashMap;

/// So many instructions at most: a ResNet-152 with its optimizer has 30,000.
const MOST_STEPS: usize = 300_000;
/// Of a tensor.
const MOST_DIMENSIONS: usize = 8;

/// What went wrong, for a sentence that begins with the file's path.
type Result<T> = std::result::Result<T, String>;

/// A value. Whatever has parts is an [`Object`].
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
    /// An index of [`Pickle::objects`].
    Object(usize),
}

/// What a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// A tensor's class, which before 2017 was called without arguments and told the rest afterwards.
    Tensor,
    Parameter,
    Storage(Numbers),
}

/// A type of torch's storages: its name and the size of a number in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub name: &'static str,
    pub size: usize,
}

const fn storage(name: &'static str, size: usize) -> Global {
    Global::Storage(Numbers { name, size })
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

#[derive(Debug)]
pub(super) enum Object<'a> {
    /// A tuple or a list.
    List(Vec<Value<'a>>),
    Dict(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    Tensor(Tensor),
    /// A tensor that is not told yet what it is a view of.
    Blank,
}

/// Numbers that lie elsewhere in the file, under a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub numbers: Numbers,
    pub key: &'a str,
    /// How many.
    pub len: usize,
    /// Which of them is this one's first; other than 0 in files of before 2018 only.
    pub first: usize,
}

/// A view of a storage; sizes in numbers.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// An index of [`Pickle::objects`].
    pub storage: usize,
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

    /// The tensor and the storage that it is a view of.
    pub fn tensor(&self, value: Value) -> Option<(&Tensor, Storage<'a>)> {
        let Some(Object::Tensor(tensor)) = self.object(value) else { return None };
        let Some(Object::Storage(storage)) = self.objects.get(tensor.storage) else { return None };
        Some((tensor, *storage))
    }

    pub fn storages(&self) -> impl Iterator<Item = Storage<'a>> {
        self.objects
            .iter()
            .filter_map(|object| if let Object::Storage(storage) = object { Some(*storage) } else { None })
    }
}

/// The pickle that `bytes` begins with, and the bytes behind it.
///
/// # Errors
/// A sentence without its subject, the file.
pub(super) fn unpickle(bytes: &[u8]) -> Result<(Pickle<'_>, &[u8])> {
    let mut machine = Machine { rest: bytes, stack: vec![], marks: vec![], memory: HashMap::new(), objects: vec![] };
    for _ in 0..MOST_STEPS {
        if let Some(root) = machine.step()? {
            return Ok((Pickle { objects: machine.objects, root }, machine.rest));
        }
    }
    Err(format!("holds more than {MOST_STEPS} pickle instructions; {ALONE}"))
}

/// What to do about a file that is more than weights.
pub(super) const ALONE: &str = "in Python, save the weights alone with torch.save(model.state_dict(), path)";

/// The sentence for a file that is cut off or makes no sense.
pub(super) fn damaged(why: &str) -> String {
    format!("is not a whole PyTorch file ({why}); download or save it again")
}

struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value<'a>>,
    /// Heights of the stack: what lies below the last one is out of reach.
    marks: Vec<usize>,
    memory: HashMap<u32, Value<'a>>,
    objects: Vec<Object<'a>>,
}

impl<'a> Machine<'a> {
    /// Runs an instruction; the value of the pickle if it was the last.
    fn step(&mut self) -> Result<Option<Value<'a>>> {
        match self.byte()? {
            0x80 => {
                let protocol = self.byte()?; // 5 has buffers outside the pickle, which torch does not use
                if protocol > 5 {
                    return Err(damaged(&format!("pickle protocol {protocol}")));
                }
            }
            // The length of a frame.
            0x95 => {
                self.take(8)?;
            }
            b'.' => return self.pop().map(Some),

            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.pop_to_mark()?;
            }
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }

            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'K' => {
                let value = self.byte()?;
                self.stack.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(value.into()));
            }
            0x8a => {
                let len = self.byte()?;
                let bytes = self.take(len.into())?;
                self.stack.push(integer(bytes));
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.stack.push(Value::Float(value));
            }
            code @ (0x8c | b'U' | b'C' | b'X' | b'T' | b'B' | 0x8d) => {
                let len = match code {
                    0x8c | b'U' | b'C' => self.byte()?.into(),
                    0x8d => usize::try_from(u64::from_le_bytes(self.array()?)).unwrap_or(usize::MAX),
                    _ => u32::from_le_bytes(self.array()?) as usize,
                };
                let bytes = self.take(len)?;
                let text = if matches!(code, b'C' | b'B') { None } else { std::str::from_utf8(bytes).ok() };
                self.stack.push(text.map_or(Value::Bytes(bytes), Value::Text));
            }

            b']' | b')' => self.push(Object::List(vec![])),
            b'}' => self.push(Object::Dict(vec![])),
            b't' => {
                let values = self.pop_to_mark()?;
                self.push(Object::List(values));
            }
            code @ 0x85..=0x87 => {
                let len = usize::from(code - 0x84);
                let values = self.pop_many(len)?;
                self.push(Object::List(values));
            }
            b'a' => {
                let value = self.pop()?;
                self.top_list()?.push(value);
            }
            b'e' => {
                let values = self.pop_to_mark()?;
                self.top_list()?.extend(values);
            }
            b's' => {
                let pair = self.pop_many(2)?;
                self.top_dict()?.push((pair[0], pair[1]));
            }
            b'u' => {
                let values = self.pop_to_mark()?;
                let (pairs, []) = values.as_chunks::<2>() else { return Err(damaged("a dict with half an entry")) };
                self.top_dict()?.extend(pairs.iter().map(|[key, value]| (*key, *value)));
            }

            b'q' => {
                let at = self.byte()?;
                self.remember(at.into())?;
            }
            b'r' => {
                let at = u32::from_le_bytes(self.array()?);
                self.remember(at)?;
            }
            0x94 => self.remember(self.memory.len() as u32)?,
            b'h' => {
                let at = self.byte()?;
                self.recall(at.into())?;
            }
            b'j' => {
                let at = u32::from_le_bytes(self.array()?);
                self.recall(at)?;
            }

            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(Value::Global(global(module, name)?));
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let [Value::Text(module), Value::Text(name)] = names[..] else {
                    return Err(damaged("a name that is no text"));
                };
                self.stack.push(Value::Global(global(module, name)?));
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let Value::Global(function) = self.pop()? else { return Err(damaged("a call of what is no function")) };
                let result = self.call(function, arguments)?;
                self.stack.push(result);
            }
            b'Q' => {
                let id = self.pop()?;
                let storage = self.storage(id)?;
                self.push(Object::Storage(storage));
            }
            b'b' => {
                let state = self.pop()?;
                let Value::Object(index) = self.top()? else { return Err(damaged("attributes of what has none")) };
                // Else they are of a state dict, its versions, or of a parameter, its hooks.
                if let Object::Blank = self.objects[index] {
                    let tensor = self.values(state).and_then(|parts| self.blank(parts));
                    let tensor = tensor.ok_or_else(|| damaged("a tensor of an unknown kind"))?;
                    self.objects[index] = Object::Tensor(tensor);
                }
            }
            code => return Err(damaged(&format!("pickle instruction {code:#04x}, which torch.save does not write"))),
        }
        Ok(None)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| damaged("its pickle is cut off"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many as asked for"))
    }

    fn line(&mut self) -> Result<&'a str> {
        let len = self.rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("its pickle is cut off"))?;
        let line = std::str::from_utf8(self.take(len)?).map_err(|_| damaged("a name that is no text"))?;
        self.byte()?;
        Ok(line)
    }

    fn push(&mut self, object: Object<'a>) {
        self.stack.push(Value::Object(self.objects.len()));
        self.objects.push(object);
    }

    fn reachable(&self) -> usize {
        self.stack.len() - self.marks.last().unwrap_or(&0)
    }

    fn top(&self) -> Result<Value<'a>> {
        let top = self.stack.last().filter(|_| self.reachable() > 0);
        top.copied().ok_or_else(|| damaged("its pickle takes more than it has"))
    }

    fn pop(&mut self) -> Result<Value<'a>> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Value<'a>>> {
        if self.reachable() < count {
            return Err(damaged("its pickle takes more than it has"));
        }
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or_else(|| damaged("its pickle takes more than it has"))?;
        Ok(self.stack.split_off(mark))
    }

    fn top_list(&mut self) -> Result<&mut Vec<Value<'a>>> {
        match self.top()? {
            Value::Object(index) => match &mut self.objects[index] {
                Object::List(values) => Ok(values),
                _ => Err(damaged("an entry of what is no list")),
            },
            _ => Err(damaged("an entry of what is no list")),
        }
    }

    fn top_dict(&mut self) -> Result<&mut Vec<(Value<'a>, Value<'a>)>> {
        match self.top()? {
            Value::Object(index) => match &mut self.objects[index] {
                Object::Dict(pairs) => Ok(pairs),
                _ => Err(damaged("an entry of what is no dict")),
            },
            _ => Err(damaged("an entry of what is no dict")),
        }
    }

    fn remember(&mut self, at: u32) -> Result<()> {
        let top = self.top()?;
        self.memory.insert(at, top);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Result<()> {
        let value = self.memory.get(&at).ok_or_else(|| damaged("its pickle recalls what it did not store"))?;
        self.stack.push(*value);
        Ok(())
    }

    fn values(&self, value: Value) -> Option<&[Value<'a>]> {
        let Value::Object(index) = value else { return None };
        if let Object::List(values) = &self.objects[index] { Some(values) } else { None }
    }

    fn sizes(&self, value: Value) -> Option<Vec<usize>> {
        let values = self.values(value).filter(|values| values.len() <= MOST_DIMENSIONS)?;
        values.iter().map(|value| size(*value)).collect()
    }

    fn call(&mut self, function: Global, arguments: Value) -> Result<Value<'a>> {
        let wrong = || damaged("a call with other arguments than torch's");
        let arguments = self.values(arguments).ok_or_else(wrong)?;
        let object = match (function, arguments) {
            (Global::OrderedDict, []) => Object::Dict(vec![]),
            // Python 2 gives it its entries, which nobody else has: copied, one list could become any number of dicts.
            (Global::OrderedDict, &[Value::Object(entries)]) => {
                let Object::List(entries) = &mut self.objects[entries] else { return Err(wrong()) };
                let entries = std::mem::take(entries);
                let pair = |entry: &Value| match self.values(*entry)? {
                    [key, value] => Some((*key, *value)),
                    _ => None,
                };
                Object::Dict(entries.iter().map(pair).collect::<Option<_>>().ok_or_else(wrong)?)
            }
            (Global::RebuildTensor, parts) => Object::Tensor(self.view(parts).ok_or_else(wrong)?),
            (Global::Tensor | Global::Parameter, []) => Object::Blank,
            // A parameter is its tensor.
            (Global::RebuildParameter | Global::Parameter, [tensor, ..]) => return Ok(*tensor),
            _ => return Err(wrong()),
        };
        self.push(object);
        self.pop()
    }

    /// (storage, first, shape, strides, …)
    fn view(&self, parts: &[Value]) -> Option<Tensor> {
        let [Value::Object(storage), first, shape, strides, ..] = parts else { return None };
        let Object::Storage(_) = &self.objects[*storage] else { return None };
        let (first, shape, strides) = (size(*first)?, self.sizes(*shape)?, self.sizes(*strides)?);
        (shape.len() == strides.len()).then_some(Tensor { storage: *storage, first, shape, strides })
    }

    /// What a tensor is told: a view, or of a parameter its tensor first.
    fn blank(&self, parts: &[Value]) -> Option<Tensor> {
        match (parts.len(), parts.first()?) {
            (5, Value::Object(index)) => match &self.objects[*index] {
                Object::Tensor(tensor) => Some(tensor.clone()),
                _ => None,
            },
            _ => self.view(parts),
        }
    }

    /// What ("storage", type, key, device, length) stands for; in the old format a view follows: None or (key, first,
    /// length).
    fn storage(&self, id: Value) -> Result<Storage<'a>> {
        let parts = self.values(id).unwrap_or_default();
        let [Value::Text("storage"), Value::Global(Global::Storage(numbers)), Value::Text(key), _, len, view @ ..] =
            parts
        else {
            return Err(damaged("a storage without type, key and length"));
        };
        let first = match view {
            [] | [Value::None] => Some(0),
            [view] => match self.values(*view) {
                Some([_, first, _]) => size(*first),
                _ => None,
            },
            _ => None,
        };
        match (size(*len), first) {
            (Some(len), Some(first)) => Ok(Storage { numbers: *numbers, key, len, first }),
            _ => Err(damaged("a storage without type, key and length")),
        }
    }
}

fn size(value: Value) -> Option<usize> {
    if let Value::Int(value) = value { value.try_into().ok() } else { None }
}

/// Little-endian, two's complement.
fn integer(bytes: &[u8]) -> Value<'_> {
    if bytes.len() > 8 {
        return Value::Bytes(bytes);
    }
    let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}

fn global(module: &str, name: &str) -> Result<Global> {
    let known = GLOBALS.iter().find(|(known, its_name, _)| *known == module && *its_name == name);
    known.map(|(.., global)| *global).ok_or_else(|| {
        let asked = printable(&format!("{module}.{name}"));
        format!("asks to run {asked}, and a weight file must not run anything; {ALONE}")
    })
}

/// What a program for the machine is made of, for [`torch`](super::torch), which writes state dicts.
pub(super) mod write {
    pub fn text(to: &mut Vec<u8>, text: &str) {
        to.push(b'X');
        to.extend((text.len() as u32).to_le_bytes());
        to.extend(text.as_bytes());
    }

    pub fn integer(to: &mut Vec<u8>, value: usize) {
        to.extend([0x8a, 8]);
        to.extend((value as i64).to_le_bytes());
    }

    pub fn sizes(to: &mut Vec<u8>, sizes: impl IntoIterator<Item = usize>) {
        to.push(b'(');
        sizes.into_iter().for_each(|size| integer(to, size));
        to.push(b't');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(pickle: &[u8]) -> Result<Value<'_>> {
        unpickle(pickle).map(|(pickle, _)| pickle.root)
    }

    #[test]
    fn plain_values_are_python_s() {
        // pickle.dumps(value, protocol) of Python 3.
        for (pickle, value) in [
            (&b"\x80\x02N."[..], Value::None),
            (b"\x80\x02\x88.", Value::Bool(true)),
            (b"\x80\x02K\x05.", Value::Int(5)),
            (b"\x80\x02M\xe9\x03.", Value::Int(1001)),
            (b"\x80\x02J\xff\xff\xff\xff.", Value::Int(-1)),
            (b"\x80\x02\x8a\x05\x00\x00\x00\x00\x01.", Value::Int(1 << 32)),
            (b"\x80\x02\x8a\x05\x00\x00\x00\x00\xff.", Value::Int(-(1 << 32))),
            (b"\x80\x02\x8a\x00.", Value::Int(0)),
            (b"\x80\x02G?\xf8\x00\x00\x00\x00\x00\x00.", Value::Float(1.5)),
            (b"\x80\x02X\x02\x00\x00\x00abq\x00.", Value::Text("ab")),
            (b"\x80\x04\x95\x06\x00\x00\x00\x00\x00\x00\x00\x8c\x02ab\x94.", Value::Text("ab")),
        ] {
            assert_eq!(root(pickle), Ok(value));
        }
        let (pickle, rest) =
            unpickle(b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01X\x01\x00\x00\x00bq\x02]q\x03(K\x02K\x03eu.rest")
                .unwrap();
        assert_eq!(rest, b"rest");
        let pairs = pickle.dict(pickle.root).unwrap();
        assert_eq!(pairs[0], (Value::Text("a"), Value::Int(1)));
        assert_eq!(pickle.list(pairs[1].1).unwrap(), [Value::Int(2), Value::Int(3)]);
    }

    #[test]
    fn what_is_remembered_early_has_what_is_added_late() {
        let (pickle, _) = unpickle(b"\x80\x02}q\x00(K\x01K\x02uh\x00\x86.").unwrap();
        let both = pickle.list(pickle.root).unwrap();
        assert_eq!(both[0], both[1]);
        assert_eq!(pickle.dict(both[1]).unwrap(), [(Value::Int(1), Value::Int(2))]);
    }

    #[test]
    fn calls_of_other_functions_are_refused_by_name() {
        // pickle.dumps of an object whose __reduce__ gives (os.system, ("echo",)), protocols 2 and 4.
        for pickle in [
            &b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00echoq\x01\x85q\x02Rq\x03."[..],
            b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04echo\x94\x85\x94R\x94.",
        ] {
            let error = root(pickle).unwrap_err();
            assert!(error.contains("asks to run posix.system, and a weight file must not run anything"), "{error}");
        }
        for name in ["builtins\neval", "torch\nload", "collections\ndefaultdict", "torch.nn.modules.conv\nConv2d"] {
            let error = root(format!("c{name}\n.").as_bytes()).unwrap_err();
            assert!(error.contains(&name.replace('\n', ".")), "{error}");
        }
        let long = format!("c{}\n\u{1b}[31m\n.", "x".repeat(100_000));
        let error = root(long.as_bytes()).unwrap_err();
        assert!(error.len() < 400 && !error.contains('\u{1b}'), "{error}");
    }

    #[test]
    fn nonsense_is_an_error() {
        for pickle in [
            &b""[..],
            b".",
            b"\x80",
            b"\x80\x09N.",
            b"N",
            b"0",
            b"1.",
            b"t.",
            b"(0.",
            b"K\x01(\x85.",
            b"u.",
            b"}(K\x01u.",
            b"K\x01(K\x01e.",
            b"]K\x01K\x02s.",
            b"h\x00.",
            b"X\xff\xff\xff\xffabc.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
            b"\x8a\xff.",
            b"ctorch\n",
            b"K\x01K\x02\x93.",
            b"K\x01)R.",
            b"ccollections\nOrderedDict\nK\x01R.",
            b"ctorch\nFloatStorage\n)R.",
            b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
            b"ctorch._utils\n_rebuild_tensor_v2\n(}K\x00))tR.",
            b"ctorch._utils\n_rebuild_parameter\n)R.",
            b"K\x01Q.",
            b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\xff\xff\xff\xfftQ.",
            b"K\x01K\x02b.",
            b"ctorch\nFloatTensor\n)R)b.",
            b"ctorch.nn.parameter\nParameter\n)\x81(NNNNNtb.",
            b"I1\n.",
            b"P1\n.",
            b"\x97.",
        ] {
            let error = root(pickle).unwrap_err();
            assert!(error.starts_with("is not a whole PyTorch file ("), "{pickle:?}: {error}");
        }
    }

    /// Tuples in tuples, a million deep; more instructions than any state dict; both without a stack overflow.
    #[test]
    fn depth_and_length_are_bounded() {
        for (instruction, count) in
            [(&b"\x85"[..], MOST_STEPS - 10), (b"\x85", 1_000_000), (b"(", 1_000_000), (b"}", 1_000_000)]
        {
            let pickle = [&b"\x80\x02N"[..], &instruction.repeat(count), b"."].concat();
            let result = root(&pickle);
            assert_eq!(result.is_ok(), count < MOST_STEPS, "{result:?}");
        }
    }
}
