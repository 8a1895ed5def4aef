//! Whether a file with TensorRT engines would be loaded here.

use super::{answer, EngineFile, Verdict};
use crate::tensorrt::check::{check_without_device, PLATFORM, TORCH_TENSORRT_ABI};
use crate::tensorrt::cuda::Gpu;
use crate::tensorrt::libraries::{self, Library, Surroundings};
use crate::tensorrt::version::TensorRtVersion;
use crate::tensorrt::{self, Archive, Here, Mismatch};
use std::path::Path;

impl EngineFile {
    /// `outputs`: tensors of the answer of the model that it is to be an engine of, where that is known.
    pub(super) fn of(path: &Path, gpus: &[Gpu], surroundings: &Surroundings, outputs: Option<usize>) -> Self {
        let archive = answer(tensorrt::inspect(path));
        let library = surroundings.find(Library::NvInfer).ok_or_else(|| "there is no libnvinfer.so.10".to_string());
        let version = || library.and_then(|found| libraries::version_of(&found.path));
        let tensorrt = if gpus.is_empty() { Err("there is no CUDA device".into()) } else { version() };
        let verdicts =
            archive.0.as_ref().map(|archive| verdicts(archive, gpus, &tensorrt, outputs)).unwrap_or_default();
        Self { archive, verdicts }
    }
}

/// What [`tensorrt::prepare`] would say to the file, on each device. `tensorrt`: the version of its library, or why there is none
/// to compare with.
pub(super) fn verdicts(
    archive: &Archive,
    gpus: &[Gpu],
    tensorrt: &Result<TensorRtVersion, String>,
    outputs: Option<usize>,
) -> Vec<Verdict> {
    let refused = |checked: Result<(), Mismatch>| checked.err().map(|mismatch| mismatch.to_string());
    let version = match tensorrt {
        Ok(version) => *version,
        Err(why) => {
            let refused = refused(check_without_device(archive, TORCH_TENSORRT_ABI, PLATFORM));
            let not_compared = Some(format!("compute capability, TensorRT's version, inputs and outputs: {why}"));
            return vec![Verdict { device: None, refused, not_compared }];
        }
    };
    let own = archive.engines.first().map_or((0, 0), |engine| (engine.inputs.len(), engine.outputs.len()));
    let on = |gpu: &Gpu| Verdict {
        device: Some(format!("cuda:{}", gpu.index)),
        refused: refused(tensorrt::check(
            archive,
            &Here {
                abi: TORCH_TENSORRT_ABI,
                tensorrt: version,
                compute_capability: gpu.compute_capability,
                gpu: gpu.name.clone(),
                platform: PLATFORM.into(),
                bindings: outputs.map_or(own, |outputs| (1, outputs)),
            },
        )),
        not_compared: outputs.is_none().then(|| "inputs and outputs: name the model with --model".into()),
    };
    gpus.iter().map(on).collect()
}
