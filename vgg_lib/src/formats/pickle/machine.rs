//! The stack machine that runs the program in a pickle.

use super::{
    Class, Global, Instance, MAX_AXES, MAX_INSTRUCTIONS, MAX_OBJECTS, Object, Pickle, SAVE_WEIGHTS_ONLY, Storage,
    TensorView, Value, damaged, global, opcode,
};
use crate::formats::Outcome;
use std::collections::HashMap;

/// Reads the pickle that `bytes` begins with; also returns the bytes after it.
///
/// # Errors
/// A sentence without its subject, the file.
pub(in crate::formats) fn unpickle(bytes: &[u8]) -> Outcome<(Pickle<'_>, &[u8])> {
    let mut machine = Machine { rest: bytes, stack: vec![], marks: vec![], memo: HashMap::new(), objects: vec![] };
    for _ in 0..MAX_INSTRUCTIONS {
        let code = machine.byte()?;
        if code == opcode::STOP {
            let root = machine.pop()?;
            return Ok((Pickle { objects: machine.objects, root }, machine.rest));
        }
        machine.step(code)?;
    }
    Err(format!("holds more than {MAX_INSTRUCTIONS} pickle instructions; {SAVE_WEIGHTS_ONLY}"))
}

struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value<'a>>,
    /// Heights of the stack. What is below the last one is out of reach.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    objects: Vec<Object<'a>>,
}

impl<'a> Machine<'a> {
    /// Runs one instruction.
    fn step(&mut self, code: u8) -> Outcome<()> {
        match code {
            opcode::PROTO => self.protocol(),
            opcode::FRAME => self.take(8).map(drop),

            opcode::MARK => self.mark(),
            opcode::POP => self.pop().map(drop),
            opcode::POP_MARK => self.pop_to_mark().map(drop),
            opcode::DUP => self.top().map(|top| self.stack.push(top)),

            opcode::NONE => self.push(Value::None),
            opcode::NEW_TRUE => self.push(Value::Bool(true)),
            opcode::NEW_FALSE => self.push(Value::Bool(false)),
            opcode::BIN_INT => self.array().and_then(|bytes| self.push(Value::Int(i32::from_le_bytes(bytes).into()))),
            opcode::BIN_INT1 => self.byte().and_then(|byte| self.push(Value::Int(byte.into()))),
            opcode::BIN_INT2 => self.array().and_then(|bytes| self.push(Value::Int(u16::from_le_bytes(bytes).into()))),
            opcode::LONG1 => self.short_len().and_then(|len| self.long(len)),
            opcode::LONG4 => self.len().and_then(|len| self.long(len)),
            opcode::BIN_FLOAT => self.array().and_then(|bytes| self.push(Value::Float(f64::from_be_bytes(bytes)))),

            opcode::SHORT_BIN_STRING | opcode::SHORT_BIN_UNICODE => self.short_len().and_then(|len| self.text(len)),
            opcode::BIN_STRING | opcode::BIN_UNICODE => self.len().and_then(|len| self.text(len)),
            opcode::BIN_UNICODE8 => self.long_len().and_then(|len| self.text(len)),
            opcode::SHORT_BIN_BYTES => self.short_len().and_then(|len| self.bytes(len)),
            opcode::BIN_BYTES => self.len().and_then(|len| self.bytes(len)),
            opcode::BIN_BYTES8 | opcode::BYTE_ARRAY8 => self.long_len().and_then(|len| self.bytes(len)),

            opcode::EMPTY_LIST | opcode::EMPTY_TUPLE | opcode::EMPTY_SET => self.push_object(Object::List(vec![])),
            opcode::EMPTY_DICT => self.push_object(Object::Dict(vec![])),
            opcode::DICT => self.new_dict(),
            opcode::TUPLE | opcode::LIST | opcode::FROZEN_SET => {
                self.pop_to_mark().and_then(|values| self.push_object(Object::List(values)))
            }
            opcode::TUPLE1 | opcode::TUPLE2 | opcode::TUPLE3 => {
                let values = self.pop_many(usize::from(code - opcode::TUPLE1) + 1)?;
                self.push_object(Object::List(values))
            }
            opcode::APPEND => self.pop().and_then(|value| self.append(vec![value])),
            opcode::APPENDS | opcode::ADD_ITEMS => self.pop_to_mark().and_then(|values| self.append(values)),
            opcode::SET_ITEM => self.pop_many(2).and_then(|pair| self.set_items(&pair)),
            opcode::SET_ITEMS => self.pop_to_mark().and_then(|values| self.set_items(&values)),

            opcode::BIN_PUT => self.byte().and_then(|at| self.put(at.into())),
            opcode::LONG_BIN_PUT => self.array().and_then(|at| self.put(u32::from_le_bytes(at))),
            opcode::MEMOIZE => self.put(self.memo.len() as u32),
            opcode::BIN_GET => self.byte().and_then(|at| self.get(at.into())),
            opcode::LONG_BIN_GET => self.array().and_then(|at| self.get(u32::from_le_bytes(at))),

            opcode::GLOBAL => self.global(),
            opcode::STACK_GLOBAL => self.stack_global(),
            opcode::REDUCE | opcode::NEW_OBJ => self.reduce(),
            opcode::NEW_OBJ_EX => self.pop().and_then(|_named_arguments| self.reduce()),
            opcode::BUILD => self.build(),
            opcode::BIN_PERS_ID => self.persistent(),
            _ => Err(damaged(&format!("pickle instruction {code:#04x}, which torch.save does not write"))),
        }
    }

