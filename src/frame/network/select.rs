//! Takes the best back end and precision that can run a model here and that answer its golden input as they should.

use super::{device_name, tensorrt_engine, Answers, Backend, BackendChoice, Network, NetworkError, Precision};
use crate::export::golden::{Deviation, Golden};
use crate::export::manifest::ClassKind;
use crate::export::Artifact;
use crate::frame::geometry::{Geometry, Placement};
use crate::frame::input::InputBuilder;
use crate::frame::view::ImageView;
use std::path::PathBuf;
use tch::Device;

/// Whether a TensorRT engine may be compiled where none is cached, which takes minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compile {
    /// Where that back end is named.
    #[default]
    IfNamed,
    /// Also where it is only the first of several.
    Always,
    /// One is taken only where it is cached.
    Never,
}

/// What is wanted of [`select`].
#[derive(Debug, Clone, Copy)]
pub struct Selection {
    /// Where.
    pub device: Device,
    /// What runs it.
    pub backend: BackendChoice,
    /// In which number format.
    pub precision: Precision,
    /// Whether something else may be taken where the back end or the precision that was named does not do.
    pub fallback: bool,
    /// Whether a TensorRT engine may be compiled (minutes) where none is cached.
    pub compile: Compile,
    /// The most frames of a batch.
    pub max_batch: usize,
}

impl Selection {
    /// Back ends with precisions, the best first; whether the user's words allow each is said with it.
    fn candidates(&self) -> Vec<(Backend, Precision, bool)> {
        use Backend::{Native, TensorRt, TorchScript};
        use Precision::{Bf16, Fp16, Fp32};
        let order = match self.device {
            // bf16 is quicker on processors that have it, but its depth is some per cent off: only for who asks for it.
            Device::Cpu => {
                vec![(Native, Fp32), (TorchScript, Fp32), (Native, Bf16), (TorchScript, Bf16), (TorchScript, Fp16)]
            }
            _ => {
                vec![
                    (TensorRt, Fp16),
                    (Native, Fp16),
                    (TorchScript, Fp16),
                    (TensorRt, Fp32),
                    (TorchScript, Fp32),
                    (TorchScript, Bf16),
                ]
            }
        };
        let asked = |backend, precision| {
            let by_backend = self.backend == BackendChoice::Auto || self.backend == BackendChoice::Only(backend);
            // Without a wish it is the device's usual one, and single precision where that does not do.
            let by_precision = match self.precision {
                Precision::Auto if self.device == Device::Cpu => precision == Fp32,
                Precision::Auto => precision != Bf16,
                wanted => precision == wanted,
            };
            by_backend && by_precision
        };
        let mut all: Vec<_> = order.into_iter().map(|(b, p)| (b, p, asked(b, p))).collect();
        // A named combination that no device's list has is tried, too: its error says why it cannot be.
        if let BackendChoice::Only(backend) = self.backend {
            let precision = if self.precision == Precision::Auto { Fp32 } else { self.precision };
            if !all.iter().any(|c| c.2) {
                all.push((backend, precision, true));
            }
        }
        // What was asked for comes first; in each half the best does.
        all.sort_by_key(|(_, _, asked)| !asked);
        all.retain(|(_, precision, asked)| *asked || (self.fallback && *precision != Bf16));
        all
    }
}

/// What is tried on a device where nothing is asked for, the best first.
pub fn usual(device: Device) -> Vec<(Backend, Precision)> {
    let (backend, precision, compile) = (BackendChoice::Auto, Precision::Auto, Compile::Never);
    let wanted = Selection { device, backend, precision, fallback: false, compile, max_batch: 1 };
    wanted.candidates().into_iter().map(|(backend, precision, _)| (backend, precision)).collect()
}

