//! Reads PyTorch's zip checkpoints: a pickle of a dictionary, and one raw file a storage.
//!
//! Neither libtorch's C++ interface nor tch reads a state dict that Python saved (an `OrderedDict` with attributes).
//! This is an interpreter of the few pickle opcodes that `torch.save` writes. It builds dictionaries, tuples, numbers
//! and tensors, and cannot call anything: a checkpoint is data here, never a program.
//! Opcodes: Python's `pickletools`; file layout: PyTorch's `torch/serialization.py`.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use tch::{Kind, Tensor};

/// A value on the pickle machine's stack.
#[derive(Debug, Clone)]
enum Value {
    Mark,
    None,
    Bool,
    Int(i64),
    Text(String),
    /// `module.name`
    Global(String),
    Sequence(Vec<Value>),
    /// Index into the machine's dictionaries: the memo shares them.
    Dict(usize),
    /// kind, file key
    Storage(Kind, String),
    Tensor(TensorRecipe),
    /// Anything that carries no tensor.
    Opaque,
}

/// A tensor as a view of a storage.
#[derive(Debug, Clone)]
struct TensorRecipe {
    kind: Kind,
    key: String,
    offset: i64,
    size: Vec<i64>,
    stride: Vec<i64>,
}

const MOST_BYTES: u64 = 2 << 30;

type Failure = String;

fn kind_of(global: &str) -> Option<Kind> {
    Some(match global {
        "torch.FloatStorage" => Kind::Float,
        "torch.DoubleStorage" => Kind::Double,
        "torch.HalfStorage" => Kind::Half,
        "torch.BFloat16Storage" => Kind::BFloat16,
        "torch.LongStorage" => Kind::Int64,
        "torch.IntStorage" => Kind::Int,
        "torch.ShortStorage" => Kind::Int16,
        "torch.CharStorage" => Kind::Int8,
        "torch.ByteStorage" => Kind::Uint8,
        "torch.BoolStorage" => Kind::Bool,
        _ => return None,
    })
}

