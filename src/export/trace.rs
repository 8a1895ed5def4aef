//! Turns the network into TorchScript and writes a model folder.
//!
//! **One output.** `create_by_tracing`, which is what libtorch's C interface offers to Rust, records a function with
//! exactly one output tensor. The network answers two. They are packed: class scores and log depth have the same size
//! once they are upsampled, so they are concatenated along the channels, `[1, C + 1, H, W]`, and the manifest says
//! which channel is which. Whoever reads the output takes views; nothing is copied back apart.
//!
//! **Heads at 1/4.** In the deployment form the answers stay where the heads give them: enlarging them here would move
//! sixteen times the data, and the node's post-processing interpolates anyway.
//!
//! **Channels last.** The input is given in channels-last memory, which convolutions on the CPU and on tensor cores
//! prefer; a trace does not fix the layout, the input's own decides at run time.

use super::golden::{self, GOLDEN};
use super::manifest::{
    ChannelOrder, ClassKind, DepthCode, DepthDecoding, InputKind, InputSpec, Manifest, OutputSpec, Provenance,
    SCHEMA_VERSION,
};
use super::{sha256, Artifact, ArtifactError, MANIFEST};
use crate::causes::first_line;
use crate::data::augment::{IMAGENET_MEAN, IMAGENET_STD};
use crate::data::classes::{self, Class};
use crate::data::depth;
use crate::data::disk::{hold, DataError};
use crate::model::weights::{self, Contents, RefinementSource, WeightsError};
use crate::model::{Answers, Network, NetworkConfig, NumberFormat, Task};
use rustix::fs::{memfd_create, renameat_with, MemfdFlags, RenameFlags, CWD};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tch::nn::VarStore;
use tch::{CModule, Device, Kind, Tensor};

/// Largest difference between the exported and the original network's output that is put down to rounding, as a share of the
/// largest output or of 1. Of trained networks, whose scores go to 75, up to 7e-6 was seen.
const ALLOWED_DIFFERENCE: f64 = 5e-5;

const TORCHSCRIPT: &str = "network.ts";
/// The weights that a model was exported from, in its folder.
pub const WEIGHTS: &str = "weights.safetensors";

/// What to export and what to say of it.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// safetensors or a PyTorch state dict.
    pub weights: PathBuf,
    /// Where the weights of the depth's refinement come from.
    pub refinement: RefinementSource,
    /// The network's shape.
    pub network: NetworkConfig,
    /// Width and height of the network's input, pixels.
    pub size: (usize, usize),
    /// The article's own form: answers as large as the input, nothing folded. Otherwise the deployment form
    /// ([`Network::folded`]), whose answers stay at the heads' resolution.
    pub full_size: bool,
    /// Focal length that the depth was learned at, as [`super::manifest::DepthDecoding::focal_length_px`].
    pub focal_length_px: f32,
    /// Short name.
    pub name: String,
    /// What it was trained on and how.
    pub training: String,
    /// The command that asks for it.
    pub command: String,
    /// Now, ISO 8601, UTC.
    pub created: String,
}

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The model folder.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A model has to answer something that can be published.
    #[error(
        "weights {path}: no segmentation head in them, and no depth head; a model for the node needs one of them: train it with \
         one or both"
    )]
    Head {
        /// Which file.
        path: PathBuf,
    },
    /// The refinement reads both heads.
    #[error(
        "weights {path}: the depth's refinement reads segmentation and depth, and these have one head; leave --refinement out, or \
         give weights with both"
    )]
    OneHead {
        /// Which file.
        path: PathBuf,
    },
    /// A refinement refines something.
    #[error(
        "weights {path}: a refinement alone; give the weights that it refines as --weights, and this as --refinement"
    )]
    RefinementAlone {
        /// Which file.
        path: PathBuf,
    },
    /// The score channels are of no known label space.
    #[error(
        "weights {path}: {found} class score channels are no known set of classes; expected 20 (Cityscapes' train ids) or \
         8 (its categories)"
    )]
    Classes {
        /// Which file.
        path: PathBuf,
        /// Channels.
        found: usize,
    },
    /// They are of the network of the other size.
    #[error(
        "weights {path} are of the network {}",
        if *is_extra_light { "without its 1/4 stage; pass --extra-light" } else { "with its 1/4 stage; leave out --extra-light" }
    )]
    Quarter {
        /// Which file.
        path: PathBuf,
        /// What they are.
        is_extra_light: bool,
    },
    /// libtorch.
    #[error("libtorch could not {what}: {why}")]
    Torch {
        /// What was tried.
        what: &'static str,
        /// First line of its message.
        why: String,
    },
}