    fn protocol(&mut self) -> Outcome<()> {
        match self.byte()? {
            0..=5 => Ok(()), // 5 adds buffers outside the pickle, which PyTorch does not use
            protocol => Err(damaged(&format!("pickle protocol {protocol}"))),
        }
    }

    // The program

    fn take(&mut self, len: usize) -> Outcome<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| damaged("its pickle is cut off"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Outcome<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many as asked for"))
    }

    fn short_len(&mut self) -> Outcome<usize> {
        self.byte().map(usize::from)
    }

    fn len(&mut self) -> Outcome<usize> {
        self.array().map(|bytes| u32::from_le_bytes(bytes) as usize)
    }

    fn long_len(&mut self) -> Outcome<usize> {
        self.array().map(|bytes| usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Outcome<&'a str> {
        let len = self.rest.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("its pickle is cut off"))?;
        let line = std::str::from_utf8(self.take(len)?).map_err(|_| damaged("a name that is not text"))?;
        self.byte()?;
        Ok(line)
    }

    /// Python 2's strings may hold any bytes.
    fn text(&mut self, len: usize) -> Outcome<()> {
        let bytes = self.take(len)?;
        self.push(std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Text))
    }

    fn bytes(&mut self, len: usize) -> Outcome<()> {
        let bytes = self.take(len)?;
        self.push(Value::Bytes(bytes))
    }

    /// An integer of any length: little-endian, two's complement.
    fn long(&mut self, len: usize) -> Outcome<()> {
        let bytes = self.take(len)?;
        if bytes.len() > 8 {
            return self.push(Value::Bytes(bytes));
        }
        let negative = bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    // The stack

    fn mark(&mut self) -> Outcome<()> {
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn push(&mut self, value: Value<'a>) -> Outcome<()> {
        self.stack.push(value);
        Ok(())
    }

    fn push_object(&mut self, object: Object<'a>) -> Outcome<()> {
        if self.objects.len() == MAX_OBJECTS {
            return Err(format!("holds more than {MAX_OBJECTS} lists, dicts and tensors; {SAVE_WEIGHTS_ONLY}"));
        }
        self.objects.push(object);
        self.push(Value::Object(self.objects.len() - 1))
    }

    fn reachable(&self) -> usize {
        self.stack.len() - self.marks.last().unwrap_or(&0)
    }

    fn top(&self) -> Outcome<Value<'a>> {
        let top = self.stack.last().filter(|_| self.reachable() > 0);
        top.copied().ok_or_else(too_short)
    }

    fn pop(&mut self) -> Outcome<Value<'a>> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Outcome<Vec<Value<'a>>> {
        if self.reachable() < count {
            return Err(too_short());
        }
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn pop_to_mark(&mut self) -> Outcome<Vec<Value<'a>>> {
        let mark = self.marks.pop().ok_or_else(too_short)?;
        Ok(self.stack.split_off(mark))
    }

    /// The object that the top of the stack stands for.
    fn top_object(&mut self) -> Outcome<Option<&mut Object<'a>>> {
        let top = self.top()?;
        Ok(if let Value::Object(index) = top { Some(&mut self.objects[index]) } else { None })
    }

    fn append(&mut self, values: Vec<Value<'a>>) -> Outcome<()> {
        match self.top_object()? {
            Some(Object::List(list)) => list.extend(values),
            Some(Object::Instance(_)) => {} // a list of some class, which holds no weights
            _ => return Err(damaged("an entry of something that is not a list")),
        }
        Ok(())
    }

    fn new_dict(&mut self) -> Outcome<()> {
        let values = self.pop_to_mark()?;
        self.push_object(Object::Dict(vec![]))?;
        self.set_items(&values)
    }

    fn set_items(&mut self, values: &[Value<'a>]) -> Outcome<()> {
        let (pairs, []) = values.as_chunks::<2>() else { return Err(damaged("a dict with half an entry")) };
        let entries = match self.top_object()? {
            Some(Object::Dict(entries)) => entries,
            Some(Object::Instance(instance)) => &mut instance.entries,
            _ => return Err(damaged("an entry of something that is not a dict")),
        };
        entries.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn put(&mut self, at: u32) -> Outcome<()> {
        let top = self.top()?;
        self.memo.insert(at, top);
        Ok(())
    }

    fn get(&mut self, at: u32) -> Outcome<()> {
        let value = self.memo.get(&at).ok_or_else(|| damaged("its pickle recalls a value that it did not store"))?;
        self.push(*value)
    }

    // Functions and what they make

    fn global(&mut self) -> Outcome<()> {
        let (module, name) = (self.line()?, self.line()?);
        self.push(Value::Global(global(module, name)))
    }

    fn stack_global(&mut self) -> Outcome<()> {
        let names = self.pop_many(2)?;
        let [Value::Text(module), Value::Text(name)] = names[..] else {
            return Err(damaged("a name that is not text"));
        };
        self.push(Value::Global(global(module, name)))
    }

    fn reduce(&mut self) -> Outcome<()> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let function = match function {
            Value::Global(function) => function,
            // The result of a call, such as of getattr, which is how Python stores methods.
            Value::Object(_) => Global::Other(Class { module: "", name: "function" }),
            _ => return Err(damaged("a call of something that is not a function")),
        };
        self.call(function, arguments)
    }

    /// Pushes what a call of the function makes.
    fn call(&mut self, function: Global<'a>, arguments: Value<'a>) -> Outcome<()> {
        let wrong = || damaged("a call with other arguments than PyTorch's");
        let parts = match function {
            Global::Other(class) => return self.instance(class),
            _ => self.list(arguments).ok_or_else(wrong)?,
        };
        let object = match (function, parts) {
            (Global::OrderedDict, []) => Object::Dict(vec![]),
            (Global::OrderedDict, &[Value::Object(entries)]) => self.dict_of(entries).ok_or_else(wrong)?,
            (Global::RebuildTensor, &[Value::Object(storage), ..]) if self.is_instance(storage) => {
                return self.instance(Class { module: "torch", name: "Tensor" });
            }
            (Global::RebuildTensor, parts) => Object::View(self.view(parts).ok_or_else(wrong)?),
            (Global::Tensor | Global::Parameter, []) => Object::Blank,
            // A parameter is its tensor.
            (Global::RebuildParameter | Global::Parameter, &[tensor, ..]) => return self.push(tensor),
            (Global::RebuildFromType, &[Value::Global(function), _, arguments, ..])
                if function != Global::RebuildFromType =>
            {
                return self.call(function, arguments);
            }
            _ => return Err(wrong()),
        };
        self.push_object(object)
    }

    fn instance(&mut self, class: Class<'a>) -> Outcome<()> {
        self.push_object(Object::Instance(Box::new(Instance { class, entries: vec![], state: Value::None })))
    }

    fn is_instance(&self, index: usize) -> bool {
        matches!(self.objects[index], Object::Instance(_))
    }

    /// The dict of a list of pairs, as Python 2 writes it. The list is taken: if it were copied, a short pickle could
    /// make any number of dicts of it.
    fn dict_of(&mut self, entries: usize) -> Option<Object<'a>> {
        let Object::List(entries) = &mut self.objects[entries] else { return None };
        let entries = std::mem::take(entries);
        let pair = |entry: &Value| match self.list(*entry)? {
            [key, value] => Some((*key, *value)),
            _ => None,
        };
        Some(Object::Dict(entries.iter().map(pair).collect::<Option<_>>()?))
    }

    /// Gives attributes to the top of the stack. Those of a blank tensor are its content, and those of an instance may
    /// be the parameters of a network; others are the versions of a state dict or the hooks of a parameter.
    fn build(&mut self) -> Outcome<()> {
        let state = self.pop()?;
        let Value::Object(index) = self.top()? else {
            return Err(damaged("attributes of something that has none"));
        };
        match &mut self.objects[index] {
            Object::Instance(instance) => instance.state = state,
            Object::Blank => {
                let view = self.list(state).and_then(|parts| self.state_of_tensor(parts));
                self.objects[index] = Object::View(view.ok_or_else(|| damaged("a tensor of an unknown kind"))?);
            }
            _ => {}
        }
        Ok(())
    }

    /// A value that PyTorch stores outside the pickle: a storage, or in files of whole networks from before 2020 a
    /// class, with its source code.
    fn persistent(&mut self) -> Outcome<()> {
        let id = self.pop()?;
        if let Some(&[Value::Text("module"), class, ..]) = self.list(id) {
            return self.push(class);
        }
        let storage = self.storage(id).ok_or_else(|| damaged("a storage without type, key and length"))?;
        self.push_object(Object::Storage(storage))
    }

    fn list(&self, value: Value) -> Option<&[Value<'a>]> {
        let Value::Object(index) = value else { return None };
        if let Object::List(values) = &self.objects[index] { Some(values) } else { None }
    }

    fn sizes(&self, value: Value) -> Option<Vec<usize>> {
        let values = self.list(value).filter(|values| values.len() <= MAX_AXES)?;
        values.iter().map(|value| value.as_size()).collect()
    }

    /// The tensor of (storage, first, shape, strides, …).
    fn view(&self, parts: &[Value]) -> Option<TensorView> {
        let [Value::Object(storage), first, shape, strides, ..] = parts else { return None };
        let Object::Storage(_) = &self.objects[*storage] else { return None };
        let (first, shape, strides) = (first.as_size()?, self.sizes(*shape)?, self.sizes(*strides)?);
        (shape.len() == strides.len()).then_some(TensorView { storage: *storage, first, shape, strides })
    }

    /// The tensor of a blank one's state: the parts of a view, or for a parameter its tensor and four more values.
    fn state_of_tensor(&self, parts: &[Value]) -> Option<TensorView> {
        match (parts.len(), parts.first()?) {
            (5, Value::Object(index)) => match &self.objects[*index] {
                Object::View(view) => Some(view.clone()),
                _ => None,
            },
            _ => self.view(parts),
        }
    }

    /// The storage that ("storage", type, key, device, length) identifies. In the old format a view follows, which is
    /// None or (key, first, length).
    fn storage(&self, id: Value) -> Option<Storage<'a>> {
        let [Value::Text("storage"), Value::Global(Global::Storage(numbers)), Value::Text(key), _, len, view @ ..] =
            self.list(id)?
        else {
            return None;
        };
        let first = match view {
            [] | [Value::None] => 0,
            [view] => match self.list(*view)? {
                [_, first, _] => first.as_size()?,
                _ => return None,
            },
            _ => return None,
        };
        Some(Storage { numbers: *numbers, key, len: len.as_size()?, first })
    }
}

