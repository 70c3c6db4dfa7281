//! The pickle of a PyTorch checkpoint to the tensors that it names.
//!
//! Nothing a pickle says is executed: it becomes a graph of plain values, in which the calls that rebuild
//! tensors are recognised by name. The values lie in one list and refer to each other by number, so
//! neither reading nor forgetting a deeply nested pickle takes more than the list, and a value that many
//! others name is held once.

use std::collections::BTreeMap;

/// Calls around the one that builds a tensor: a parameter, and a tensor of another type.
const MOST_WRAPPERS: usize = 4;

/// Bytes of the largest pickle that is read; that of a model has some hundred thousand.
const MOST_BYTES: usize = 16 << 20;

/// What a tensor may have at most, so that few bytes that are named again and again make no long work.
const MOST_DIMENSIONS: usize = 8;
const MOST_NAME_BYTES: usize = 512;

/// Keys below which tensors are looked for where there are none by themselves.
const MOST_KEYS: usize = 64;

/// A tensor as a checkpoint describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PickledTensor {
    /// What its numbers are, such as `Half`; where that is unknown, what would build it.
    pub(super) kind: String,
    /// Where its numbers are; `None` for a kind of tensor that is unknown here.
    pub(super) place: Option<TensorPlace>,
}

/// Where a tensor's numbers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorPlace {
    /// Name of the storage among those of the checkpoint.
    pub(super) storage: String,
    /// Number of the first value in it.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// Values between two neighbours of each dimension.
    pub(super) strides: Vec<usize>,
}

/// What a checkpoint holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Checkpoint {
    /// Tensors by name.
    Tensors(BTreeMap<String, PickledTensor>),
    /// None by itself, but some below this key.
    Below(String),
}

/// Reads a pickle.
///
/// # Errors
///
/// What is wrong with it, in words.
pub(super) fn read(bytes: &[u8]) -> Result<Checkpoint, String> {
    if bytes.len() > MOST_BYTES {
        return Err(format!("has more than {} MiB", MOST_BYTES >> 20));
    }
    let mut reader = Reader::new(bytes);
    let top = reader.run()?;
    let Value::Dict(entries) = &reader.values[top] else {
        return Err("holds no tensors by name".to_owned());
    };
    let tensors = reader.tensors(entries);
    if tensors.is_empty() {
        let below = entries.iter().take(MOST_KEYS).find_map(|&(key, value)| {
            match (&reader.values[key], &reader.values[value]) {
                (Value::Text(key), Value::Dict(inner)) if !reader.tensors(inner).is_empty() => {
                    Some(*key)
                }
                _ => None,
            }
        });
        if let Some(key) = below {
            return Ok(Checkpoint::Below(key.to_owned()));
        }
    }
    Ok(Checkpoint::Tensors(tensors))
}

/// Number of a value in the list.
type Id = usize;

/// A value; what it is made of is in the same list.
#[derive(Debug)]
enum Value<'a> {
    Text(&'a str),
    Number(i64),
    /// A class or a function, by module and name.
    Global(&'a str, &'a str),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Call {
        function: Id,
        arguments: Id,
    },
    /// Something outside the pickle.
    Outside(Id),
    /// Anything else.
    Other,
}