fn torch(what: &'static str) -> impl FnOnce(tch::TchError) -> ExportError {
    move |e| ExportError::Torch { what, why: first_line(&e) }
}

/// The network's input for a picture of its size: `[1, 3, H, W]` of rgb bytes, `[H, W, 3]`.
fn network_input(image: &[u8], input: &InputSpec) -> Tensor {
    let per_channel = |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]);
    let bytes = Tensor::from_slice(image).view([1, input.height as i64, input.width as i64, 3]);
    (bytes.permute([0, 3, 1, 2]) / 255.0 - per_channel(input.mean)) / per_channel(input.std)
}

/// `[B, 3, H, W]` in channels-last memory.
fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// Packs what the network answers at the input's size: `[B, C + 1, H, W]`, scores first, log depth next, then the surface
/// normals' three channels; what it has no head for is left out.
pub fn packed(network: &Network, x: &Tensor) -> Tensor {
    pack(&network.forward_t(x, false))
}

/// The same at the heads' own resolution: `[B, C + 1, H/4, W/4]` (1/8 for an extra light network), rounded up.
pub fn packed_heads(network: &Network, x: &Tensor) -> Tensor {
    pack(&network.forward_heads_t(x, false))
}

fn pack(answers: &Answers) -> Tensor {
    let parts: Vec<_> = ANSWERED.into_iter().filter_map(|task| answers.get(task)).collect();
    Tensor::cat(&parts, 1)
}

/// Order of the tasks in the packed output.
pub const ANSWERED: [Task; 3] = [Task::Segmentation, Task::Depth, Task::Normals];

/// Whether a model may be written to `out`: nothing is there, an empty folder, or a model's folder with nothing else in it.
fn check_free(out: &Path) -> Result<(), ArtifactError> {
    let occupied = || Err(ArtifactError::Occupied { path: out.into() });
    if !out.is_dir() {
        return if out.exists() { Err(ArtifactError::File { path: out.into() }) } else { Ok(()) };
    }
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(out).map_err(ArtifactError::io(out))? {
        let entry = entry.map_err(ArtifactError::io(out))?;
        names.insert(entry.file_name().to_string_lossy().into_owned());
    }
    if names.is_empty() {
        return Ok(());
    }
    let manifest = out.join(MANIFEST);
    if !manifest.is_file() {
        return occupied();
    }
    // Not read as a manifest: one of another version lists its files, too. What lists none keeps everything.
    let text = fs::read_to_string(&manifest).map_err(ArtifactError::io(&manifest))?;
    let said: serde_yaml::Value = serde_yaml::from_str(&text).unwrap_or_default();
    let is_listed = |name: &str| said.get("files").and_then(|files| files.get(name)).is_some();
    names.retain(|name| name != MANIFEST && !is_listed(name));
    if names.is_empty() {
        return Ok(());
    }
    let entries = names.into_iter().collect::<Vec<_>>().join(", ");
    Err(ArtifactError::Foreign { path: out.into(), entries })
}

/// What holds a folder is a lock beside it.
fn in_use(error: DataError, out: &Path) -> ArtifactError {
    match error {
        DataError::InUse { by, .. } => DataError::InUse { path: out.into(), by }.into(),
        other => other.into(),
    }
}

/// Removes what lies under a name when the export ends, however it does: the unfinished folder, or the older model that the
/// finished one changed places with.
struct Leftover<'a>(&'a Path);

