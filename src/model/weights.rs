//! Weights in and out: safetensors, and PyTorch's `.pth` state dicts (the article's checkpoints).

use super::{Network, Task};
use crate::causes::{cut, first_line};
use crate::data::disk;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use tch::nn::VarStore;
use tch::{Kind, Tensor};

/// What can be wrong with a weights file.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// It cannot be read or written.
    #[error("weights {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a weights file, or a broken one.
    #[error("weights {path}: {what}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// Expected, found, and what to do.
        what: String,
    },
    /// It belongs to another network.
    #[error("weights {path} do not fit this network: {}", list(problems))]
    Mismatch {
        /// Which file.
        path: PathBuf,
        /// One line for every missing, extra or misshapen key.
        problems: Vec<String>,
    },
}

/// The first twenty problems, and how many more there are.
fn list(problems: &[String]) -> String {
    let shown = problems.iter().take(20).map(String::as_str).collect::<Vec<_>>().join("; ");
    match problems.len() {
        n if n > 20 => format!("{shown}; and {} more", n - 20),
        _ => shown,
    }
}

/// PyTorch counts the batches that a batch norm has seen, under this name; nothing computes with it.
const BATCH_COUNTER: &str = "num_batches_tracked";

/// A tensor of the state dict has to have a statistics neighbour to be a batch norm's.
fn batch_counters<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    names.filter_map(|n| n.strip_suffix("running_mean").map(|p| format!("{p}{BATCH_COUNTER}"))).collect()
}

fn variables(vs: &VarStore) -> BTreeMap<String, Tensor> {
    // tch separates a variable's path by dots, as PyTorch does.
    vs.variables().into_iter().collect()
}

/// Writes all variables as safetensors with PyTorch's names (float32, batch counters 0). The file appears whole or
/// not at all.
///
/// # Errors
/// The folder cannot be written to.
pub fn save(vs: &VarStore, path: &Path) -> Result<(), WeightsError> {
    save_some(vs, |_| true, path)
}

/// As [`save`], of the variables whose names are `wanted`.
///
/// # Errors
/// As [`save`].
pub fn save_some(vs: &VarStore, wanted: impl Fn(&str) -> bool, path: &Path) -> Result<(), WeightsError> {
    let variables: BTreeMap<_, _> = variables(vs).into_iter().filter(|(name, _)| wanted(name)).collect();
    let counters = batch_counters(variables.keys());
    let mut tensors: Vec<(String, Tensor)> = variables
        .into_iter()
        .map(|(n, t)| (n, t.to_device(tch::Device::Cpu).to_kind(Kind::Float).contiguous()))
        .collect();
    tensors.extend(counters.into_iter().map(|n| (n, Tensor::from(0_i64))));
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    write(&tensors, path)
}

/// Writes tensors as safetensors. The file appears whole or not at all, and is on the disk when this returns.
///
/// # Errors
/// The folder cannot be written to, or the disk is full.
pub fn write(tensors: &[(String, Tensor)], path: &Path) -> Result<(), WeightsError> {
    // Not by tch's own writer, which has the file system's errors in their debug form.
    let (header, order) = header(tensors).map_err(|what| WeightsError::Format { path: path.into(), what })?;
    // Of one name, whoever writes: what a run that was killed was writing is written over.
    let partial = path.with_extension("partial");
    let written = (|| {
        let mut file = BufWriter::new(fs::File::create(&partial)?);
        file.write_all(&header)?;
        for tensor in order {
            file.write_all(&bytes(tensor)?)?;
        }
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&partial, path)
    })();
    written.map_err(|source| {
        // What is there is a part of a file: only in the way, on a full disk most of all.
        let _ = fs::remove_file(&partial);
        WeightsError::Io { path: path.into(), source }
    })
}