/// Loads the model into the best back end that answers as it should, and logs which it is and why no better one, but for
/// what is the rule: that there is no TensorRT engine.
///
/// # Errors
/// Where nothing that is allowed can run the model: the error of the most general of what was asked for.
pub fn select(artifact: &Artifact, wanted: &Selection) -> Result<Network, NetworkError> {
    let golden = artifact.golden()?;
    let (mut first_error, mut last_error) = (None, None);
    for (backend, precision, asked) in wanted.candidates() {
        let loaded = Network::load(artifact, wanted, backend, precision)
            .and_then(|network| checked(network, artifact, golden.as_ref()));
        match loaded {
            Ok(network) => {
                let what = format!("{}, {} on {}", backend.name(), precision.name(), device_name(wanted.device));
                let checked = network.golden.map_or_else(
                    || "the model has no golden input to check it with".into(),
                    |d| format!("checked with the model's golden input: {d}"),
                );
                match &first_error {
                    Some(error) if !asked => log::warn!("back end: {what} instead of what was asked for: {error}"),
                    _ => log::info!("back end: {what}; {checked}"),
                }
                if network.answers_probabilities {
                    log::warn!(
                        "the model's class scores are probabilities, it seems (of each pixel between 0 and 1, and 1 in sum): \
                         confidences will be far too low; let it answer logits, or the probabilities' logarithm"
                    );
                }
                if wanted.device == Device::Cpu && !is_native_to_processor(precision) {
                    let name = precision.name();
                    log::warn!(
                        "this processor has no instructions for {name}, so it is emulated: fp32 is several times as quick; \
                         set precision to auto"
                    );
                }
                return Ok(network);
            }
            Err(error) => {
                let level = level_of(&error, backend, asked, wanted.compile);
                let cached = Selection { compile: Compile::Never, ..*wanted };
                let error = with_engine(error, backend, || tensorrt_engine(artifact, &cached, precision).ok());
                log::log!(level, "not {} in {}: {error}", backend.name(), precision.name());
                first_error.get_or_insert_with(|| error.to_string());
                if asked || last_error.is_none() {
                    last_error = Some(error);
                }
            }
        }
    }
    Err(last_error.unwrap_or(NetworkError::Backend {
        backend: "auto",
        reason: format!("none computes in {} on {}", wanted.precision.name(), device_name(wanted.device)),
    }))
}

/// Whether the processor here multiplies in this number format, so that it is not slower than single precision.
fn is_native_to_processor(precision: Precision) -> bool {
    #[cfg(target_arch = "x86_64")]
    let (bf16, fp16) = (
        is_x86_feature_detected!("avx512bf16") || is_x86_feature_detected!("avxneconvert"),
        is_x86_feature_detected!("avx512fp16"),
    );
    #[cfg(target_arch = "aarch64")]
    let (bf16, fp16) =
        (std::arch::is_aarch64_feature_detected!("bf16"), std::arch::is_aarch64_feature_detected!("fp16"));
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let (bf16, fp16) = (false, false);
    match precision {
        Precision::Auto | Precision::Fp32 => true,
        Precision::Bf16 => bf16,
        Precision::Fp16 => fp16,
    }
}

/// How loudly it is said that a back end was not taken. That there is no engine is the rule; that there is one and it lies idle
/// is for somebody to mend, as is one that was to be compiled and was not; that our own kernels cannot be had, or that something
/// runs and answers wrongly or not in this precision, is worth a line.
fn level_of(error: &NetworkError, backend: Backend, asked: bool, compile: Compile) -> log::Level {
    match error {
        NetworkError::Backend { .. } if asked && backend == Backend::TensorRt && compile == Compile::Always => {
            log::Level::Warn
        }
        NetworkError::EngineUnused(_) if asked => log::Level::Warn,
        NetworkError::Golden { .. } | NetworkError::Precision { .. } => log::Level::Info,
        _ if asked && backend == Backend::Native => log::Level::Info,
        _ => log::Level::Debug,
    }
}

/// Names the engine that was loaded and then did not run or answered wrongly: it stays in the cache, and would be taken again.
fn with_engine(error: NetworkError, backend: Backend, engine: impl FnOnce() -> Option<PathBuf>) -> NetworkError {
    let is_the_engines = matches!(
        error,
        NetworkError::Golden { .. }
            | NetworkError::Torch { .. }
            | NetworkError::Precision { .. }
            | NetworkError::Answer { .. }
            | NetworkError::Shape { .. }
    );
    if backend != Backend::TensorRt || !is_the_engines {
        return error;
    }
    let Some(file) = engine() else { return error };
    let reason = format!("{error}; the engine is {}; delete it to have it compiled again", file.display());
    NetworkError::Backend { backend: backend.name(), reason }
}