impl Drop for Leftover<'_> {
    fn drop(&mut self) {
        match fs::remove_dir_all(self.0) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::warn!("{} is left over and cannot be removed: {error}", self.0.display());
            }
            _ => {}
        }
    }
}

/// Puts the whole new model into the place of `out`, which is there; what was in that place is then at `partial`, or gone.
///
/// # Errors
/// The file system's: a mount point is busy. `out` is then as it was, unless it could only be removed and not moved.
fn replace(partial: &Path, out: &Path) -> io::Result<()> {
    // At once: a process that is killed leaves one model or the other.
    match renameat_with(CWD, partial, CWD, out, RenameFlags::EXCHANGE) {
        // File systems without it (NFS), and folders of a container's image, which cannot be moved.
        Err(Errno::INVAL | Errno::NOSYS | Errno::XDEV) => replace_in_steps(partial, out),
        done => Ok(done?),
    }
}

/// As [`replace`], where two folders cannot change places at once.
fn replace_in_steps(partial: &Path, out: &Path) -> io::Result<()> {
    let aside = partial.with_extension("old");
    if aside.exists() {
        // Of an export that was killed between the steps.
        fs::remove_dir_all(&aside)?;
    }
    match fs::rename(out, &aside) {
        // It cannot be moved, but removed.
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {
            fs::remove_dir_all(out)?;
            return fs::rename(partial, out);
        }
        moved => moved?,
    }
    if let Err(error) = fs::rename(partial, out) {
        fs::rename(&aside, out)?;
        return Err(error);
    }
    fs::rename(&aside, partial)
}

/// What is exported: the network of a weights file, filled with them.
struct Source {
    vs: VarStore,
    network: Network,
    config: NetworkConfig,
    /// Of the classes that it scores.
    table: Vec<Class>,
}

impl Source {
    fn of(request: &ExportRequest) -> Result<Self, ExportError> {
        let mut vs = VarStore::new(Device::Cpu);
        let mut config = request.network.clone();
        let Contents { mut heads, classes: channels, refines_depth, is_extra_light } =
            weights::contents(&request.weights)?;
        if heads.is_empty() && refines_depth {
            return Err(ExportError::RefinementAlone { path: request.weights.clone() });
        }
        config.refine_depth = match request.refinement {
            RefinementSource::Weights => refines_depth,
            RefinementSource::None => false,
            RefinementSource::File(_) => true,
        };
        // Without any head it is another network's file: reading it names what does not fit.
        if !heads.is_empty() {
            if !heads.iter().any(|task| matches!(task, Task::Segmentation | Task::Depth)) {
                return Err(ExportError::Head { path: request.weights.clone() });
            }
            if is_extra_light != config.extra_light {
                return Err(ExportError::Quarter { path: request.weights.clone(), is_extra_light });
            }
            heads.retain(|task| task.is_exported());
            config.heads = heads;
            config.classes = channels;
        }
        let has = |task| config.heads.contains(&task);
        if config.refine_depth && !(has(Task::Segmentation) && has(Task::Depth)) {
            return Err(ExportError::OneHead { path: request.weights.clone() });
        }
        let table = match has(Task::Segmentation) {
            true => classes::table(config.classes)
                .ok_or_else(|| ExportError::Classes { path: request.weights.clone(), found: channels })?,
            false => Vec::new(),
        };
        let network = Network::new(&vs.root(), &config);
        weights::load_without(&mut vs, &request.weights, |task| !task.is_exported(), &request.refinement)?;
        vs.freeze();
        Ok(Self { vs, network, config, table })
    }

    fn has(&self, task: Task) -> bool {
        self.config.heads.contains(&task)
    }