fn too_short() -> String {
    damaged("its pickle takes more values than it has")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(pickle: &[u8]) -> Outcome<Value<'_>> {
        unpickle(pickle).map(|(pickle, _)| pickle.root)
    }

    #[test]
    fn plain_values_match_python() {
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
    fn a_recalled_dict_has_entries_added_after_it_was_stored() {
        let (pickle, _) = unpickle(b"\x80\x02}q\x00(K\x01K\x02uh\x00\x86.").unwrap();
        let both = pickle.list(pickle.root).unwrap();
        assert_eq!(both[0], both[1]);
        assert_eq!(pickle.dict(both[1]).unwrap(), [(Value::Int(1), Value::Int(2))]);
    }

    #[test]
    fn a_call_of_an_unknown_function_runs_nothing_and_is_remembered_by_name() {
        // pickle.dumps of an object whose __reduce__ returns (os.system, ("echo",)), in protocols 2 and 4.
        for pickle in [
            &b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00echoq\x01\x85q\x02Rq\x03."[..],
            b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04echo\x94\x85\x94R\x94.",
        ] {
            let (pickle, _) = unpickle(pickle).unwrap();
            assert_eq!(pickle.instance(pickle.root).unwrap().class, Class { module: "posix", name: "system" });
        }
    }

    /// Entries and attributes of an instance are kept, whatever its class: `mod.Cls()` with {1: 2} and the state 3, made
    /// by REDUCE, by NEWOBJ_EX and as the result of another call.
    #[test]
    fn instances_keep_their_entries_and_attributes() {
        for made in [&b"cmod\nCls\n)R"[..], b"cmod\nCls\n)}\x92", b"cmod\nget\n)R)R"] {
            let bytes = [made, b"(K\x01K\x02uK\x03b."].concat();
            let (pickle, _) = unpickle(&bytes).unwrap();
            assert_eq!(pickle.dict(pickle.root).unwrap(), [(Value::Int(1), Value::Int(2))]);
            assert_eq!(pickle.instance(pickle.root).unwrap().state, Value::Int(3));
        }
        let (pickle, _) = unpickle(b"cmod\nCls\n)R(K\x01e.").unwrap();
        assert!(pickle.dict(pickle.root).unwrap().is_empty());
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
            b"(K\x01d.",
            b"\x92.",
            b"\x8b\xff\xff\xff\xff.",
            b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_v2\nN)NtR.",
        ] {
            let error = root(pickle).unwrap_err();
            assert!(error.starts_with("is not a complete PyTorch file ("), "{pickle:?}: {error}");
        }
    }

    /// Tuples nested a million deep, and more instructions than any state dict has, do not overflow the stack.
    #[test]
    fn depth_and_length_are_bounded() {
        for (instruction, count) in
            [(&b"\x85"[..], MAX_OBJECTS - 10), (b"\x85", 1_000_000), (b"(", 1_000_000), (b"}", 1_000_000)]
        {
            let pickle = [&b"\x80\x02N"[..], &instruction.repeat(count), b"."].concat();
            let result = root(&pickle);
            assert_eq!(result.is_ok(), count < MAX_OBJECTS, "{result:?}");
        }
    }
}
