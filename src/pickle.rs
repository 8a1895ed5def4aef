//! A machine for the pickles that PyTorch and libtorch write. It builds lists, tuples, dictionaries, numbers and texts,
//! and cannot call anything: what a pickle calls is a name, and [`Meaning`] says what comes of it. A file is data here,
//! never a program.
//!
//! Opcodes: Python's `pickletools`; of them those that `torch.save` and libtorch's pickler (`PickleOpCode`) write.
//!
//! What can be large is borrowed from the pickle, or stands in the [`Heap`] as an index, so that the memo shares it: a value
//! that is recalled again and again takes no more memory than its few bytes.

use std::collections::HashMap;

/// Operations of one pickle. A network has some forty for each of its tensors; the bound keeps what a hostile file makes
/// of memory within some hundred MB.
pub(crate) const MOST_OPERATIONS: usize = 1 << 20;

/// Longest name of a module or a class.
const LONGEST_LINE: usize = 4096;

/// Why a pickle cannot be read; begins with a lower-case letter, without a full stop.
pub(crate) type Failure = String;

/// A value on the machine's stack; `T` are those that [`Meaning`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a, T> {
    Mark,
    Int(i64),
    /// Bytes of the pickle. libtorch does not ask whether they are UTF-8.
    Text(&'a [u8]),
    /// Module and name of what can be called.
    Global(&'a [u8], &'a [u8]),
    /// A list or a tuple.
    Sequence(usize),
    Dict(usize),
    Made(T),
    /// All else.
    Opaque,
}

/// Lists, tuples and dictionaries, by their index.
#[derive(Debug)]
pub(crate) struct Heap<'a, T> {
    pub(crate) sequences: Vec<Vec<Value<'a, T>>>,
    pub(crate) dicts: Vec<Vec<(Value<'a, T>, Value<'a, T>)>>,
}

impl<'a, T> Heap<'a, T> {
    fn sequence(&mut self, items: Vec<Value<'a, T>>) -> Value<'a, T> {
        self.sequences.push(items);
        Value::Sequence(self.sequences.len() - 1)
    }

    pub(crate) fn dict(&mut self) -> Value<'a, T> {
        self.dicts.push(Vec::new());
        Value::Dict(self.dicts.len() - 1)
    }
}

/// What comes of the calls of a pickle.
pub(crate) trait Meaning<'a> {
    /// What it makes.
    type Made: Copy + std::fmt::Debug + PartialEq;

    /// Of `callee(*arguments)`: `REDUCE`.
    fn call(
        &mut self,
        heap: &mut Heap<'a, Self::Made>,
        callee: Value<'a, Self::Made>,
        arguments: Value<'a, Self::Made>,
    ) -> Result<Value<'a, Self::Made>, Failure>;

    /// Of `class.__new__(*arguments)`: `NEWOBJ`.
    fn create(
        &mut self,
        heap: &mut Heap<'a, Self::Made>,
        class: Value<'a, Self::Made>,
        arguments: Value<'a, Self::Made>,
    ) -> Result<Value<'a, Self::Made>, Failure> {
        self.call(heap, class, arguments)
    }

    /// Of an object that gets its state: `BUILD`.
    fn build(
        &mut self,
        _heap: &Heap<'a, Self::Made>,
        _object: Value<'a, Self::Made>,
        _state: Value<'a, Self::Made>,
    ) -> Result<(), Failure> {
        Ok(())
    }

    /// Of what is kept beside the pickle, the storage of a tensor: `BINPERSID`.
    fn beside(
        &mut self,
        _heap: &Heap<'a, Self::Made>,
        _id: Value<'a, Self::Made>,
    ) -> Result<Value<'a, Self::Made>, Failure> {
        Ok(Value::Opaque)
    }
}

/// What a pickle leaves.
#[derive(Debug)]
pub(crate) struct Saved<'a, T> {
    /// The object that was saved.
    pub(crate) object: Value<'a, T>,
    /// What it refers to.
    pub(crate) heap: Heap<'a, T>,
}