/// What a safetensors file of these tensors begins with, and the order in which their bytes follow.
fn header(tensors: &[(String, Tensor)]) -> Result<(Vec<u8>, Vec<&Tensor>), String> {
    let mut typed = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let dtype = match tensor.kind() {
            Kind::Float => Dtype::F32,
            Kind::Double => Dtype::F64,
            Kind::Half => Dtype::F16,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Int64 => Dtype::I64,
            Kind::Int => Dtype::I32,
            Kind::Uint8 => Dtype::U8,
            Kind::Bool => Dtype::BOOL,
            other => return Err(format!("{name}: expected numbers that safetensors can hold, found {other:?}")),
        };
        typed.push((dtype, name, tensor));
    }
    // Those of the widest numbers first, so that each begins at a multiple of its numbers' width.
    typed.sort_by(|a, b| b.0.bitsize().cmp(&a.0.bitsize()).then_with(|| a.1.cmp(b.1)));
    let mut end = 0;
    let infos = typed.iter().map(|(dtype, name, tensor)| {
        let begin = end;
        end += tensor.numel() * dtype.bitsize() / 8;
        let shape = tensor.size().iter().map(|&n| n as usize).collect();
        ((*name).clone(), TensorInfo { dtype: *dtype, shape, data_offsets: (begin, end) })
    });
    let metadata = Metadata::new(None, infos.collect()).map_err(|e| e.to_string())?;
    let mut text = serde_json::to_vec(&metadata).map_err(|e| e.to_string())?;
    text.resize(text.len().next_multiple_of(8), b' ');
    let header = [&(text.len() as u64).to_le_bytes()[..], &text].concat();
    Ok((header, typed.into_iter().map(|(_, _, tensor)| tensor).collect()))
}

/// A tensor's numbers as they lie in memory.
fn bytes(tensor: &Tensor) -> std::io::Result<Vec<u8>> {
    let copied = tensor.f_contiguous().and_then(|tensor| {
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel()).map(|()| bytes)
    });
    copied.map_err(|e| std::io::Error::other(first_line(&e)))
}

/// Fills the variables of `vs` from a safetensors file or a PyTorch state dict, by the file's content.
///
/// Accepts what people have: a state dict by itself or under `state_dict`, `model_state_dict` or `model`, names with
/// `DataParallel`'s `module.` in front, any floating kind, batch counters or none.
///
/// # Errors
/// [`WeightsError::Mismatch`] names every missing, extra and misshapen key; nothing is changed then.
pub fn load(vs: &mut VarStore, path: &Path) -> Result<(), WeightsError> {
    load_without(vs, path, |_| false, &RefinementSource::Weights)
}

/// Where the variables of the depth's refinement come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RefinementSource {
    /// From where the other weights come from, if there are any.
    #[default]
    Weights,
    /// There are to be none, whatever the weights have.
    None,
    /// From another file, whatever the weights have.
    File(PathBuf),
}

impl RefinementSource {
    /// The other file.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Weights | Self::None => None,
        }
    }
}

/// As [`load`], and leaves out the heads of the file for which `without` holds, and its refinement where that comes from
/// elsewhere.
///
/// # Errors
/// As [`load`]; also where `refinement` has no such variables.
pub fn load_without(
    vs: &mut VarStore,
    path: &Path,
    without: impl Fn(Task) -> bool,
    refinement: &RefinementSource,
) -> Result<(), WeightsError> {
    let mut given = read_weights(path)?;
    for task in Task::ALL.into_iter().filter(|task| without(*task)) {
        given.retain(|name, _| !task.owns(name));
    }
    if *refinement != RefinementSource::Weights {
        given.retain(|name, _| !Network::is_refinement(name));
    }
    if let Some(path) = refinement.file() {
        let mut found = read_weights(path)?;
        found.retain(|name, _| Network::is_refinement(name));
        if found.is_empty() {
            let what =
                "no refinement in it; expected the weights of a training with `refinement: alone` or `joint`".into();
            return Err(WeightsError::Format { path: path.into(), what });
        }
        given.extend(found);
    }
    fill(vs, &given, path)
}

/// Fills all variables of `vs` from the tensors of a file.
///
/// # Errors
/// [`WeightsError::Mismatch`] names every missing, extra and misshapen key; nothing is changed then.
pub fn fill(vs: &VarStore, given: &HashMap<String, Tensor>, path: &Path) -> Result<(), WeightsError> {
    let wanted = variables(vs);
    let mut problems = Vec::new();
    for (name, variable) in &wanted {
        match given.get(name) {
            None => problems.push(format!("missing {name} {:?}", variable.size())),
            Some(t) if t.size() != variable.size() => {
                problems.push(format!("{name}: expected shape {:?}, found {:?}", variable.size(), t.size()));
            }
            Some(t) if !t.is_floating_point() => {
                problems.push(format!("{name}: expected floating point numbers, found {:?}", t.kind()));
            }
            Some(_) => {}
        }
    }
    let mut extra: Vec<_> = given.keys().filter(|n| !wanted.contains_key(*n) && !n.ends_with(BATCH_COUNTER)).collect();
    extra.sort();
    problems.extend(extra.into_iter().map(|n| format!("extra {n}")));
    if !problems.is_empty() {
        return Err(WeightsError::Mismatch { path: path.into(), problems });
    }
    copy(
        path,
        wanted.into_iter().filter_map(|(name, variable)| given.get(&name).map(|source| (name, variable, source))),
    )
}