    /// Without the files' hashes.
    fn manifest(&self, request: &ExportRequest) -> Result<Manifest, ExportError> {
        let (width, height) = request.size;
        let stride = self.network.heads_stride();
        let at_heads = |n: usize| (!request.full_size).then_some(n.div_ceil(stride)).filter(|at_heads| *at_heads != n);
        Ok(Manifest {
            schema_version: SCHEMA_VERSION,
            name: request.name.clone(),
            network: self.config.clone(),
            torchscript: TORCHSCRIPT.into(),
            input: InputSpec {
                width,
                height,
                channel_order: ChannelOrder::Rgb,
                kind: InputKind::Float,
                mean: IMAGENET_MEAN,
                std: IMAGENET_STD,
            },
            output: OutputSpec {
                width: at_heads(width),
                height: at_heads(height),
                tensors: None,
                classes: ClassKind::Scores,
                score_channels: self.table.len(),
                depth_channel: self.has(Task::Depth).then_some(self.table.len()),
                normals_channel: self
                    .has(Task::Normals)
                    .then_some(self.table.len() + usize::from(self.has(Task::Depth))),
                depth: self.has(Task::Depth).then_some(DepthDecoding {
                    code: DepthCode::Log,
                    scale: depth::LOG_SCALE,
                    min_m: 0.0,
                    max_m: depth::MAX_DEPTH_M,
                    focal_length_px: request.focal_length_px,
                }),
            },
            classes: self.table.clone(),
            files: BTreeMap::new(),
            provenance: Provenance {
                package_version: env!("CARGO_PKG_VERSION").into(),
                command: request.command.clone(),
                created: request.created.clone(),
                weights_sha256: sha256(&request.weights)?,
                refinement_sha256: request.refinement.file().map(sha256).transpose()?,
                libtorch: LIBTORCH_VERSION.into(),
                training: request.training.clone(),
            },
        })
    }
}

/// Exports to `out`, which appears whole or not at all; an older model there is replaced, if nothing else is with it, once
/// the new one is finished.
///
/// Returns the verified artifact and the largest difference between its output and the original network's, as a share of the
/// largest output or of 1.
///
/// # Errors
/// A folder in use for something else or by another export, without a name of its own or that is a mount point, unreadable or
/// misfitting weights, or an exported network that answers differently.
pub fn export(request: &ExportRequest, out: &Path) -> Result<(Artifact, f64), ExportError> {
    let _no_grad = tch::no_grad_guard();
    let Some(name) = out.file_name() else {
        return Err(ArtifactError::Unnamed { path: out.into() }.into());
    };
    // Without a `.` at its end: a folder that is named so can be emptied, but not replaced.
    let out: &Path = &out.with_file_name(name);
    check_free(out)?;
    let source = Source::of(request)?;
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(ArtifactError::io(parent))?;
    // The unfinished folder has one name, by which the next export finds what a killed one has left.
    let lock = parent.join(format!(".{}.lock", name.to_string_lossy()));
    let _held = hold(&lock, "export").map_err(|error| in_use(error, out))?;
    let _empty = Leftover(&lock);
    check_free(out)?;
    let partial = parent.join(format!(".{}.partial", name.to_string_lossy()));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(ArtifactError::io(&partial))?;
    }
    fs::create_dir(&partial).map_err(ArtifactError::io(&partial))?;
    let _leftover = Leftover(&partial);

    let (width, height) = request.size;
    let shape = [1, 3, height as i64, width as i64];
    tch::manual_seed(0);
    let example = channels_last(&Tensor::randn(shape, (Kind::Float, Device::Cpu)));
    let network = &source.network;
    let folded = network.folded(NumberFormat::Input);
    let original = |x: &Tensor| if request.full_size { packed(network, x) } else { packed_heads(network, x) };
    let exported = |x: &Tensor| if request.full_size { packed(network, x) } else { packed_heads(&folded, x) };
    let mut closure = |inputs: &[Tensor]| inputs.iter().map(exported).collect::<Vec<_>>();
    let module = CModule::create_by_tracing("SemanticDepth", "forward", &[example], &mut closure)
        .map_err(torch("trace the network"))?;
    let torchscript = partial.join(TORCHSCRIPT);
    save(&module, &torchscript)?;
    weights::save(&source.vs, &partial.join(WEIGHTS))?;

    let hash = |name: &str| sha256(&partial.join(name));
    let mut manifest = source.manifest(request)?;
    let image = golden::picture(width, height);
    golden::write(
        &partial.join(GOLDEN),
        &image,
        &original(&network_input(&image, &manifest.input)).squeeze_dim(0),
        &manifest,
    )?;
    for name in [TORCHSCRIPT, WEIGHTS, GOLDEN] {
        manifest.files.insert(name.to_string(), hash(name)?);
    }
    let yaml = serde_yaml::to_string(&manifest)
        .map_err(|e| ArtifactError::Syntax { path: partial.join(MANIFEST), what: e.to_string() })?;
    let manifest_path = partial.join(MANIFEST);
    fs::write(&manifest_path, yaml).map_err(ArtifactError::io(&manifest_path))?;

    // What was written is read back as a user of it would, and has to answer as the original does.
    let written = super::load(&partial)?;
    let difference = compare(&written, original, shape)?;
    if difference.is_nan() || difference > ALLOWED_DIFFERENCE {
        return Err(ArtifactError::Parity { difference, allowed: ALLOWED_DIFFERENCE }.into());
    }
    let placed = if out.exists() { replace(&partial, out) } else { fs::rename(&partial, out) };
    placed.map_err(|source| match source.kind() {
        ErrorKind::ResourceBusy => ArtifactError::MountPoint { path: out.into() },
        _ => ArtifactError::Io { path: out.into(), source },
    })?;
    Ok((Artifact { manifest: written.manifest, dir: out.into() }, difference))
}

