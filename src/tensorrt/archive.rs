//! What a TorchScript archive holds of TensorRT engines, read without loading anything.
//!
//! libtorch deserialises engines while it loads an archive, and Torch-TensorRT 2.11 reads past the end of an older
//! version's list of strings before it compares the versions: a wrong file ends the process (tried: a segmentation fault),
//! not the call. So the archive is looked at first.
//!
//! The layout (read in Torch-TensorRT's `core/runtime` of 2.2 to 2.13, and in archives that libtorch 2.11 wrote): a zip
//! with `NAME/data.pkl`, which holds an engine as an attribute of a module, and `NAME/constants.pkl`, which holds it once
//! the module is frozen. libtorch takes capital letters in these names for small ones. An engine is a list of strings
//! whose order never changed and whose length grew with the ABI:
//!
//! | index | what | since ABI |
//! |---|---|---|
//! | 0 | ABI | 4 (Torch-TensorRT 2.2) |
//! | 1 | name | 4 |
//! | 2 | device: `id%major%minor%type%name`, type 0 a GPU, 1 a DLA core | 4 |
//! | 3 | plan, base64; it starts with `ftrt`, and bytes 24 to 27 are TensorRT's version | 4 |
//! | 4, 5 | names of inputs and of outputs, separated by `%` | 4 |
//! | 6 | `1`: hardware compatible | 5 (2.3) |
//! | 7 | metadata, opaque | 6 (2.5) |
//! | 8 | platform: `linux_x86_64`, `linux_aarch64`, `windows_x86_64`, `unknown` | 6 |
//! | 9 | `1`: needs an output allocator | 7 (2.7) |
//! | 10 | `1`: resources are allocated dynamically | 8 (2.11) |
//! | 11 | `1`: runs on several devices | 9 (2.12) |

use super::pickle;
use super::version::{ComputeCapability, TensorRtVersion};
use crate::data::disk;
use crate::data::zip::check_end;
use base64ct::{Base64, Encoding as _};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::io::{BufReader, Read, Seek};
use std::ops::Range;
use std::path::{Path, PathBuf};
use zip::{CompressionMethod, ZipArchive};

/// Records whose objects libtorch creates while it loads an archive.
const RECORDS: [&str; 2] = ["data.pkl", "constants.pkl"];

/// The code of the engine's class: empty, but there whenever a module names the class.
const ENGINE_CODE: &str = "code/__torch__/torch/classes/tensorrt.py";

/// First bytes of a plan.
const PLAN_MAGIC: &[u8; 4] = b"ftrt";
/// Where in a plan TensorRT's version is, one byte a number.
const PLAN_VERSION: Range<usize> = 24..28;

/// What separates names of bindings, and parts of a device.
const DELIMITER: char = '%';

/// The plan and the metadata, which may be long: only their sizes are kept.
const SIZES_ONLY: [usize; 2] = [3, 7];
/// Bytes of the other strings of all engines of a record. An engine has some hundreds; a hostile one refers to one long
/// string again and again.
const MOST_TEXT: usize = 1 << 20;

/// Why an archive cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("TorchScript file {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TorchScript archive, or not all of one.
    #[error("TorchScript file {path}: {what}; it is damaged or was not written by libtorch: copy or make it again")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What a TorchScript archive holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Archive {
    /// The file.
    pub path: PathBuf,
    /// Its TensorRT engines, in the order in which libtorch creates them. None: plain TorchScript.
    pub engines: Vec<Engine>,
}

impl Archive {
    /// No TensorRT in it: any libtorch loads it.
    pub fn is_plain(&self) -> bool {
        self.engines.is_empty()
    }
}

/// A TensorRT engine in an archive.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Engine {
    /// The record that holds it: `data.pkl` or `constants.pkl`.
    pub record: &'static str,
    /// Version of Torch-TensorRT's list of strings.
    pub abi: u32,
    /// Given by the compiler.
    pub name: String,
    /// The device that it was built on.
    pub device: EngineDevice,
    /// Bytes of the plan.
    pub plan_bytes: usize,
    /// TensorRT's version that made the plan.
    pub tensorrt: TensorRtVersion,
    /// Names of its inputs. Empty if Torch-TensorRT is to derive them from the plan.
    pub inputs: Vec<String>,
    /// Names of its outputs. Empty if Torch-TensorRT is to derive them from the plan.
    pub outputs: Vec<String>,
    /// Runs on every GPU of compute capability 8.0 and above.
    pub hardware_compatible: bool,
    /// Bytes of the compiler's settings, which are not read.
    pub metadata_bytes: usize,
    /// `linux_x86_64`, ...; unknown before ABI 6.
    pub platform: Option<String>,
    /// Sizes of its outputs follow from the data; unknown before ABI 7.
    pub needs_output_allocator: Option<bool>,
    /// Memory is allocated for each run; unknown before ABI 8.
    pub allocates_dynamically: Option<bool>,
}

