//! Reads the pickle records of a TorchScript archive as far as TensorRT engines are concerned. Nothing is executed.
//!
//! libtorch's pickler writes an engine as `GLOBAL __torch__.torch.classes.tensorrt Engine`, `EMPTY_TUPLE`, `NEWOBJ`, the
//! state, `BUILD`. The state is a list of strings, wrapped in `restore_type_tag(list, "List[str]")`; a string that was
//! written before, anywhere in the record, is a reference to the memo. So the stack and the memo are followed, and all
//! else (tensors, numbers, other objects) is one opaque value.

use std::collections::HashMap;
use std::ops::Range;

/// Operations in one record. A network has some ten for each of its parameters; the bound keeps what a hostile record
/// makes of memory within some tens of MB.
const MOST_OPERATIONS: usize = 1 << 20;

/// Engines in one record, and strings of one engine: bounds for the same reason. Torch-TensorRT writes at most 12 strings.
const MOST_ENGINES: usize = 1024;
const MOST_STRINGS: usize = 64;

/// `module.name` of the two lines that follow `GLOBAL`: libtorch joins them, wherever they part.
const ENGINE: &[u8] = b"__torch__.torch.classes.tensorrt.Engine";
/// `module` and `name`, which libtorch compares one by one.
const RESTORE_TYPE_TAG: (&[u8], &[u8]) = (b"torch.jit._pickle", b"restore_type_tag");

/// Longest name of a module or a class.
const LONGEST_LINE: usize = 4096;

/// A value on the stack. Aggregates are numbers of [`Reader::aggregates`], so that the memo shares them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Mark,
    /// Bytes of the record.
    Text(usize, usize),
    /// A list or a tuple.
    Aggregate(usize),
    EngineClass,
    RestoreTypeTag,
    /// An engine, by its number.
    Engine(usize),
    Opaque,
}

/// Why a record cannot be read; begins with a lower-case letter, without a full stop.
pub(super) type Failure = String;

struct Reader<'a> {
    record: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    aggregates: Vec<Vec<Value>>,
    /// The strings of each engine, once it is built.
    engines: Vec<Option<Vec<Range<usize>>>>,
}