/// The pickle machine.
struct Machine<'a> {
    code: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    dicts: Vec<Vec<(Value, Value)>>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Failure> {
        let end = self.at.checked_add(n).filter(|&e| e <= self.code.len()).ok_or("the pickle ends too early")?;
        let part = &self.code[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn byte(&mut self) -> Result<u8, Failure> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Failure> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn line(&mut self) -> Result<String, Failure> {
        let rest = &self.code[self.at..];
        let n = rest.iter().position(|&b| b == b'\n').ok_or("the pickle ends too early")?;
        let text = String::from_utf8_lossy(&rest[..n]).into_owned();
        self.at += n + 1;
        Ok(text)
    }

    fn text(&mut self, n: usize) -> Result<Value, Failure> {
        Ok(Value::Text(String::from_utf8_lossy(self.take(n)?).into_owned()))
    }

    fn pop(&mut self) -> Result<Value, Failure> {
        self.stack.pop().ok_or_else(|| "the pickle's stack is empty".into())
    }

    fn since_mark(&mut self) -> Result<Vec<Value>, Failure> {
        let mark = self.stack.iter().rposition(|v| matches!(v, Value::Mark)).ok_or("the pickle lacks a mark")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn new_dict(&mut self) -> Value {
        self.dicts.push(Vec::new());
        Value::Dict(self.dicts.len() - 1)
    }

    fn set_items(&mut self, items: Vec<Value>) -> Result<(), Failure> {
        match self.stack.last() {
            Some(&Value::Dict(index)) => {
                let mut items = items.into_iter();
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    self.dicts[index].push((key, value));
                }
                Ok(())
            }
            Some(Value::Opaque) => Ok(()),
            other => Err(format!("the pickle sets items of {other:?}")),
        }
    }

    fn reduce(&mut self) -> Result<Value, Failure> {
        let arguments = match self.pop()? {
            Value::Sequence(a) => a,
            other => return Err(format!("the pickle calls with {other:?}")),
        };
        let callee = match self.pop()? {
            Value::Global(name) => name,
            other => return Err(format!("the pickle calls {other:?}")),
        };
        match callee.as_str() {
            "collections.OrderedDict" => Ok(self.new_dict()),
            "torch._utils._rebuild_tensor_v2" => match arguments.as_slice() {
                [Value::Storage(kind, key), Value::Int(offset), Value::Sequence(size), Value::Sequence(stride), ..] => {
                    Ok(Value::Tensor(TensorRecipe {
                        kind: *kind,
                        key: key.clone(),
                        offset: *offset,
                        size: integers(size)?,
                        stride: integers(stride)?,
                    }))
                }
                other => Err(format!("a tensor of {} unexpected arguments", other.len())),
            },
            "torch._utils._rebuild_parameter" => {
                arguments.into_iter().next().ok_or_else(|| "a parameter without its tensor".into())
            }
            // A hyper-parameter object, a dtype, a device: nothing with weights in it.
            _ => Ok(Value::Opaque),
        }
    }

    /// Runs to the end and returns what is left: the saved object.
    fn run(&mut self) -> Result<Value, Failure> {
        loop {
            match self.byte()? {
                0x80 => drop(self.take(1)?), // PROTO
                0x95 => drop(self.take(8)?), // FRAME
                b'.' => return self.pop(),   // STOP
                b'(' => self.stack.push(Value::Mark),
                b'0' => drop(self.pop()?),
                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Bool),
                0x89 => self.stack.push(Value::Bool),
                b'K' => {
                    let v = self.byte()?;
                    self.stack.push(Value::Int(v.into()));
                }
                b'M' => {
                    let b = self.take(2)?;
                    self.stack.push(Value::Int(u16::from_le_bytes([b[0], b[1]]).into()));
                }
                b'J' => {
                    let v = self.u32()? as i32;
                    self.stack.push(Value::Int(v.into()));
                }
                0x8a => {
                    // LONG1: little-endian two's complement.
                    let n = usize::from(self.byte()?);
                    let b = self.take(n)?;
                    if n > 8 {
                        return Err("an integer of more than 64 bits".into());
                    }
                    let sign = if b.last().is_some_and(|v| v & 0x80 != 0) { 0xff } else { 0 };
                    let mut full = [sign; 8];
                    full[..n].copy_from_slice(b);
                    self.stack.push(Value::Int(i64::from_le_bytes(full)));
                }
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Opaque);
                }
                b'X' => {
                    let n = self.u32()? as usize;
                    let v = self.text(n)?;
                    self.stack.push(v);
                }
                0x8c => {
                    let n = usize::from(self.byte()?);
                    let v = self.text(n)?;
                    self.stack.push(v);
                }
                b'B' => {
                    let n = self.u32()? as usize;
                    self.take(n)?;
                    self.stack.push(Value::Opaque);
                }
                b'C' => {
                    let n = usize::from(self.byte()?);
                    self.take(n)?;
                    self.stack.push(Value::Opaque);
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.stack.push(Value::Global(format!("{module}.{name}")));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(module), Value::Text(name)) = (module, name) else {
                        return Err("a global without a name".into());
                    };
                    self.stack.push(Value::Global(format!("{module}.{name}")));
                }
                b'q' => {
                    let key = self.byte()?.into();
                    self.remember(key)?;
                }
                b'r' => {
                    let key = self.u32()?;
                    self.remember(key)?;
                }
                0x94 => {
                    let key = self.memo.len() as u32;
                    self.remember(key)?;
                }
                b'h' => {
                    let key = self.byte()?.into();
                    self.recall(key)?;
                }
                b'j' => {
                    let key = self.u32()?;
                    self.recall(key)?;
                }
                b')' => self.stack.push(Value::Sequence(Vec::new())),
                b']' => self.stack.push(Value::Sequence(Vec::new())),
                0x8f => self.stack.push(Value::Opaque), // EMPTY_SET
                b'}' => {
                    let d = self.new_dict();
                    self.stack.push(d);
                }
                n @ 0x85..=0x87 => {
                    let count = usize::from(n - 0x84);
                    let from = self.stack.len().checked_sub(count).ok_or("the pickle's stack is empty")?;
                    let items = self.stack.split_off(from);
                    self.stack.push(Value::Sequence(items));
                }
                b't' | b'l' => {
                    let items = self.since_mark()?;
                    self.stack.push(Value::Sequence(items));
                }
                b'd' => {
                    let items = self.since_mark()?;
                    let d = self.new_dict();
                    self.stack.push(d);
                    self.set_items(items)?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.since_mark()?;
                    self.append(items)?;
                }
                0x90 => drop(self.since_mark()?), // ADDITEMS
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set_items(vec![key, value])?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set_items(items)?;
                }
                b'R' | 0x81 => {
                    let v = self.reduce()?;
                    self.stack.push(v);
                }
                // BUILD: attributes of an object, such as a state dict's version numbers.
                b'b' => drop(self.pop()?),
                b'Q' => {
                    let id = self.pop()?;
                    let v = storage(id)?;
                    self.stack.push(v);
                }
                other => return Err(format!("the pickle has the opcode {other:#04x}, which a state dict has not")),
            }
        }
    }

    fn append(&mut self, more: Vec<Value>) -> Result<(), Failure> {
        match self.stack.last_mut() {
            Some(Value::Sequence(items)) => {
                items.extend(more);
                Ok(())
            }
            Some(Value::Opaque) => Ok(()),
            other => Err(format!("the pickle appends to {other:?}")),
        }
    }

    fn remember(&mut self, key: u32) -> Result<(), Failure> {
        let top = self.stack.last().ok_or("the pickle's stack is empty")?.clone();
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), Failure> {
        let v = self.memo.get(&key).ok_or("the pickle recalls what it has not stored")?.clone();
        self.stack.push(v);
        Ok(())
    }

    /// The tensors of a dictionary and of those inside it, by name.
    fn tensors(&self, index: usize, depth: usize, out: &mut HashMap<String, TensorRecipe>) {
        for (key, value) in &self.dicts[index] {
            match (key, value) {
                (Value::Text(name), Value::Tensor(t)) => {
                    let name = name.strip_prefix("module.").unwrap_or(name);
                    out.insert(name.to_string(), t.clone());
                }
                (Value::Text(name), &Value::Dict(inner))
                    if depth == 0 && ["state_dict", "model_state_dict", "model"].contains(&name.as_str()) =>
                {
                    self.tensors(inner, 1, out);
                }
                _ => {}
            }
        }
    }
}