/// Writes the network of a model as TorchScript for the TensorRT compiler: the same answers, with all weights as constants
/// in single precision. In the model's own TorchScript each is converted to the input's number format at every pass, which
/// a compiler takes for an operation, not for a constant.
///
/// # Errors
/// The model's weights are not there or do not fit, or the file cannot be written.
pub fn write_engine_source(artifact: &Artifact, path: &Path) -> Result<(), ExportError> {
    let _no_grad = tch::no_grad_guard();
    let manifest = &artifact.manifest;
    let network = artifact.network()?.folded(NumberFormat::Fixed(Kind::Float));
    let (width, height) = (manifest.input.width, manifest.input.height);
    let example = Tensor::zeros([1, 3, height as i64, width as i64], (Kind::Float, Device::Cpu));
    let is_full_size = manifest.answer_size() == (width, height);
    let answer = |x: &Tensor| if is_full_size { packed(&network, x) } else { packed_heads(&network, x) };
    let mut closure = |inputs: &[Tensor]| inputs.iter().map(answer).collect::<Vec<_>>();
    let module = CModule::create_by_tracing("SemanticDepth", "forward", &[example], &mut closure)
        .map_err(torch("trace the network"))?;
    save(&module, path)
}

/// Writes a module's TorchScript. On a full disk libtorch would end the process, so it writes to memory: through a link, for it
/// names the archive after the file.
fn save(module: &CModule, path: &Path) -> Result<(), ExportError> {
    let io = |source: io::Error| ArtifactError::Io { path: path.into(), source };
    let memory = memfd_create("TorchScript", MemfdFlags::CLOEXEC).map_err(|e| io(e.into()))?;
    // Beside it, where there has to be room for the file anyway.
    let beside = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let links = tempfile::tempdir_in(beside).map_err(io)?;
    let link = links.path().join(path.file_name().unwrap_or_default());
    symlink(format!("/proc/self/fd/{}", memory.as_raw_fd()), &link).map_err(io)?;
    module.save(&link).map_err(torch("save the TorchScript file through /proc/self/fd"))?;
    // Its own position is still at the beginning.
    drop(links);
    let copied = fs::File::create(path).and_then(|mut file| io::copy(&mut fs::File::from(memory), &mut file));
    copied.map_err(io)?;
    Ok(())
}

/// libtorch's version, as tch requires it.
pub const LIBTORCH_VERSION: &str = "2.11";

/// [`share`] of the difference between the artifact's and the network's answers to an input not seen in tracing.
fn compare(artifact: &Artifact, original: impl Fn(&Tensor) -> Tensor, shape: [i64; 4]) -> Result<f64, ExportError> {
    tch::manual_seed(1);
    let x = channels_last(&Tensor::randn(shape, (Kind::Float, Device::Cpu)));
    let module = artifact.load_module()?;
    let found = module.forward_ts(&[&x]).map_err(torch("run the exported network"))?;
    let expected = original(&x);
    if found.size() != expected.size() {
        return Ok(f64::INFINITY);
    }
    Ok(share(&found, &expected, artifact.manifest.output.score_channels))
}