/// The device that an engine was built on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EngineDevice {
    /// Its number there.
    pub id: i64,
    /// Its generation.
    pub compute_capability: ComputeCapability,
    /// What it is.
    pub kind: DeviceKind,
    /// `Orin`, `NVIDIA H200`, ...
    pub name: String,
}

/// TensorRT's `DeviceType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A GPU.
    Gpu,
    /// A deep learning accelerator of a Jetson.
    Dla,
}

/// Looks at the archive; loads and executes nothing.
///
/// # Errors
/// The file cannot be read, is no TorchScript archive, or is damaged.
pub fn inspect(path: &Path) -> Result<Archive, ArchiveError> {
    let io = |source| ArchiveError::Io { path: path.into(), source };
    let file = disk::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let engines =
        engines_of(BufReader::new(file), bytes).map_err(|what| ArchiveError::Damaged { path: path.into(), what })?;
    Ok(Archive { path: path.into(), engines })
}

fn engines_of(mut file: impl Read + Seek, file_bytes: u64) -> Result<Vec<Engine>, String> {
    check_end(&mut file, file_bytes)?;
    let mut zip = ZipArchive::new(file).map_err(|e| format!("it is no zip archive ({e})"))?;
    // As libtorch does: the archive's name is the folder of its first file.
    let first = zip.by_index_raw(0).map_err(|e| format!("it has no files ({e})"))?.name_raw().to_vec();
    let slash = first.iter().position(|&b| b == b'/');
    let slash =
        slash.ok_or_else(|| format!("its first file, {:?}, is in no folder", String::from_utf8_lossy(&first)))?;
    // It takes capital letters for small ones; which of two equal names it finds depends on all the others.
    let mut files = HashMap::new();
    for index in 0..zip.len() {
        let file = zip.by_index_raw(index).map_err(|e| format!("file {index}: {e}"))?;
        if files.insert(file.name_raw().to_ascii_lowercase(), index).is_some() {
            let name = file.name();
            return Err(format!("{name:?} is in it twice (capital and small letters are the same to libtorch)"));
        }
    }
    let find = |name: &str| files.get(&[&first[..=slash], name.as_bytes()].concat().to_ascii_lowercase()).copied();

    let mut engines = Vec::new();
    for record in RECORDS {
        let in_record = |what: String| format!("{record}: {what}");
        let index = find(record).ok_or_else(|| in_record("it is missing".into()))?;
        let bytes = read(&mut zip, index, file_bytes).map_err(in_record)?;
        let mut seen = Seen::default();
        for strings in pickle::engines(&bytes).map_err(in_record)? {
            let number = engines.len();
            let engine = parse(record, &strings, &mut seen);
            engines.push(engine.map_err(|what| in_record(format!("engine {number}: {what}")))?);
        }
    }
    if engines.is_empty() && find(ENGINE_CODE).is_some() {
        return Err("its code names TensorRT engines, but its records hold none".into());
    }
    Ok(engines)
}

