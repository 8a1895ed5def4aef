//! A TorchScript module on any device of libtorch.

use super::maps::Maps;
use super::{device_name, is_exported, torch_error, NetworkError, Precision, ANSWER};
use crate::export::manifest::{InputKind, Manifest, OutputTensor};
use std::path::Path;
use tch::{CModule, Device, IValue, Kind, Tensor};

/// A loaded module, and what its manifest says of it.
#[derive(Debug)]
pub(super) struct TorchScript {
    module: CModule,
    device: Device,
    kind: Kind,
    input_kind: InputKind,
    /// What a tuple that it answers consists of; `None`: it answers one tensor.
    tensors: Option<Vec<OutputTensor>>,
    /// Of one answer: `[channels, H, W]`.
    shape: [i64; 3],
    /// Channels of the classes among these.
    score_channels: i64,
    /// Not somebody else's.
    is_exported: bool,
}

impl TorchScript {
    /// Loads a module that is to be run in `precision`.
    ///
    /// # Errors
    /// libtorch cannot read it, or the model does not compute in this precision.
    pub fn load(path: &Path, manifest: &Manifest, device: Device, precision: Precision) -> Result<Self, NetworkError> {
        let what = || format!("load {} on {}", path.display(), device_name(device));
        let mut module = CModule::load_on_device(path, device).map_err(torch_error(what()))?;
        module.f_set_eval().map_err(torch_error(what()))?;
        let (kind, input_kind, tensors) = (precision.kind(), manifest.input.kind, manifest.output.tensors.clone());
        if input_kind == InputKind::U8 && kind != Kind::Float {
            return Err(NetworkError::Precision {
                precision: precision.name(),
                device: device_name(device),
                reason: "its input is bytes, so it computes in what it was exported in".into(),
                remedy: "set precision to fp32".into(),
            });
        }
        let (width, height) = manifest.answer_size();
        let shape = [manifest.output.channels(), height, width].map(|n| n as i64);
        let score_channels = manifest.output.score_channels as i64;
        let is_exported = is_exported(manifest);
        Ok(Self { module, device, kind, input_kind, tensors, shape, score_channels, is_exported })
    }

    /// The number format of its parameters, where all have the same one.
    pub fn parameters(&self) -> Option<Kind> {
        let floating = [Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double];
        let parameters = self.module.named_parameters().ok()?;
        let mut kinds = parameters.iter().filter_map(|(_, p)| p.f_kind().ok()).filter(|kind| floating.contains(kind));
        let first = kinds.next()?;
        kinds.all(|kind| kind == first).then_some(first)
    }

    /// Where it runs.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Answers a batch, `[B, 3, H, W]`, in host memory.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub fn run(&self, input: &Tensor) -> Result<Maps, NetworkError> {
        Maps::new(&self.answer(input)?).map_err(torch_error("copy the network's answer"))
    }

    /// Answers a batch, `[B, 3, H, W]` anywhere: `[B, channels, H, W]` where the module left it, in its number format. Of an
    /// input of bytes the values are whole numbers.
    ///
    /// # Errors
    /// libtorch fails, or the module answers something else than its manifest says.
    pub fn answer(&self, input: &Tensor) -> Result<Tensor, NetworkError> {
        let run = || -> Result<IValue, tch::TchError> {
            let input = match self.input_kind {
                InputKind::Float => input.f_to_device(self.device)?.f_to_kind(self.kind)?,
                InputKind::U8 => input.f_to_kind(Kind::Uint8)?.f_to_device(self.device)?,
            };
            self.module.forward_is(&[IValue::Tensor(input)])
        };
        let batch = input.size().first().copied().unwrap_or(0);
        self.packed(run().map_err(torch_error("run the network"))?, batch)
    }

    /// The tensors that the manifest says, as one `[batch, channels, H, W]`.
    fn packed(&self, answer: IValue, batch: i64) -> Result<Tensor, NetworkError> {
        let [channels, height, width] = self.shape;
        let check = |tensor: Tensor, channels: i64, what: String| {
            let expected = [batch, channels, height, width];
            match tensor.size() {
                actual if actual == expected => Ok(tensor),
                // A plane without a dimension for its one channel.
                actual if channels == 1 && actual == [batch, height, width] => {
                    tensor.f_unsqueeze(1).map_err(torch_error("read the network's answer"))
                }
                actual => Err(NetworkError::shape(what, expected.to_vec(), actual, self.is_exported)),
            }
        };
        let (values, parts) = match (answer, &self.tensors) {
            (IValue::Tensor(tensor), None) => return check(tensor, channels, ANSWER.into()),
            (IValue::Tuple(values), Some(parts)) if values.len() == parts.len() => (values, parts),
            (answer, parts) => {
                let expected = parts.as_ref().map_or("one tensor".into(), |p| format!("a tuple of {}", p.len()));
                return Err(NetworkError::Answer { expected, found: described(&answer) });
            }
        };
        let (mut classes, mut depth) = (None, None);
        for (index, (value, part)) in values.into_iter().zip(parts).enumerate() {
            let (place, name) = match part {
                OutputTensor::Classes => (&mut classes, "classes"),
                OutputTensor::Depth => (&mut depth, "depth"),
                OutputTensor::Other => continue,
            };
            let IValue::Tensor(tensor) = value else {
                let expected = "tensors in its tuple".into();
                return Err(NetworkError::Answer { expected, found: described(&value) });
            };
            let channels = if *part == OutputTensor::Classes { self.score_channels } else { 1 };
            *place = Some(check(tensor, channels, format!("tensor {name} (output.tensors[{index}]) of {ANSWER}"))?);
        }
        // Labels may be whole numbers; joined with the depth they become what it is.
        let parts: Vec<Tensor> = classes.into_iter().chain(depth).collect();
        Tensor::f_cat(&parts, 1).map_err(torch_error("read the network's answer"))
    }
}

/// What a module answered, without its values.
fn described(answer: &IValue) -> String {
    match answer {
        IValue::Tensor(_) => "one tensor".into(),
        IValue::Tuple(values) => format!("a tuple of {}", values.len()),
        IValue::TensorList(_) | IValue::GenericList(_) => "a list".into(),
        IValue::GenericDict(_) => "a dictionary".into(),
        _ => "something else than tensors".into(),
    }
}
