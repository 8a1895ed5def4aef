//! Reads PyTorch's zip checkpoints: a pickle of a dictionary, and one raw file a storage.
//!
//! Neither libtorch's C++ interface nor tch reads a state dict that Python saved (an `OrderedDict` with attributes).
//! File layout: PyTorch's `torch/serialization.py`.

use crate::data::zip::check_end;
use crate::pickle::{self, Failure, Meaning};
use std::collections::hash_map::{Entry, HashMap};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;
use tch::{Kind, Tensor};

/// What of a checkpoint is of its own kind.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Made<'a> {
    /// kind, file key
    Storage(Kind, &'a str),
    /// Index into [`Tensors`].
    Tensor(usize),
}

type Value<'a> = pickle::Value<'a, Made<'a>>;
type Heap<'a> = pickle::Heap<'a, Made<'a>>;

/// A tensor as a view of a storage.
#[derive(Debug)]
struct TensorRecipe<'a> {
    kind: Kind,
    key: &'a str,
    offset: i64,
    size: Vec<i64>,
    stride: Vec<i64>,
}

/// Most bytes of all that is read of the file, and of all tensors that are made of it.
const MOST_BYTES: u64 = 2 << 30;

/// Sizes of one tensor: a bound, so that a hostile file stays small in memory. A convolution's weights have four.
const MOST_DIMENSIONS: usize = 16;

/// Of more than [`MOST_BYTES`].
const TOO_LARGE: &str = "which no network of this kind has";

fn kind_of(module: &str, storage: &str) -> Option<Kind> {
    if module != "torch" {
        return None;
    }
    Some(match storage {
        "FloatStorage" => Kind::Float,
        "DoubleStorage" => Kind::Double,
        "HalfStorage" => Kind::Half,
        "BFloat16Storage" => Kind::BFloat16,
        "LongStorage" => Kind::Int64,
        "IntStorage" => Kind::Int,
        "ShortStorage" => Kind::Int16,
        "CharStorage" => Kind::Int8,
        "ByteStorage" => Kind::Uint8,
        "BoolStorage" => Kind::Bool,
        _ => return None,
    })
}

/// The tensors that a pickle makes.
struct Tensors<'a>(Vec<TensorRecipe<'a>>);

impl<'a> Meaning<'a> for Tensors<'a> {
    type Made = Made<'a>;

    fn call(&mut self, heap: &mut Heap<'a>, callee: Value<'a>, arguments: Value<'a>) -> Result<Value<'a>, Failure> {
        let Value::Sequence(arguments) = arguments else {
            return Err(format!("the pickle calls with {arguments:?}"));
        };
        let Value::Global(module, name) = callee else { return Err(format!("the pickle calls {callee:?}")) };
        let arguments = &heap.sequences[arguments];
        match (module, name) {
            (b"collections", b"OrderedDict") => Ok(heap.dict()),
            (b"torch._utils", b"_rebuild_tensor_v2") => match arguments[..] {
                [Value::Made(Made::Storage(kind, key)), Value::Int(offset), Value::Sequence(size), Value::Sequence(stride), ..] =>
                {
                    let (size, stride) = (integers(&heap.sequences[size])?, integers(&heap.sequences[stride])?);
                    self.0.push(TensorRecipe { kind, key, offset, size, stride });
                    Ok(Value::Made(Made::Tensor(self.0.len() - 1)))
                }
                _ => Err(format!("a tensor of {} unexpected arguments", arguments.len())),
            },
            (b"torch._utils", b"_rebuild_parameter") => {
                arguments.first().copied().ok_or_else(|| "a parameter without its tensor".into())
            }
            // A hyper-parameter object, a dtype, a device: nothing with weights in it.
            _ => Ok(Value::Opaque),
        }
    }

    /// `('storage', torch.FloatStorage, '12', 'cpu', 96)`
    fn beside(&mut self, heap: &Heap<'a>, id: Value<'a>) -> Result<Value<'a>, Failure> {
        let Value::Sequence(index) = id else { return Err("a storage without a description".into()) };
        match heap.sequences[index][..] {
            [_, Value::Global(module, name), Value::Text(key), ..] => {
                let (module, name) = (utf8(module)?, utf8(name)?);
                let kind =
                    kind_of(module, name).ok_or_else(|| format!("tensors of {module}.{name} are not supported"))?;
                Ok(Value::Made(Made::Storage(kind, utf8(key)?)))
            }
            _ => Err("a storage of an unknown description".into()),
        }
    }
}