fn integers(values: &[Value]) -> Result<Vec<i64>, Failure> {
    values
        .iter()
        .map(|v| match v {
            Value::Int(i) if *i >= 0 => Ok(*i),
            other => Err(format!("a size or stride of {other:?}")),
        })
        .collect()
}

/// `('storage', torch.FloatStorage, '12', 'cpu', 96)`
fn storage(id: Value) -> Result<Value, Failure> {
    let Value::Sequence(parts) = id else { return Err("a storage without a description".into()) };
    match parts.as_slice() {
        [_, Value::Global(kind), Value::Text(key), ..] => {
            let kind = kind_of(kind).ok_or_else(|| format!("tensors of {kind} are not supported"))?;
            Ok(Value::Storage(kind, key.clone()))
        }
        _ => Err("a storage of an unknown description".into()),
    }
}

/// Reads every tensor of a state dict; see [`super::weights::load`] for what is accepted.
pub(super) fn read(path: &Path) -> Result<HashMap<String, Tensor>, Failure> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| format!("not a PyTorch checkpoint: {e}"))?;
    let pickle_name =
        archive
            .file_names()
            .find(|n| n.ends_with("/data.pkl") || *n == "data.pkl")
            .map(str::to_string)
            .ok_or("a zip file without data.pkl: expected what torch.save(model.state_dict(), FILE) writes")?;
    if archive.file_names().any(|n| n.contains("/code/")) {
        return Err("a TorchScript module, not a state dict: save model.state_dict() instead".into());
    }
    let prefix = pickle_name.trim_end_matches("data.pkl").to_string();
    let mut entry = |name: &str| -> Result<Vec<u8>, Failure> {
        let part = archive.by_name(name).map_err(|e| format!("{name}: {e}"))?;
        if part.size() > MOST_BYTES {
            return Err(format!("{name}: {} bytes are more than a network of this kind has", part.size()));
        }
        let mut bytes = Vec::new();
        part.take(MOST_BYTES).read_to_end(&mut bytes).map_err(|e| format!("{name}: {e}"))?;
        Ok(bytes)
    };
    let code = entry(&pickle_name)?;
    let mut machine = Machine { code: &code, at: 0, stack: Vec::new(), memo: HashMap::new(), dicts: Vec::new() };
    let Value::Dict(root) = machine.run()? else {
        return Err("expected a dictionary of tensors: save model.state_dict(), not the model itself".into());
    };
    let mut recipes = HashMap::new();
    machine.tensors(root, 0, &mut recipes);
    if recipes.is_empty() {
        return Err("no tensors in it: expected what torch.save(model.state_dict(), FILE) writes".into());
    }
    let mut storages: HashMap<String, Vec<u8>> = HashMap::new();
    let mut out = HashMap::new();
    for (name, recipe) in recipes {
        if !storages.contains_key(&recipe.key) {
            storages.insert(recipe.key.clone(), entry(&format!("{prefix}data/{}", recipe.key))?);
        }
        let tensor = build(&recipe, &storages[&recipe.key]).map_err(|e| format!("{name}: {e}"))?;
        out.insert(name, tensor);
    }
    Ok(out)
}

fn build(recipe: &TensorRecipe, bytes: &[u8]) -> Result<Tensor, Failure> {
    let element = recipe.kind.elt_size_in_bytes();
    let available = (bytes.len() / element) as i64;
    if recipe.size.len() != recipe.stride.len() {
        return Err("as many sizes as strides are needed".into());
    }
    // The last element that the view touches has to be inside the storage.
    let empty = recipe.size.contains(&0);
    let last = recipe
        .size
        .iter()
        .zip(&recipe.stride)
        .try_fold(recipe.offset, |sum, (&n, &s)| (n.max(1) - 1).checked_mul(s).and_then(|v| sum.checked_add(v)));
    if recipe.offset < 0 || !empty && last.is_none_or(|l| l >= available) {
        return Err(format!("its storage is too small: {available} elements for {:?}", recipe.size));
    }
    let flat = Tensor::f_from_data_size(&bytes[..available as usize * element], &[available], recipe.kind);
    flat.and_then(|t| t.f_as_strided(&recipe.size, &recipe.stride, recipe.offset))
        .and_then(|t| t.f_contiguous())
        .map_err(|e| crate::causes::first_line(&e))
}