/// Which network a weights file is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Its heads.
    pub heads: Vec<Task>,
    /// Class score channels; 0 without a segmentation head.
    pub classes: usize,
    /// Whether it refines its depth.
    pub refines_depth: bool,
    /// Whether it lacks the 1/4 stage.
    pub is_extra_light: bool,
}

/// Which network a weights file is of.
///
/// # Errors
/// It cannot be read.
pub fn contents(path: &Path) -> Result<Contents, WeightsError> {
    let given = read_weights(path)?;
    let weight = |task: Task| given.iter().find(|(name, _)| name.ends_with(&format!("decoder.{}.weight", task.key())));
    let classes = weight(Task::Segmentation).and_then(|(_, t)| t.size().first().copied()).unwrap_or(0) as usize;
    let heads = Task::ALL.into_iter().filter(|task| weight(*task).is_some()).collect();
    let refines_depth = given.keys().any(|name| Network::is_refinement(name));
    let is_extra_light = !given.keys().any(|name| name.ends_with("decoder.conv6.weight"));
    Ok(Contents { heads, classes, refines_depth, is_extra_light })
}

/// Fills what the weights of a file have for this network, to start a training from: a network of the same encoder and
/// decoder may have other heads, and torchvision's MobileNetV3-small (`features.*`) has the encoder only. A segmentation
/// head of another number of classes, and a refinement, which reads them, are left out with a warning. Returns the names
/// of the variables that keep their random start.
///
/// # Errors
/// A shape differs, or they have nothing for this network.
pub fn fill_start(vs: &VarStore, mut given: HashMap<String, Tensor>, path: &Path) -> Result<Vec<String>, WeightsError> {
    let wanted = variables(vs);
    if let Some((here, there)) = classes_differ(&wanted, &given) {
        // The refinement as a whole: as it starts it changes nothing, which a part of a trained one would.
        let left_out = |name: &str| SCORES.contains(&name) || Network::is_refinement(name);
        let refines = given.keys().any(|name| Network::is_refinement(name));
        log::warn!(
            "weights {}: their segmentation head has {there} classes and this network's {here}: {} at random",
            path.display(),
            if refines { "the head and the depth's refinement start" } else { "the head starts" }
        );
        given.retain(|name, _| !left_out(name));
    }
    let torchvision =
        |name: &str| name.strip_prefix("encoder.backbone.").and_then(|rest| given.get(&format!("features.{rest}")));
    let (mut kept, mut problems, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for (name, variable) in wanted {
        match given.get(&name).or_else(|| torchvision(&name)) {
            None => kept.push(name),
            Some(t) if t.size() != variable.size() || !t.is_floating_point() => {
                problems.push(format!("{name}: expected numbers of shape {:?}, found {:?}", variable.size(), t.size()));
            }
            Some(t) => found.push((name, variable, t)),
        }
    }
    if found.is_empty() {
        problems.push("no variable of this network is in it".into());
    }
    if !problems.is_empty() {
        return Err(WeightsError::Mismatch { path: path.into(), problems });
    }
    copy(path, found)?;
    Ok(kept)
}

/// The last layer of the segmentation head.
const SCORES: [&str; 2] = ["decoder.seg.weight", "decoder.seg.bias"];

/// Class score channels of a network and of the weights for it, where both have them, and they differ.
fn classes_differ(wanted: &BTreeMap<String, Tensor>, given: &HashMap<String, Tensor>) -> Option<(i64, i64)> {
    let [weight, _] = SCORES;
    let (wanted, given) = (wanted.get(weight)?.size(), given.get(weight)?.size());
    match (&wanted[..], &given[..]) {
        ([here, a @ ..], [there, b @ ..]) if here != there && a == b => Some((*here, *there)),
        _ => None,
    }
}

/// Copies tensors into variables of their shape.
fn copy<'a>(path: &Path, pairs: impl IntoIterator<Item = (String, Tensor, &'a Tensor)>) -> Result<(), WeightsError> {
    tch::no_grad(|| {
        for (name, mut variable, source) in pairs {
            variable
                .f_copy_(source)
                .map_err(|e| WeightsError::Format { path: path.into(), what: format!("{name}: {}", first_line(&e)) })?;
        }
        Ok(())
    })
}