/// The strings of each engine in the record, in the order in which libtorch creates them, as ranges of its bytes.
///
/// # Errors
/// The record ends early, uses an operation that libtorch does not write, or an engine's state is no list of strings.
pub(super) fn engines(record: &[u8]) -> Result<Vec<Vec<Range<usize>>>, Failure> {
    let mut reader =
        Reader { record, at: 0, stack: Vec::new(), memo: HashMap::new(), aggregates: Vec::new(), engines: Vec::new() };
    reader.run()?;
    let engines: Option<Vec<_>> = reader.engines.into_iter().collect();
    engines.ok_or_else(|| "an engine is created, but its state is missing".into())
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Failure> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.record.len());
        let end = end.ok_or_else(|| format!("it ends within a value, at byte {}", self.record.len()))?;
        let bytes = &self.record[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, Failure> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Failure> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// Up to a line feed, which goes, too.
    fn line(&mut self) -> Result<&'a [u8], Failure> {
        let rest = &self.record[self.at..];
        let rest = &rest[..rest.len().min(LONGEST_LINE)];
        let n = rest.iter().position(|&b| b == b'\n').ok_or("a class name has no end")?;
        self.at += n + 1;
        Ok(&rest[..n])
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn pop(&mut self) -> Result<Value, Failure> {
        match self.stack.pop() {
            Some(Value::Mark) | None => Err(format!("a value is missing at byte {}", self.at)),
            Some(value) => Ok(value),
        }
    }

    /// The values above the last mark, which goes, too.
    fn above_mark(&mut self) -> Result<Vec<Value>, Failure> {
        let mark = self.stack.iter().rposition(|v| *v == Value::Mark);
        let mark = mark.ok_or_else(|| format!("a mark is missing at byte {}", self.at))?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn push_aggregate(&mut self, values: Vec<Value>) {
        self.push(Value::Aggregate(self.aggregates.len()));
        self.aggregates.push(values);
    }

    fn push_tuple(&mut self, n: usize) -> Result<(), Failure> {
        let mut values = (0..n).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        values.reverse();
        self.push_aggregate(values);
        Ok(())
    }

    fn extend(&mut self, values: Vec<Value>) {
        if let Some(&Value::Aggregate(list)) = self.stack.last() {
            self.aggregates[list].extend(values);
        }
    }

    fn remember(&mut self, key: u32) -> Result<(), Failure> {
        let value = *self.stack.last().ok_or("there is nothing to remember")?;
        self.memo.insert(key, value);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), Failure> {
        let value = *self.memo.get(&key).ok_or_else(|| format!("memo entry {key} is referred to, but not there"))?;
        self.push(value);
        Ok(())
    }

    fn text(&mut self, n: usize) -> Result<(), Failure> {
        let from = self.at;
        self.take(n)?;
        self.push(Value::Text(from, self.at));
        Ok(())
    }

    fn global(&mut self) -> Result<(), Failure> {
        let (module, name) = (self.line()?, self.line()?);
        self.push(if (module, name) == RESTORE_TYPE_TAG {
            Value::RestoreTypeTag
        } else if [module, name].join(&b'.') == ENGINE {
            Value::EngineClass
        } else {
            Value::Opaque
        });
        Ok(())
    }

    fn new_object(&mut self) -> Result<(), Failure> {
        self.pop()?;
        let object = match self.pop()? {
            Value::EngineClass => {
                if self.engines.len() == MOST_ENGINES {
                    return Err(format!("it has more than {MOST_ENGINES} engines"));
                }
                self.engines.push(None);
                Value::Engine(self.engines.len() - 1)
            }
            _ => Value::Opaque,
        };
        self.push(object);
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), Failure> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let result = match (callee, arguments) {
            // The tag says what the list holds; the list itself comes back.
            (Value::RestoreTypeTag, Value::Aggregate(n)) => *self.aggregates[n].first().unwrap_or(&Value::Opaque),
            // libtorch would create one here as well; its pickler never writes that.
            (Value::EngineClass | Value::Engine(_), _) => return Err(self.created_otherwise()),
            _ => Value::Opaque,
        };
        self.push(result);
        Ok(())
    }

    fn created_otherwise(&self) -> Failure {
        format!("an engine is created without NEWOBJ and BUILD at byte {}", self.at)
    }

    /// `BUILD`: the state is popped, the object stays.
    fn build(&mut self) -> Result<(), Failure> {
        let state = self.pop()?;
        let object = *self.stack.last().ok_or("a state without its object")?;
        let number = match object {
            Value::Engine(number) => number,
            Value::EngineClass => return Err(self.created_otherwise()),
            _ => return Ok(()),
        };
        if self.engines[number].is_some() {
            return Err(format!("engine {number} has a second state"));
        }
        let Value::Aggregate(list) = state else {
            return Err(format!("the state of engine {number} is no list"));
        };
        if self.aggregates[list].len() > MOST_STRINGS {
            return Err(format!("the state of engine {number} has more than {MOST_STRINGS} values"));
        }
        let texts = self.aggregates[list].iter().map(|value| match value {
            Value::Text(from, to) => Some(*from..*to),
            _ => None,
        });
        let texts: Option<Vec<_>> = texts.collect();
        self.engines[number] =
            Some(texts.ok_or_else(|| format!("the state of engine {number} holds more than texts"))?);
        Ok(())
    }

    /// Runs to `STOP`. The operations are those of libtorch's `PickleOpCode` that its pickler writes for TorchScript.
    fn run(&mut self) -> Result<(), Failure> {
        for _ in 0..MOST_OPERATIONS {
            let at = self.at;
            match self.byte()? {
                0x80 => drop(self.take(1)?), // PROTO
                b'.' => return Ok(()),       // STOP
                b'(' => self.push(Value::Mark),
                b'0' => drop(self.pop()?),
                b'N' | 0x88 | 0x89 => self.push(Value::Opaque),
                b'K' => self.skip(1)?,
                b'M' => self.skip(2)?,
                b'J' => self.skip(4)?,
                b'G' => self.skip(8)?,
                0x8a => {
                    // LONG1
                    let n = self.byte()?;
                    self.skip(n.into())?;
                }
                b'X' => {
                    let n = self.u32()?;
                    self.text(n as usize)?;
                }
                b'c' => self.global()?,
                b'q' => {
                    let key = self.byte()?;
                    self.remember(key.into())?;
                }
                b'r' => {
                    let key = self.u32()?;
                    self.remember(key)?;
                }
                b'h' => {
                    let key = self.byte()?;
                    self.recall(key.into())?;
                }
                b'j' => {
                    let key = self.u32()?;
                    self.recall(key)?;
                }
                b']' | b')' => self.push_aggregate(Vec::new()),
                b'}' => self.push(Value::Opaque),
                b'a' => {
                    let value = self.pop()?;
                    self.extend(vec![value]);
                }
                b'e' => {
                    let values = self.above_mark()?;
                    self.extend(values);
                }
                b't' => {
                    let values = self.above_mark()?;
                    self.push_aggregate(values);
                }
                0x85 => self.push_tuple(1)?,
                0x86 => self.push_tuple(2)?,
                0x87 => self.push_tuple(3)?,
                b's' => {
                    self.pop()?;
                    self.pop()?;
                }
                b'u' => drop(self.above_mark()?),
                b'Q' => {
                    // BINPERSID: a tensor's storage.
                    self.pop()?;
                    self.push(Value::Opaque);
                }
                b'R' => self.reduce()?,
                0x81 => self.new_object()?,
                b'b' => self.build()?,
                other => return Err(format!("operation 0x{other:02x} at byte {at} is none that libtorch writes")),
            }
        }
        Err(format!("it has more than {MOST_OPERATIONS} operations"))
    }

    fn skip(&mut self, n: usize) -> Result<(), Failure> {
        self.take(n)?;
        self.push(Value::Opaque);
        Ok(())
    }
}
