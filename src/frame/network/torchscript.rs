//! A TorchScript module on any device of libtorch.

use super::maps::Maps;
use super::{device_name, torch_error, NetworkError};
use std::path::Path;
use tch::{CModule, Device, IValue, Kind, Tensor};

/// A loaded module.
#[derive(Debug)]
pub(super) struct TorchScript {
    module: CModule,
    device: Device,
    kind: Kind,
}

impl TorchScript {
    /// Loads a module that is to be given inputs of `kind`.
    ///
    /// # Errors
    /// libtorch cannot read it.
    pub fn load(path: &Path, device: Device, kind: Kind) -> Result<Self, NetworkError> {
        let what = || format!("load {} on {}", path.display(), device_name(device));
        let mut module = CModule::load_on_device(path, device).map_err(torch_error(what()))?;
        module.f_set_eval().map_err(torch_error(what()))?;
        Ok(Self { module, device, kind })
    }

    /// Answers a batch, `[B, 3, H, W]` in host memory.
    ///
    /// # Errors
    /// libtorch fails, or the module answers something else than one tensor of four dimensions.
    pub fn run(&mut self, input: &Tensor) -> Result<Maps, NetworkError> {
        let run = || -> Result<Tensor, tch::TchError> {
            let input = input.f_to_device(self.device)?.f_to_kind(self.kind)?;
            match self.module.forward_is(&[IValue::Tensor(input)])? {
                IValue::Tensor(answer) => Ok(answer),
                other => Err(tch::TchError::Kind(format!("the module answered {other:?} and not one tensor"))),
            }
        };
        let answer = run().map_err(torch_error("run the network"))?;
        Maps::new(&answer).map_err(torch_error("copy the network's answer"))
    }
}