/// As [`read`], of a file that is to hold weights and nothing else.
fn read_weights(path: &Path) -> Result<HashMap<String, Tensor>, WeightsError> {
    let given = read(path)?;
    // `train::checkpoint` has the network's variables under this name, and more.
    if given.keys().any(|name| name.starts_with("network/")) {
        let what =
            "a training's checkpoint, which `train` takes (--resume, or --init in another folder); expected its \
                    weights: last.safetensors or best.safetensors beside it, which are there from its first look \
                    (watch.validate_every) or its end on"
                .into();
        return Err(WeightsError::Format { path: path.into(), what });
    }
    Ok(given)
}

/// All tensors of a weights file.
///
/// # Errors
/// It cannot be read, or is none.
pub fn read(path: &Path) -> Result<HashMap<String, Tensor>, WeightsError> {
    let format = |what: String| WeightsError::Format { path: path.into(), what };
    let mut bytes = Vec::new();
    let read = disk::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|source| WeightsError::Io { path: path.into(), source })?;
    // A safetensors header starts at byte 8 with a brace; its length before that may begin with any bytes.
    let is_safetensors = bytes.get(8) == Some(&b'{');
    if bytes.starts_with(b"PK") && !is_safetensors {
        return read_pth(path);
    }
    if bytes.starts_with(&[0x80]) && !is_safetensors {
        return Err(format(
            "a PyTorch file of the format before 1.6; write it anew with torch.save(torch.load(FILE), FILE)".into(),
        ));
    }
    // Checked by the safetensors crate first: tch's own reader trusts the header.
    safetensors::SafeTensors::deserialize(&bytes)
        .map_err(|e| format(format!("expected safetensors or a PyTorch state dict; as safetensors: {e}")))?;
    Ok(Tensor::read_safetensors(path).map_err(|e| format(first_line(&e)))?.into_iter().collect())
}

fn read_pth(path: &Path) -> Result<HashMap<String, Tensor>, WeightsError> {
    super::pth::read(path).map_err(|what| WeightsError::Format { path: path.into(), what: cut(what) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_may_be_as_long_as_zip_files_begin() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("weights.safetensors");
        write(&[("a".into(), Tensor::from_slice(&[1.0_f32, 2.0]))], &path).expect("written");
        let bytes = fs::read(&path).expect("read");
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
        let (header, numbers) = bytes[8..].split_at(length);
        let start = *b"PK\0\0\0\0\0\0";
        let mut padded = header.to_vec();
        padded.resize(u64::from_le_bytes(start) as usize, b' ');
        fs::write(&path, [&start[..], &padded[..], numbers].concat()).expect("written");
        let tensors = read(&path).expect("safetensors");
        assert_eq!(tensors["a"], Tensor::from_slice(&[1.0_f32, 2.0]));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("weights.safetensors");
        let whole = Tensor::arange(6, (Kind::Float, tch::Device::Cpu)).view([2, 3]);
        let kinds = [Kind::Uint8, Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double, Kind::Int, Kind::Int64];
        let mut tensors: Vec<_> = kinds.iter().map(|kind| (format!("{kind:?}"), whole.to_kind(*kind))).collect();
        // One whose numbers do not lie in a row, one number, and none.
        tensors.push(("turned".into(), whole.transpose(0, 1)));
        tensors.push(("one".into(), Tensor::from(7_i64)));
        tensors.push(("none".into(), whole.slice(0, 0, 0, 1)));
        tensors.push(("truth".into(), whole.gt(2)));
        write(&tensors, &path).expect("written");
        let found = read(&path).expect("read");
        assert_eq!(found.len(), tensors.len());
        for (name, tensor) in &tensors {
            assert_eq!(found[name].kind(), tensor.kind(), "{name}");
            assert_eq!(&found[name], tensor, "{name}");
        }
    }

    #[test]
    fn a_full_disk_is_told_in_its_own_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("weights.safetensors");
        fs::write(&path, "whole").expect("written");
        std::os::unix::fs::symlink("/dev/full", path.with_extension("partial")).expect("linked");
        let tensors = [("a".into(), Tensor::zeros([100_000], (Kind::Float, tch::Device::Cpu)))];
        let error = write(&tensors, &path).expect_err("no space").to_string();
        assert_eq!(error, format!("weights {}: No space left on device (os error 28)", path.display()));
        assert_eq!(fs::read(&path).expect("still there"), b"whole");
        assert!(!path.with_extension("partial").exists(), "what was written of it is gone");
    }
}
