//! Loads a model, on a thread of its own where the node goes on meanwhile.

use crate::export::{self, Manifest};
use crate::frame::pipeline::{LoadOptions, Pipeline};
use crate::model::Task;
use anyhow::{anyhow, Context as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{sync_channel, Receiver};
use std::sync::Arc;
use std::thread::JoinHandle;

/// What was loaded.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The model's manifest.
    pub manifest: Arc<Manifest>,
    /// sha256 of its TorchScript file.
    pub sha256: String,
    /// Back end.
    pub backend: String,
    /// `fp32`, `fp16` or `bf16`.
    pub precision: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Most frames that go through the network together.
    pub max_batch: usize,
}

/// A model that can answer frames.
#[derive(Debug)]
pub struct Loaded {
    pub(super) pipeline: Pipeline,
    /// What it is.
    pub ready: Ready,
}

impl Loaded {
    /// Loads, verifies and warms up a model.
    ///
    /// # Errors
    /// The artifact is damaged, the device is not there, libtorch refuses the module.
    pub fn load(model: &Path, options: &LoadOptions) -> anyhow::Result<Self> {
        let artifact = export::load(model)?;
        let sha256 = artifact.manifest.files.get(&artifact.manifest.torchscript).cloned().unwrap_or_default();
        let pipeline = Pipeline::from_artifact(artifact, options)?;
        let ready = Ready {
            manifest: Arc::new(pipeline.manifest().clone()),
            sha256,
            backend: pipeline.backend().into(),
            precision: pipeline.precision_name().into(),
            device: pipeline.device_name(),
            max_batch: pipeline.max_batch(),
        };
        let manifest = &ready.manifest;
        for (task, what, outputs) in [
            (Task::Segmentation, "classes", "labels, confidence, overlay, labels_color and mask"),
            (Task::Depth, "depth", "depth and points"),
        ] {
            if !manifest.answers(task) {
                log::warn!("model {} answers no {what}: {outputs} are not published", manifest.name);
            }
        }
        Ok(Self { pipeline, ready })
    }
}

/// A thread that loads a model while the node goes on.
#[derive(Debug)]
pub struct Loader {
    thread: JoinHandle<()>,
    result: Receiver<anyhow::Result<Loaded>>,
}

impl Loader {
    /// Starts it.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(model: PathBuf, options: LoadOptions) -> anyhow::Result<Self> {
        let (tell, result) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("model-loader".into())
            .spawn(move || drop(tell.send(Loaded::load(&model, &options))))
            .context("cannot start the thread that loads the model")?;
        Ok(Self { thread, result })
    }

    /// Whether the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// The outcome, once, when it is there.
    pub fn result(&self) -> Option<anyhow::Result<Loaded>> {
        match self.result.try_recv() {
            Ok(result) => Some(result),
            Err(_) if self.has_ended() => {
                // It may have answered between the two looks.
                let last = self.result.try_recv();
                Some(
                    last.unwrap_or_else(|_| Err(anyhow!("the thread that loads the model died; its message is above"))),
                )
            }
            Err(_) => None,
        }
    }
}