/// Most that a precision's answers may differ from single precision's at export.
///
/// Measured with the released model (docs/BENCHMARKS.md); other weights differ by more or less, so each limit has room.
fn tolerance(precision: Precision, device: Device) -> Deviation {
    match precision {
        Precision::Auto | Precision::Fp32 if device == Device::Cpu => {
            Deviation { labels: 1e-3, depth_median: 1e-4, depth_most: 1e-3 }
        }
        // cuDNN multiplies single precision as TF32 by default, which has as many bits of significand as fp16.
        Precision::Auto | Precision::Fp32 | Precision::Fp16 => {
            Deviation { labels: 0.01, depth_median: 0.005, depth_most: 0.05 }
        }
        Precision::Bf16 => Deviation { labels: 0.03, depth_median: 0.04, depth_most: 0.4 },
    }
}

/// Compares the network's answer to the golden input with the one at export. Without that input there is little to see in an answer.
fn checked(mut network: Network, artifact: &Artifact, golden: Option<&Golden>) -> Result<Network, NetworkError> {
    let Some(golden) = golden else {
        let output = &artifact.manifest.output;
        if output.classes == ClassKind::Scores {
            let all = |answers: Answers<'_>| answers.each().all(|a| a.has_probabilities(output.score_channels));
            network.answers_probabilities = network.run(1, all)?;
        }
        return Ok(network);
    };
    let input = &artifact.manifest.input;
    let size = (input.width, input.height);
    let unusable = |reason: String| NetworkError::Backend { backend: network.backend().name(), reason };
    let image = ImageView::rgb8(input.width as u32, input.height as u32, &golden.image);
    let image = image.map_err(|e| unusable(e.to_string()))?;
    let geometry = Geometry::new(&Placement::default(), size, size).map_err(|e| unusable(e.to_string()))?;
    let mut builder = InputBuilder::new(input);
    let length = builder.len();
    builder.build(&image, &geometry, &mut network.input_mut()[..length]);
    let answer = |answers: Answers<'_>| answers.each().next().map(|a| golden.deviation(a.data, &artifact.manifest));
    let deviation = network.run(1, answer)?.unwrap_or(Deviation::NONE);
    let tolerance = tolerance(network.precision, network.device());
    if !deviation.is_within(&tolerance) {
        return Err(NetworkError::Golden {
            backend: network.backend().name(),
            precision: network.precision.name(),
            device: device_name(network.device()),
            deviation,
            tolerance,
        });
    }
    network.golden = Some(deviation);
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(
        device: Device,
        backend: BackendChoice,
        precision: Precision,
        fallback: bool,
    ) -> Vec<(Backend, Precision)> {
        let wanted = Selection { device, backend, precision, fallback, compile: Compile::Never, max_batch: 1 };
        wanted.candidates().into_iter().map(|(b, p, _)| (b, p)).collect()
    }

    #[test]
    fn what_answers_wrongly_is_said_in_one_line_and_what_is_missing_is_not() {
        let golden = NetworkError::Golden {
            backend: "tensorrt",
            precision: "fp16",
            device: "cuda:0".into(),
            deviation: Deviation { labels: 0.5, depth_median: 0.1, depth_most: 2.0 },
            tolerance: tolerance(Precision::Fp16, Device::Cuda(0)),
        };
        let message = golden.to_string();
        assert!(message.contains("at export: ") && !message.contains("  "), "{message}");
        let (device, reason) = ("cpu".into(), "it is bound to fp32".into());
        let remedy = "set precision to fp32".into();
        let precision = NetworkError::Precision { precision: "bf16", device, reason, remedy };
        let missing = NetworkError::Backend { backend: "tensorrt", reason: "there is no engine".into() };
        for asked in [true, false] {
            assert_eq!(level_of(&golden, Backend::TensorRt, asked, Compile::IfNamed), log::Level::Info);
            assert_eq!(level_of(&precision, Backend::TorchScript, asked, Compile::IfNamed), log::Level::Info);
            assert_eq!(level_of(&missing, Backend::TensorRt, asked, Compile::IfNamed), log::Level::Debug);
        }
        assert_eq!(level_of(&missing, Backend::Native, true, Compile::IfNamed), log::Level::Info);
        let unused = NetworkError::EngineUnused("the cache has an engine of this model that does not fit here".into());
        assert_eq!(level_of(&unused, Backend::TensorRt, true, Compile::IfNamed), log::Level::Warn);
        assert_eq!(level_of(&unused, Backend::TensorRt, false, Compile::IfNamed), log::Level::Debug);
        assert!(unused.to_string().starts_with("the tensorrt back end cannot be used: "), "{unused}");
        assert_eq!(
            level_of(&missing, Backend::TensorRt, true, Compile::Always),
            log::Level::Warn,
            "it was to be compiled"
        );
    }

    #[test]
    fn an_engine_that_does_not_do_is_named_with_the_remedy() {
        let shape = || NetworkError::shape("its answer", vec![1], vec![2], true);
        let engine = || Some(PathBuf::from("/cache/ab.ts"));
        let message = with_engine(shape(), Backend::TensorRt, engine).to_string();
        assert!(message.contains(&shape().to_string()), "{message}");
        assert!(message.ends_with("the engine is /cache/ab.ts; delete it to have it compiled again"), "{message}");
        let unnamed = || -> Option<PathBuf> { panic!("it has no engine") };
        assert_eq!(with_engine(shape(), Backend::TorchScript, unnamed).to_string(), shape().to_string());
        let missing = || NetworkError::Backend { backend: "tensorrt", reason: "there is no engine".into() };
        assert_eq!(with_engine(missing(), Backend::TensorRt, unnamed).to_string(), missing().to_string());
        assert_eq!(with_engine(shape(), Backend::TensorRt, || None).to_string(), shape().to_string());
    }

    #[test]
    fn the_best_comes_first_and_only_what_is_allowed_follows() {
        use Backend::{Native, TensorRt, TorchScript};
        use BackendChoice::{Auto, Only};
        use Precision::{Bf16, Fp16, Fp32};
        let cpu = Device::Cpu;
        assert_eq!(order(cpu, Auto, Precision::Auto, false), [(Native, Fp32), (TorchScript, Fp32)]);
        assert_eq!(order(cpu, Auto, Bf16, false), [(Native, Bf16), (TorchScript, Bf16)]);
        assert_eq!(order(cpu, Auto, Fp16, false), [(TorchScript, Fp16)]);
        assert_eq!(order(cpu, Only(TorchScript), Precision::Auto, false), [(TorchScript, Fp32)]);
        assert_eq!(order(cpu, Only(Native), Fp16, false), [(Native, Fp16)], "its error says what it can");
        let with_fallback = order(cpu, Only(Native), Bf16, true);
        assert_eq!(with_fallback[..2], [(Native, Bf16), (Native, Fp32)]);
        let cuda = Device::Cuda(0);
        let auto = [(TensorRt, Fp16), (Native, Fp16), (TorchScript, Fp16), (TensorRt, Fp32), (TorchScript, Fp32)];
        assert_eq!(order(cuda, Auto, Precision::Auto, false), auto);
        assert_eq!(usual(cuda), auto);
        assert_eq!(usual(cpu), [(Native, Fp32), (TorchScript, Fp32)]);
        assert_eq!(order(cuda, Only(TensorRt), Precision::Auto, false), [(TensorRt, Fp16), (TensorRt, Fp32)]);
        assert_eq!(order(cpu, Only(TensorRt), Precision::Auto, false), [(TensorRt, Fp32)], "its error says why not");
        assert_eq!(order(cuda, Only(Native), Precision::Auto, false), [(Native, Fp16)]);
        assert!(order(cuda, Only(Native), Precision::Auto, true).contains(&(TorchScript, Fp16)));
    }
}