/// Runs a pickle to its end.
///
/// # Errors
/// It ends early, has an operation that is not written, is longer than [`MOST_OPERATIONS`], or `meaning` refuses a call.
pub(crate) fn read<'a, M: Meaning<'a>>(pickle: &'a [u8], meaning: &mut M) -> Result<Saved<'a, M::Made>, Failure> {
    let heap = Heap { sequences: Vec::new(), dicts: Vec::new() };
    let mut machine = Machine { pickle, at: 0, stack: Vec::new(), memo: HashMap::new(), heap, meaning };
    let object = machine.run()?;
    Ok(Saved { object, heap: machine.heap })
}

struct Machine<'a, 'm, M: Meaning<'a>> {
    pickle: &'a [u8],
    at: usize,
    stack: Vec<Value<'a, M::Made>>,
    memo: HashMap<u32, Value<'a, M::Made>>,
    heap: Heap<'a, M::Made>,
    meaning: &'m mut M,
}

impl<'a, M: Meaning<'a>> Machine<'a, '_, M> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Failure> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.pickle.len());
        let end = end.ok_or_else(|| format!("the pickle ends within a value, at byte {}", self.pickle.len()))?;
        let bytes = &self.pickle[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, Failure> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Failure> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Up to a line feed, which goes, too.
    fn line(&mut self) -> Result<&'a [u8], Failure> {
        let rest = &self.pickle[self.at..];
        let rest = &rest[..rest.len().min(LONGEST_LINE)];
        let n = rest.iter().position(|&b| b == b'\n').ok_or("a class name has no end")?;
        self.at += n + 1;
        Ok(&rest[..n])
    }

    /// `LONG1`: little-endian two's complement.
    fn long(&mut self) -> Result<i64, Failure> {
        let n = usize::from(self.u8()?);
        let bytes = self.take(n)?;
        let sign = if bytes.last().is_some_and(|v| v & 0x80 != 0) { 0xff } else { 0 };
        let mut all = [sign; 8];
        all.get_mut(..n).ok_or("an integer of more than 64 bits")?.copy_from_slice(bytes);
        Ok(i64::from_le_bytes(all))
    }

    fn push(&mut self, value: Value<'a, M::Made>) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value<'a, M::Made>, Failure> {
        match self.stack.pop() {
            Some(Value::Mark) | None => Err(format!("a value is missing at byte {}", self.at)),
            Some(value) => Ok(value),
        }
    }

    fn top(&self) -> Result<Value<'a, M::Made>, Failure> {
        self.stack.last().copied().ok_or_else(|| format!("a value is missing at byte {}", self.at))
    }

    /// The values above the last mark, which goes, too.
    fn above_mark(&mut self) -> Result<Vec<Value<'a, M::Made>>, Failure> {
        let mark = self.stack.iter().rposition(|v| *v == Value::Mark);
        let mark = mark.ok_or_else(|| format!("a mark is missing at byte {}", self.at))?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn push_sequence(&mut self, items: Vec<Value<'a, M::Made>>) {
        let sequence = self.heap.sequence(items);
        self.push(sequence);
    }

    fn push_tuple(&mut self, n: usize) -> Result<(), Failure> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push_sequence(items);
        Ok(())
    }

    fn push_dict(&mut self) {
        let dict = self.heap.dict();
        self.push(dict);
    }

    fn append(&mut self, more: Vec<Value<'a, M::Made>>) -> Result<(), Failure> {
        match self.top()? {
            Value::Sequence(index) => self.heap.sequences[index].extend(more),
            Value::Opaque => {}
            other => return Err(format!("the pickle appends to {other:?}")),
        }
        Ok(())
    }

    fn set_items(&mut self, items: Vec<Value<'a, M::Made>>) -> Result<(), Failure> {
        match self.top()? {
            Value::Dict(index) => {
                self.heap.dicts[index].extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            Value::Opaque => {}
            other => return Err(format!("the pickle sets items of {other:?}")),
        }
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<(), Failure> {
        let value = self.top()?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), Failure> {
        let value = *self.memo.get(&key).ok_or_else(|| format!("memo entry {key} is referred to, but not there"))?;
        self.push(value);
        Ok(())
    }

    fn text(&mut self, n: usize) -> Result<(), Failure> {
        let text = self.take(n)?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn skip(&mut self, n: usize) -> Result<(), Failure> {
        self.take(n)?;
        self.push(Value::Opaque);
        Ok(())
    }

    fn run(&mut self) -> Result<Value<'a, M::Made>, Failure> {
        for _ in 0..MOST_OPERATIONS {
            let at = self.at;
            match self.u8()? {
                0x80 => drop(self.take(1)?), // PROTO
                0x95 => drop(self.take(8)?), // FRAME
                b'.' => return self.pop(),   // STOP
                b'(' => self.push(Value::Mark),
                b'0' => drop(self.pop()?),
                b'N' | 0x88 | 0x89 => self.push(Value::Opaque), // None, True, False
                b'K' => {
                    let value = self.u8()?;
                    self.push(Value::Int(value.into()));
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(value.into()));
                }
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(value.into()));
                }
                0x8a => {
                    let value = self.long()?;
                    self.push(Value::Int(value));
                }
                b'G' => self.skip(8)?, // BINFLOAT
                b'X' => {
                    let n = self.u32()? as usize;
                    self.text(n)?;
                }
                0x8c => {
                    let n = self.u8()?.into();
                    self.text(n)?;
                }
                b'B' => {
                    let n = self.u32()? as usize;
                    self.skip(n)?;
                }
                b'C' => {
                    let n = self.u8()?.into();
                    self.skip(n)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Value::Global(module, name));
                }
                0x93 => {
                    // STACK_GLOBAL
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(module), Value::Text(name)) = (module, name) else {
                        return Err("a global without a name".into());
                    };
                    self.push(Value::Global(module, name));
                }
                b'q' => {
                    let key = self.u8()?.into();
                    self.remember(key)?;
                }
                b'r' => {
                    let key = self.u32()?;
                    self.remember(key)?;
                }
                0x94 => {
                    // MEMOIZE
                    let key = self.memo.len() as u32;
                    self.remember(key)?;
                }
                b'h' => {
                    let key = self.u8()?.into();
                    self.recall(key)?;
                }
                b'j' => {
                    let key = self.u32()?;
                    self.recall(key)?;
                }
                b']' | b')' => self.push_sequence(Vec::new()),
                0x8f => self.push(Value::Opaque), // EMPTY_SET
                b'}' => self.push_dict(),
                n @ 0x85..=0x87 => self.push_tuple(usize::from(n - 0x84))?,
                b't' | b'l' => {
                    let items = self.above_mark()?;
                    self.push_sequence(items);
                }
                b'd' => {
                    let items = self.above_mark()?;
                    self.push_dict();
                    self.set_items(items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.above_mark()?;
                    self.append(items)?;
                }
                0x90 => drop(self.above_mark()?), // ADDITEMS
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(vec![key, value])?;
                }
                b'u' => {
                    let items = self.above_mark()?;
                    self.set_items(items)?;
                }
                b'R' => {
                    let (arguments, callee) = (self.pop()?, self.pop()?);
                    let value = self.meaning.call(&mut self.heap, callee, arguments)?;
                    self.push(value);
                }
                0x81 => {
                    let (arguments, class) = (self.pop()?, self.pop()?);
                    let value = self.meaning.create(&mut self.heap, class, arguments)?;
                    self.push(value);
                }
                b'b' => {
                    let (state, object) = (self.pop()?, self.top()?);
                    self.meaning.build(&self.heap, object, state)?;
                }
                b'Q' => {
                    let id = self.pop()?;
                    let value = self.meaning.beside(&self.heap, id)?;
                    self.push(value);
                }
                other => return Err(format!("operation 0x{other:02x} at byte {at} is none that PyTorch writes")),
            }
        }
        Err(format!("the pickle has more than {MOST_OPERATIONS} operations, which no network of this kind has"))
    }
}
