//! Versions of the libraries that did the work, as far as they can be told.

use crate::panics::caught;
use crate::tensorrt::libraries::{libtorch_folder, libtorch_version, version_of_file, Library, Surroundings};
use crate::tensorrt::{cuda, load_runtime};
use serde::Serialize;
use std::fmt;

/// Of the libtorch in this process; `None` where its folder does not say.
pub fn libtorch() -> Option<String> {
    libtorch_version(&libtorch_folder()?)
}

/// Of what computes on a GPU; `None` where it cannot be told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CudaVersions {
    /// The driver.
    pub driver: Option<String>,
    /// The newest CUDA that the driver serves.
    pub serves: Option<String>,
    /// CUDA that libtorch was built with.
    pub libtorch: Option<String>,
    /// cuDNN that libtorch uses.
    pub cudnn: Option<String>,
    /// CUDA's run-time compiler, which compiles the native back end's kernels.
    pub nvrtc: Option<String>,
    /// Where it runs the network.
    pub tensorrt: Option<String>,
}

impl CudaVersions {
    /// Those here, once the network is loaded onto a CUDA device.
    pub fn here(runs_tensorrt: bool) -> Self {
        let driver = cuda::driver().ok();
        Self {
            serves: driver.as_ref().map(|driver| driver.cuda.clone()),
            driver: driver.and_then(|driver| driver.version),
            libtorch: caught(tch::utils::version_cudart).ok().and_then(cuda_version),
            cudnn: caught(tch::utils::version_cudnn).ok().and_then(cudnn_version),
            nvrtc: Surroundings::here().find(Library::Nvrtc).and_then(|found| version_of_file(&found.path)),
            // It is in the process already, and is only asked.
            tensorrt: runs_tensorrt.then(load_runtime).and_then(Result::ok).map(|runtime| runtime.tensorrt.to_string()),
        }
    }
}

impl fmt::Display for CudaVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { driver, serves, libtorch, cudnn, nvrtc, tensorrt } = self;
        let all = [
            ("driver", driver),
            ("serves CUDA", serves),
            ("libtorch's CUDA", libtorch),
            ("cuDNN", cudnn),
            ("NVRTC", nvrtc),
            ("TensorRT", tensorrt),
        ];
        let known = all.into_iter().filter_map(|(name, version)| Some(format!("{name} {}", version.as_deref()?)));
        f.write_str(&known.collect::<Vec<_>>().join(", "))
    }
}

/// 13010 is 13.1.
fn cuda_version(number: i64) -> Option<String> {
    (number > 0).then(|| format!("{}.{}", number / 1000, number % 1000 / 10))
}

/// 91501 is 9.15.1; before version 9, which this libtorch does not take, they were counted otherwise.
fn cudnn_version(number: i64) -> Option<String> {
    (number >= 90_000).then(|| format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_usual_form_and_what_is_not_known_is_left_out() {
        assert_eq!([0, 12_060, 13_010].map(cuda_version), [None, Some("12.6".into()), Some("13.1".into())]);
        assert_eq!([0, 8907, 91_501].map(cudnn_version), [None, None, Some("9.15.1".into())]);
        let versions =
            CudaVersions { driver: Some("580.95".into()), cudnn: Some("9.15.1".into()), ..CudaVersions::default() };
        assert_eq!(versions.to_string(), "driver 580.95, cuDNN 9.15.1");
    }
}