/// Largest difference of answers `[B, C, H, W]`, as a share of the largest expected one or of 1, whichever is more: of the
/// first `scores` channels together, which are compared with each other, and of every other channel for itself. Not a number
/// where an answer is none.
fn share(found: &Tensor, expected: &Tensor, scores: usize) -> f64 {
    let channels = expected.size()[1];
    let scores = scores as i64;
    let groups = (scores > 0).then_some((0, scores)).into_iter().chain((scores..channels).map(|channel| (channel, 1)));
    let shares = groups.map(|(from, count)| {
        let [found, expected] = [found, expected].map(|answers| answers.narrow(1, from, count));
        let largest = expected.abs().max().double_value(&[]);
        (found - expected).abs().max().double_value(&[]) / largest.max(1.0)
    });
    shares.fold(0.0, |most, share| if share.is_nan() || share > most { share } else { most })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_judged_by_their_own_size_and_depth_by_its_own() {
        // Three scores of up to 60, a code of depth of up to 0.5.
        let expected = Tensor::from_slice(&[60.0_f32, -3.0, 0.0, 0.5]).view([1, 4, 1, 1]);
        let with = |channel: i64, difference: f64| {
            let found = expected.copy();
            let _ = found.narrow(1, channel, 1).f_add_scalar_(difference).expect("a tensor");
            share(&found, &expected, 3)
        };
        assert_eq!(share(&expected, &expected, 3), 0.0);
        // What folding rounds off.
        assert!((with(1, 3e-4) - 5e-6).abs() < 1e-7 && with(1, 3e-4) < ALLOWED_DIFFERENCE, "{}", with(1, 3e-4));
        assert!((with(3, 3e-4) - 3e-4).abs() < 1e-6 && with(3, 3e-4) > ALLOWED_DIFFERENCE, "{}", with(3, 3e-4));
        assert!(with(0, 0.01) > ALLOWED_DIFFERENCE);
        for channel in [0, 3] {
            assert!(with(channel, f64::NAN).is_nan() && with(channel, f64::INFINITY).is_infinite());
        }
        // A model of depth alone.
        let depth = Tensor::from_slice(&[0.5_f32]).view([1, 1, 1, 1]);
        assert!((share(&(&depth + 0.1), &depth, 0) - 0.1).abs() < 1e-6);
    }

    /// A new model and an old one, side by side.
    fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().expect("temporary");
        let (partial, out) = (folder.path().join(".street.partial"), folder.path().join("street"));
        for (path, text) in [(&partial, "new"), (&out, "old")] {
            fs::create_dir(path).expect("temporary");
            fs::write(path.join(MANIFEST), text).expect("temporary");
        }
        (folder, partial, out)
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("there");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_model_takes_anothers_place() {
        for put in [replace, replace_in_steps] {
            let (folder, partial, out) = folders();
            // An export was killed here.
            fs::create_dir_all(folder.path().join(".street.old/deep")).expect("temporary");
            {
                let _leftover = Leftover(&partial);
                put(&partial, &out).expect("replaced");
                assert_eq!(fs::read_to_string(out.join(MANIFEST)).expect("the new one"), "new");
                assert_eq!(fs::read_to_string(partial.join(MANIFEST)).expect("the old one"), "old");
            }
            assert!(!partial.exists());
        }
    }

    #[test]
    fn what_cannot_take_the_place_leaves_what_is_there() {
        for put in [replace, replace_in_steps] {
            let (folder, partial, out) = folders();
            fs::remove_dir_all(&partial).expect("temporary");
            put(&partial, &out).expect_err("there is no new one");
            assert_eq!(fs::read_to_string(out.join(MANIFEST)).expect("still there"), "old");
            assert_eq!(names(folder.path()), ["street"]);
        }
    }
}