/// A whole record. libtorch stores records uncompressed, so none is larger than the file.
fn read(zip: &mut ZipArchive<impl Read + Seek>, index: usize, file_bytes: u64) -> Result<Vec<u8>, String> {
    // Not `by_index`, which panics if the entry says that it is encrypted with AES.
    let entry = zip.by_index_decrypt(index, b"").map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    if entry.compression() != CompressionMethod::Stored || entry.size() > file_bytes {
        return Err("expected an uncompressed record, as libtorch writes it".into());
    }
    let (size, mut bytes) = (entry.size(), Vec::new());
    // One byte more than it should have: the checksum is verified at the end of the entry.
    entry.take(size + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 != size {
        return Err(format!("expected {size} bytes, found {}", bytes.len()));
    }
    Ok(bytes)
}

/// Strings of an engine of this ABI, where it is known.
fn strings_of(abi: u32) -> Option<usize> {
    Some(match abi {
        4 => 6,
        5 => 7,
        6 => 9,
        7 => 10,
        8 => 11,
        9 => 12,
        _ => return None,
    })
}

/// What earlier engines of a record held.
#[derive(Default)]
struct Seen {
    /// Plans that were looked through; engines may share one.
    plans: HashSet<*const [u8]>,
    /// Bytes of strings other than [`SIZES_ONLY`].
    text: usize,
}

fn parse(record: &'static str, strings: &[&[u8]], seen: &mut Seen) -> Result<Engine, String> {
    let kept = strings.iter().enumerate().filter(|(index, _)| !SIZES_ONLY.contains(index));
    seen.text += kept.map(|(_, text)| text.len()).sum::<usize>();
    if seen.text > MOST_TEXT {
        return Err(format!("up to it, the engines' names and settings take more than {MOST_TEXT} bytes"));
    }
    let text = |index: usize, what: &str| -> Result<&str, String> {
        let found = strings
            .get(index)
            .ok_or_else(|| format!("expected {what} as string {index}, found {} strings", strings.len()))?;
        std::str::from_utf8(found).map_err(|_| format!("{what} is no text"))
    };
    let optional = |index: usize, what: &str| (index < strings.len()).then(|| text(index, what)).transpose();
    let flag = |index: usize, what: &str| match optional(index, what)? {
        None => Ok(None),
        Some("0") => Ok(Some(false)),
        Some("1") => Ok(Some(true)),
        Some(other) => Err(format!("{what}: expected 0 or 1, found {:?}", short(other))),
    };

    let abi = text(0, "the ABI")?;
    let abi: u32 = abi.parse().map_err(|_| format!("the ABI: expected a whole number, found {:?}", short(abi)))?;
    if let Some(expected) = strings_of(abi).filter(|&n| n != strings.len()) {
        return Err(format!("ABI {abi} has {expected} strings, found {}", strings.len()));
    }
    let plan = text(3, "the plan")?;
    let (tensorrt, plan_bytes) = plan_header(plan)?;
    if seen.plans.insert(std::ptr::from_ref(strings[3])) {
        check_alphabet(plan)?;
    }
    Ok(Engine {
        record,
        abi,
        name: text(1, "the name")?.into(),
        device: device(text(2, "the device")?)?,
        plan_bytes,
        tensorrt,
        inputs: names(text(4, "the inputs")?),
        outputs: names(text(5, "the outputs")?),
        hardware_compatible: flag(6, "the hardware compatibility")?.unwrap_or(false),
        metadata_bytes: optional(7, "the metadata")?.map_or(0, str::len),
        platform: optional(8, "the platform")?.map(String::from),
        needs_output_allocator: flag(9, "the output allocator")?,
        allocates_dynamically: flag(10, "the allocation strategy")?,
    })
}

/// For messages.
fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Torch-TensorRT skips empty names.
fn names(text: &str) -> Vec<String> {
    text.split(DELIMITER).filter(|name| !name.is_empty()).map(String::from).collect()
}

fn device(text: &str) -> Result<EngineDevice, String> {
    let wrong = || format!("the device: expected id%major%minor%type%name, found {:?}", short(text));
    let parts: Vec<&str> = text.split(DELIMITER).collect();
    let [id, major, minor, kind, name] = parts[..] else { return Err(wrong()) };
    Ok(EngineDevice {
        id: id.parse().map_err(|_| wrong())?,
        compute_capability: ComputeCapability {
            major: major.parse().map_err(|_| wrong())?,
            minor: minor.parse().map_err(|_| wrong())?,
        },
        kind: match kind {
            "0" => DeviceKind::Gpu,
            "1" => DeviceKind::Dla,
            _ => return Err(wrong()),
        },
        name: name.into(),
    })
}

/// TensorRT's version in a plan, and how many bytes the plan has.
fn plan_header(base64: &str) -> Result<(TensorRtVersion, usize), String> {
    // Whole groups of four characters that hold the version's last byte.
    let characters = PLAN_VERSION.end.div_ceil(3) * 4;
    let head = base64.get(..characters).ok_or_else(|| format!("the plan has only {} characters", base64.len()))?;
    let head = Base64::decode_vec(head).map_err(|e| format!("the plan is no base64 ({e})"))?;
    if !head.starts_with(PLAN_MAGIC) {
        return Err(format!("the plan: expected it to begin with {PLAN_MAGIC:?}, found {:?}", &head[..4]));
    }
    let v = head.get(PLAN_VERSION).ok_or("the plan has no version")?;
    let padding = base64.bytes().rev().take(2).filter(|&b| b == b'=').count();
    let version =
        TensorRtVersion { major: v[0].into(), minor: v[1].into(), patch: v[2].into(), build: Some(v[3].into()) };
    Ok((version, base64.len() / 4 * 3 - padding))
}

/// Torch-TensorRT decodes up to the first character that is no base64, and would hand TensorRT half a plan.
fn check_alphabet(base64: &str) -> Result<(), String> {
    let body = base64.trim_end_matches('=');
    let plain = body.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
    if plain && base64.len().is_multiple_of(4) && base64.len() - body.len() <= 2 {
        Ok(())
    } else {
        Err("the plan is no base64".into())
    }
}

#[cfg(test)]
pub(super) mod tests;