impl<'a> Tensors<'a> {
    /// Those of a dictionary and of those directly inside it that may hold the weights, by name.
    ///
    /// # Errors
    /// A name is not UTF-8.
    fn named(&self, heap: &Heap<'a>, root: usize) -> Result<HashMap<&'a str, &TensorRecipe<'a>>, Failure> {
        // Each dictionary once, under however many names it stands.
        let inside: BTreeSet<usize> = heap.dicts[root]
            .iter()
            .filter_map(|pair| match *pair {
                (Value::Text(b"state_dict" | b"model_state_dict" | b"model"), Value::Dict(inner)) => Some(inner),
                _ => None,
            })
            .collect();
        let mut out = HashMap::new();
        for &(key, value) in std::iter::once(root).chain(inside).flat_map(|index| &heap.dicts[index]) {
            if let (Value::Text(name), Value::Made(Made::Tensor(index))) = (key, value) {
                let name = utf8(name)?;
                out.insert(name.strip_prefix("module.").unwrap_or(name), &self.0[index]);
            }
        }
        Ok(out)
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Failure> {
    std::str::from_utf8(bytes).map_err(|_| "the pickle has a text that is not UTF-8".into())
}

fn integers(values: &[Value]) -> Result<Vec<i64>, Failure> {
    if values.len() > MOST_DIMENSIONS {
        return Err(format!("a tensor of {} dimensions, expected at most {MOST_DIMENSIONS}", values.len()));
    }
    values
        .iter()
        .map(|v| match v {
            Value::Int(i) if *i >= 0 => Ok(*i),
            other => Err(format!("a size or stride of {other:?}")),
        })
        .collect()
}

/// Reads every tensor of a state dict; see [`super::weights::load`] for what is accepted.
pub(super) fn read(path: &Path) -> Result<HashMap<String, Tensor>, Failure> {
    let mut file = BufReader::new(File::open(path).map_err(|e| e.to_string())?);
    let bytes = file.get_ref().metadata().map_err(|e| e.to_string())?.len();
    check_end(&mut file, bytes).map_err(|what| format!("not a PyTorch checkpoint: {what}"))?;
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
    let mut left = MOST_BYTES;
    let mut entry = |name: &str| -> Result<Vec<u8>, Failure> {
        // Not `by_name`, which panics on a file that says it is encrypted with AES and is not.
        let part = archive.by_name_decrypt(name, b"").map_err(|e| format!("{name}: {e}"))?;
        let part = part.map_err(|e| format!("{name}: {e}"))?;
        if part.compression() != zip::CompressionMethod::Stored {
            return Err(format!(
                "{name}: it is compressed, which torch.save never does; write it anew with torch.save"
            ));
        }
        if part.size() > left {
            return Err(format!("{name}: its {} bytes make more than {MOST_BYTES}, {TOO_LARGE}", part.size()));
        }
        let mut bytes = Vec::new();
        part.take(left).read_to_end(&mut bytes).map_err(|e| format!("{name}: {e}"))?;
        left -= bytes.len() as u64;
        Ok(bytes)
    };
    let code = entry(&pickle_name)?;
    let mut tensors = Tensors(Vec::new());
    let saved = pickle::read(&code, &mut tensors)?;
    let Value::Dict(root) = saved.object else {
        return Err("expected a dictionary of tensors: save model.state_dict(), not the model itself".into());
    };
    let recipes = tensors.named(&saved.heap, root)?;
    if recipes.is_empty() {
        return Err("no tensors in it: expected what torch.save(model.state_dict(), FILE) writes".into());
    }
    let mut storages: HashMap<&str, Vec<u8>> = HashMap::new();
    let mut out = HashMap::new();
    let mut room = MOST_BYTES;
    for (name, recipe) in recipes {
        let storage = match storages.entry(recipe.key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => free.insert(entry(&format!("{prefix}data/{}", recipe.key))?),
        };
        let tensor = build(recipe, storage, &mut room).map_err(|e| format!("{name}: {e}"))?;
        out.insert(name.to_string(), tensor);
    }
    Ok(out)
}

/// Takes the tensor's bytes from `room`.
fn build(recipe: &TensorRecipe, bytes: &[u8], room: &mut u64) -> Result<Tensor, Failure> {
    let TensorRecipe { kind, offset, size, stride, .. } = recipe;
    let element = kind.elt_size_in_bytes();
    let available = (bytes.len() / element) as i64;
    if size.len() != stride.len() {
        return Err("as many sizes as strides are needed".into());
    }
    let empty = size.contains(&0);
    // The last element that the view touches has to be inside the storage.
    let last = size
        .iter()
        .zip(stride)
        .try_fold(*offset, |sum, (&n, &s)| (n.max(1) - 1).checked_mul(s).and_then(|v| sum.checked_add(v)));
    let touched = match last {
        _ if empty => 0..0,
        Some(last) if *offset >= 0 && last < available => *offset as usize..last as usize + 1,
        _ => return Err(format!("its storage is too small: {available} elements for {size:?}")),
    };
    // A stride of 0 makes many elements of one: what the tensor takes counts, not what the view touches.
    let count = if empty { Some(0) } else { size.iter().try_fold(1_u64, |n, &s| n.checked_mul(s as u64)) };
    *room = count
        .and_then(|n| n.checked_mul(element as u64))
        .and_then(|taken| room.checked_sub(taken))
        .ok_or_else(|| format!("its sizes {size:?} make more than {MOST_BYTES} bytes in all, {TOO_LARGE}"))?;
    // Only what is touched: many tensors may share one storage.
    let part = &bytes[touched.start * element..touched.end * element];
    let flat = Tensor::f_from_data_size(part, &[touched.len() as i64], *kind);
    flat.and_then(|t| t.f_as_strided(size, stride, 0_i64))
        .and_then(|t| t.f_contiguous())
        .map_err(|e| crate::causes::first_line(&e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// What [`read`] says of a checkpoint of this pickle and a storage `0` of one number, 2.
    fn said(pickle: &[u8]) -> Result<HashMap<String, Tensor>, Failure> {
        said_in(pickle, zip::CompressionMethod::Stored)
    }

    fn said_in(pickle: &[u8], method: zip::CompressionMethod) -> Result<HashMap<String, Tensor>, Failure> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("w.pth");
        let mut zip = zip::ZipWriter::new(File::create(&path).expect("a file"));
        let options = zip::write::FileOptions::default().compression_method(method);
        for (name, bytes) in [("w/data.pkl", pickle), ("w/data/0", &2_f32.to_le_bytes()[..])] {
            zip.start_file(name, options).expect("an entry");
            zip.write_all(bytes).expect("written");
        }
        zip.finish().expect("written");
        read(&path)
    }

    fn text(text: &str) -> Vec<u8> {
        [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    }

    /// A state dict of the tensor `w`, with these sizes and strides of 0.
    fn state_dict(sizes: &[u32]) -> Vec<u8> {
        let mut code = [&b"}"[..], &text("w"), b"ctorch._utils\n_rebuild_tensor_v2\n((", &text("storage")].concat();
        code.extend([&b"ctorch\nFloatStorage\n"[..], &text("0"), &text("cpu"), b"K\x01tQK\0("].concat());
        code.extend(sizes.iter().flat_map(|n| [&b"J"[..], &n.to_le_bytes()].concat()));
        code.extend([&b"t("[..], &b"K\0".repeat(sizes.len()), b"ttRs."].concat());
        code
    }

    #[test]
    fn a_tensor_of_one_number_is_read() {
        let read = said(&state_dict(&[2, 3])).expect("a state dict");
        assert_eq!((read["w"].size(), read["w"].sum(Kind::Double).double_value(&[])), (vec![2, 3], 12.0));
        assert_eq!(said(&state_dict(&[0, 3])).expect("a state dict")["w"].size(), [0, 3]);
    }

    /// Some bytes of a file stay some bytes of memory.
    #[test]
    fn small_files_that_grow_are_refused() {
        // Each round holds the one before twice.
        let doubled = [&b")q\0"[..], &b"h\0h\0\x86q\0".repeat(60), b"."].concat();
        // Each level holds the one before.
        let nested = [&b")"[..], &[0x85; 500_000], b"."].concat();
        // A long text, again and again.
        let repeated = [&text(&"a".repeat(1 << 20))[..], b"q\0", &b"h\0".repeat(500_000), b"."].concat();
        for (what, pickle) in [("doubled", doubled), ("nested", nested), ("repeated", repeated)] {
            let error = said(&pickle).expect_err(what);
            assert!(error.starts_with("expected a dictionary of tensors"), "{what}: {error}");
        }
        let error = said(&[&b"N".repeat(pickle::MOST_OPERATIONS)[..], b"}."].concat()).expect_err("long");
        assert!(error.contains("more than 1048576 operations"), "{error}");
        for sizes in [&[u32::MAX >> 1, 1][..], &[1 << 15, 1 << 15], &[1 << 30, 1 << 30, 1 << 30, 1 << 30]] {
            let error = said(&state_dict(sizes)).expect_err("huge");
            assert!(error.contains("w: its sizes") && error.contains("2147483648 bytes"), "{error}");
        }
        // A few bytes of the file could be gigabytes.
        let error = said_in(&state_dict(&[2, 3]), zip::CompressionMethod::Deflated).expect_err("compressed");
        assert!(error.contains("w/data.pkl: it is compressed"), "{error}");
        let error = said(&state_dict(&[1; 17])).expect_err("many");
        assert!(error.contains("17 dimensions, expected at most 16"), "{error}");
    }

    #[test]
    fn tensors_share_the_room() {
        let recipe = TensorRecipe { kind: Kind::Float, key: "0", offset: 1, size: vec![2, 3], stride: vec![0, 1] };
        let bytes: Vec<u8> = [0_f32, 1.0, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let mut room = 40;
        let tensor = build(&recipe, &bytes, &mut room).expect("room for one");
        assert!(tensor.equal(&Tensor::from_slice(&[1_f32, 2.0, 3.0, 1.0, 2.0, 3.0]).view([2, 3])), "{tensor}");
        assert_eq!(room, 16);
        let error = build(&recipe, &bytes, &mut room).expect_err("no room for another");
        assert!(error.contains("[2, 3]"), "{error}");
        let error = build(&TensorRecipe { offset: 2, ..recipe }, &bytes, &mut room).expect_err("outside");
        assert!(error.contains("too small: 4 elements"), "{error}");
    }
}