struct Reader<'a> {
    rest: &'a [u8],
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    /// How long the stack was at each open mark.
    marks: Vec<usize>,
    memo: BTreeMap<u64, Id>,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            rest: bytes,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
        }
    }

    /// Runs the instructions to the last one, and gives what it leaves.
    fn run(&mut self) -> Result<Id, String> {
        loop {
            match self.number(1)? as u8 {
                b'.' => return self.pop(),
                code => self.step(code)?,
            }
        }
    }

    /// One instruction, by its name in Python's `pickletools`.
    fn step(&mut self, code: u8) -> Result<(), String> {
        match code {
            0x80 => drop(self.bytes(1)?),                         // PROTO
            0x95 => drop(self.bytes(8)?),                         // FRAME
            b'(' => self.marks.push(self.stack.len()),            // MARK
            b'0' | b'b' => drop(self.pop()?), // POP, BUILD: attributes hold no tensors
            b'1' => drop(self.pop_to_mark()?), // POP_MARK
            b'2' => self.stack.push(self.top()?), // DUP
            b'N' | 0x88 | 0x89 | 0x8f => self.push(Value::Other), // NONE, NEWTRUE, NEWFALSE, EMPTY_SET
            b'J' => self.push_number(4, |number| i64::from(number as i32))?, // BININT
            b'K' => self.push_number(1, |number| number as i64)?, // BININT1
            b'M' => self.push_number(2, |number| number as i64)?, // BININT2
            0x8a => self.long()?,                                 // LONG1
            b'G' => self.skip(8)?,                                // BINFLOAT
            b'X' => self.text(4)?,                                // BINUNICODE
            0x8c => self.text(1)?,                                // SHORT_BINUNICODE
            0x8d => self.text(8)?,                                // BINUNICODE8
            b'U' | b'C' => self.skip_counted(1)?,                 // SHORT_BINSTRING, SHORT_BINBYTES
            b'T' | b'B' | 0x8b => self.skip_counted(4)?,          // BINSTRING, BINBYTES, LONG4
            0x8e | 0x96 => self.skip_counted(8)?,                 // BINBYTES8, BYTEARRAY8
            b'c' => self.global()?,                               // GLOBAL
            0x93 => self.stack_global()?,                         // STACK_GLOBAL
            b']' => self.push(Value::List(Vec::new())),           // EMPTY_LIST
            b')' => self.push(Value::Tuple(Vec::new())),          // EMPTY_TUPLE
            b'}' => self.push(Value::Dict(Vec::new())),           // EMPTY_DICT
            b'a' => self.append()?,                               // APPEND
            b'e' | 0x90 => self.append_all()?,                    // APPENDS, ADDITEMS
            b's' => self.set_item()?,                             // SETITEM
            b'u' => self.set_items()?,                            // SETITEMS
            b'l' => self.collect(Value::List)?,                   // LIST
            b't' => self.collect(Value::Tuple)?,                  // TUPLE
            0x91 => self.collect(|_| Value::Other)?,              // FROZENSET
            b'd' => self.dict()?,                                 // DICT
            0x85..=0x87 => self.tuple(usize::from(code - 0x84))?, // TUPLE1, TUPLE2, TUPLE3
            b'R' | 0x81 => self.call()?,                          // REDUCE, NEWOBJ
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Outside(id)); // BINPERSID
            }
            b'q' => self.memoize(1)?,                       // BINPUT
            b'r' => self.memoize(4)?,                       // LONG_BINPUT
            0x94 => self.remember(self.memo.len() as u64)?, // MEMOIZE
            b'h' => self.recall(1)?,                        // BINGET
            b'j' => self.recall(4)?,                        // LONG_BINGET
            other => {
                return Err(format!(
                    "has an instruction that is unknown here, {other:#04x}"
                ));
            }
        }
        Ok(())
    }

    fn bytes(&mut self, count: u64) -> Result<&'a [u8], String> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let (found, rest) = self.rest.split_at_checked(count).ok_or("ends early")?;
        self.rest = rest;
        Ok(found)
    }

    /// A whole number of so many bytes, the lowest first.
    fn number(&mut self, width: u64) -> Result<u64, String> {
        let bytes = self.bytes(width)?.iter().rev();
        Ok(bytes.fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self
            .rest
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or("ends early")?;
        let line = self.bytes(end as u64)?;
        self.bytes(1)?;
        text(line)
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn top(&self) -> Result<Id, String> {
        let bottom = self.marks.last().copied().unwrap_or_default();
        let top = self.stack.get(bottom..).and_then(<[Id]>::last);
        top.copied()
            .ok_or_else(|| "takes a value where none is".to_owned())
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("closes what was not opened")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn push_number(&mut self, width: u64, signed: fn(u64) -> i64) -> Result<(), String> {
        let number = self.number(width)?;
        self.push(Value::Number(signed(number)));
        Ok(())
    }

    /// A number of up to 255 bytes; only those that fit 64 bits count anything here.
    fn long(&mut self) -> Result<(), String> {
        let width = self.number(1)?;
        if width > 8 {
            return self.skip(width);
        }
        let number = self.number(width)?;
        let unused = 64 - 8 * width as u32;
        let signed = (number.checked_shl(unused).unwrap_or(0) as i64).checked_shr(unused);
        self.push(Value::Number(signed.unwrap_or(0)));
        Ok(())
    }

    fn text(&mut self, width: u64) -> Result<(), String> {
        let count = self.number(width)?;
        let text = text(self.bytes(count)?)?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<(), String> {
        self.bytes(count)?;
        self.push(Value::Other);
        Ok(())
    }

    fn skip_counted(&mut self, width: u64) -> Result<(), String> {
        let count = self.number(width)?;
        self.skip(count)
    }

    fn global(&mut self) -> Result<(), String> {
        let (module, name) = (self.line()?, self.line()?);
        self.push(Value::Global(module, name));
        Ok(())
    }

    fn stack_global(&mut self) -> Result<(), String> {
        let (name, module) = (self.pop()?, self.pop()?);
        let value = match (&self.values[module], &self.values[name]) {
            (Value::Text(module), Value::Text(name)) => Value::Global(module, name),
            _ => return Err("names a class by something else than text".to_owned()),
        };
        self.push(value);
        Ok(())
    }

    fn collect(&mut self, value: impl FnOnce(Vec<Id>) -> Value<'a>) -> Result<(), String> {
        let items = self.pop_to_mark()?;
        self.push(value(items));
        Ok(())
    }

    fn dict(&mut self) -> Result<(), String> {
        let items = self.pop_to_mark()?;
        self.push(Value::Dict(pairs(&items)?));
        Ok(())
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn append(&mut self) -> Result<(), String> {
        let item = self.pop()?;
        self.extend(&[item])
    }

    fn append_all(&mut self) -> Result<(), String> {
        let items = self.pop_to_mark()?;
        self.extend(&items)
    }

    /// Adds to the list on top; the items of anything else do not matter.
    fn extend(&mut self, items: &[Id]) -> Result<(), String> {
        let top = self.top()?;
        if let Value::List(list) = &mut self.values[top] {
            list.extend_from_slice(items);
        }
        Ok(())
    }

    fn set_item(&mut self) -> Result<(), String> {
        let (value, key) = (self.pop()?, self.pop()?);
        self.insert(&[(key, value)])
    }

    fn set_items(&mut self) -> Result<(), String> {
        let items = self.pop_to_mark()?;
        self.insert(&pairs(&items)?)
    }

    fn insert(&mut self, entries: &[(Id, Id)]) -> Result<(), String> {
        let top = self.top()?;
        if let Value::Dict(dict) = &mut self.values[top] {
            dict.extend_from_slice(entries);
        }
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let value = match self.values[function] {
            Value::Global("collections", "OrderedDict" | "defaultdict") => Value::Dict(Vec::new()),
            _ => Value::Call {
                function,
                arguments,
            },
        };
        self.push(value);
        Ok(())
    }

    fn memoize(&mut self, width: u64) -> Result<(), String> {
        let key = self.number(width)?;
        self.remember(key)
    }

    fn remember(&mut self, key: u64) -> Result<(), String> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, width: u64) -> Result<(), String> {
        let key = self.number(width)?;
        let value = self.memo.get(&key).ok_or("recalls what it never kept")?;
        self.stack.push(*value);
        Ok(())
    }

    /// The entries that are tensors; of two with one name the later counts, as in Python.
    fn tensors(&self, entries: &[(Id, Id)]) -> BTreeMap<String, PickledTensor> {
        let tensor = |&(key, value): &(Id, Id)| match self.values[key] {
            Value::Text(name) => Some((owned(name)?, self.tensor(value)?)),
            _ => None,
        };
        entries.iter().filter_map(tensor).collect()
    }

    fn tensor(&self, mut value: Id) -> Option<PickledTensor> {
        for _ in 0..MOST_WRAPPERS {
            let Value::Call {
                function,
                arguments,
            } = self.values[value]
            else {
                return None;
            };
            let Value::Global(module, name) = self.values[function] else {
                return None;
            };
            let arguments = self.items(arguments)?;
            match (module, name) {
                ("torch._utils", "_rebuild_tensor_v2") => return self.rebuilt(arguments),
                ("torch._utils", "_rebuild_parameter") => value = *arguments.first()?,
                ("torch._tensor", "_rebuild_from_type_v2") => {
                    let (Value::Global("torch._utils", "_rebuild_tensor_v2"), Some(&inner)) =
                        (&self.values[*arguments.first()?], arguments.get(2))
                    else {
                        return unknown(name);
                    };
                    return self.rebuilt(self.items(inner)?);
                }
                ("torch._utils", _) => return unknown(name),
                _ => return None,
            }
        }
        None
    }

    /// Storage, offset, shape, strides, and what does not matter here.
    fn rebuilt(&self, arguments: &[Id]) -> Option<PickledTensor> {
        let [storage, offset, shape, strides, ..] = *arguments else {
            return None;
        };
        let Value::Outside(storage) = self.values[storage] else {
            return None;
        };
        // The word `storage`, its class, its name, its device, its length.
        let [_, class, name, ..] = *self.items(storage)? else {
            return None;
        };
        let (Value::Global(_, class), Value::Text(name)) =
            (&self.values[class], &self.values[name])
        else {
            return None;
        };
        Some(PickledTensor {
            kind: owned(class.strip_suffix("Storage").unwrap_or(class))?,
            place: Some(TensorPlace {
                storage: owned(name)?,
                offset: self.size(offset)?,
                shape: self.sizes(shape)?,
                strides: self.sizes(strides)?,
            }),
        })
    }

    fn items(&self, value: Id) -> Option<&[Id]> {
        match &self.values[value] {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    fn size(&self, value: Id) -> Option<usize> {
        match self.values[value] {
            Value::Number(number) => usize::try_from(number).ok(),
            _ => None,
        }
    }

    fn sizes(&self, value: Id) -> Option<Vec<usize>> {
        let items = self.items(value)?;
        if items.len() > MOST_DIMENSIONS {
            return None;
        }
        items.iter().map(|&item| self.size(item)).collect()
    }
}

/// A tensor that something else than the usual call builds.
fn unknown(name: &str) -> Option<PickledTensor> {
    Some(PickledTensor {
        kind: owned(name)?,
        place: None,
    })
}

/// A name, unless it is too long for one.
fn owned(name: &str) -> Option<String> {
    (name.len() <= MOST_NAME_BYTES).then(|| name.to_owned())
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "has a text that is not UTF-8".to_owned())
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>, String> {
    let (pairs, rest) = items.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("has a key without a value".to_owned());
    }
    Ok(pairs.iter().map(|&[key, value]| (key, value)).collect())
}

#[cfg(test)]
mod tests;
