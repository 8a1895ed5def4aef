//! `~/enable` and `~/reload_model`.

use super::loader::{Loader, Ready};
use super::service::{respond, Requests};
use super::worker::Worker;
use crate::causes::{cut, in_line};
use crate::data::classes::Class;
use r2r::std_srvs::srv::{SetBool, Trigger};
use r2r::{QosProfile, ServiceRequest};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::Arc;

/// A reload on its way.
enum Reload {
    Loading(Loader),
    /// Handed to the inference thread, which tells when it uses it.
    Swapping(Receiver<()>, Box<Ready>),
}

/// The two services.
pub struct Control {
    enabled: Arc<AtomicBool>,
    enable: Requests<SetBool::Service>,
    reload: Requests<Trigger::Service>,
    pending: Option<(Reload, ServiceRequest<Trigger::Service>)>,
    /// Loads that nobody waits for any more and that cannot be interrupted.
    abandoned: Vec<Loader>,
    /// Why the last reload failed, until one succeeds or the node lets go of its model.
    last_failure: Option<String>,
}

impl Control {
    /// Offers the services; the node is enabled.
    ///
    /// # Errors
    /// A service cannot be offered.
    pub fn create(node: &mut r2r::Node) -> anyhow::Result<Self> {
        let qos = QosProfile::services_default;
        Ok(Self {
            enabled: Arc::new(AtomicBool::new(true)),
            enable: Requests::serve(node, "~/enable", qos())?,
            reload: Requests::serve(node, "~/reload_model", qos())?,
            pending: None,
            abandoned: Vec::new(),
            last_failure: None,
        })
    }

    /// Whether frames are to be answered.
    pub fn enabled(&self) -> &Arc<AtomicBool> {
        &self.enabled
    }

    /// Whether frames are answered now.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Why the last reload failed, if it did.
    pub fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// Whether a model is being loaded, for whomever.
    pub fn is_loading(&self) -> bool {
        matches!(self.pending, Some((Reload::Loading(_), _))) || self.abandoned.iter().any(|l| !l.has_ended())
    }

    /// Answers what waits. `running` is the inference thread and what it uses, where there is one; `load` starts to load
    /// the model that the parameters name now; `fits` holds a model's classes against those that parameters name.
    pub fn poll(
        &mut self,
        running: Option<(&Worker, &mut Ready)>,
        load: impl Fn() -> anyhow::Result<Loader>,
        fits: impl Fn(&[Class]) -> Result<(), String>,
    ) {
        self.abandoned.retain(|loader| !loader.has_ended());
        while let Some(request) = self.enable.waiting() {
            let enable = request.message.data;
            let before = self.enabled.swap(enable, Ordering::SeqCst);
            if let (false, Some((worker, _))) = (enable, &running) {
                worker.settle();
            }
            let words = if enable { "enabled" } else { "disabled" };
            if before != enable {
                log::info!("{words}");
            }
            let message = if before == enable { format!("{words}, as before") } else { words.into() };
            respond(request, SetBool::Response { success: true, message });
        }
        while let Some(request) = self.reload.waiting() {
            let started = if self.pending.is_some() {
                Err("a reload is under way; ask again when it has ended".to_string())
            } else if running.is_none() {
                Err("no model is loaded: configure the node first".to_string())
            } else {
                load().map_err(|e| cut(in_line(&e)))
            };
            match started {
                Ok(loader) => {
                    log::info!("loading the model anew");
                    self.pending = Some((Reload::Loading(loader), request));
                }
                Err(message) => {
                    log::warn!("~/reload_model: {message}");
                    respond(request, Trigger::Response { success: false, message });
                }
            }
        }
        let Some((reload, request)) = self.pending.take() else { return };
        match advance(reload, running, fits) {
            Ok(reload) => self.pending = Some((reload, request)),
            Err(end) => {
                let level = if end.success { log::Level::Info } else { log::Level::Error };
                log::log!(level, "~/reload_model: {}", end.message);
                self.last_failure = (!end.success).then(|| end.message.clone());
                respond(request, end);
            }
        }
    }

    /// The node lets go of its model: ends a reload that is under way, and forgets how the last one ended.
    pub fn abandon_reload(&mut self, why: &str) {
        self.last_failure = None;
        if let Some((reload, request)) = self.pending.take() {
            if let Reload::Loading(loader) = reload {
                self.abandoned.push(loader);
            }
            respond(request, Trigger::Response { success: false, message: format!("not reloaded: {why}") });
        }
    }
}

/// The next step of a reload, or its end.
fn advance(
    reload: Reload,
    running: Option<(&Worker, &mut Ready)>,
    fits: impl Fn(&[Class]) -> Result<(), String>,
) -> Result<Reload, Trigger::Response> {
    let failed =
        |why: String| Trigger::Response { success: false, message: cut(format!("the old model is kept: {why}")) };
    match (reload, running) {
        (_, None) => Err(failed("the node has let go of it".into())),
        (Reload::Loading(loader), Some((worker, _))) => match loader.result() {
            None => Ok(Reload::Loading(loader)),
            Some(Err(e)) => Err(failed(in_line(&e))),
            Some(Ok(model)) => {
                fits(&model.ready.manifest.classes).map_err(failed)?;
                let ready = Box::new(model.ready.clone());
                Ok(Reload::Swapping(worker.swap(model), ready))
            }
        },
        (Reload::Swapping(done, new), Some((_, ready))) => match done.try_recv() {
            Err(TryRecvError::Empty) => Ok(Reload::Swapping(done, new)),
            Err(TryRecvError::Disconnected) => Err(failed("the inference thread has ended".into())),
            Ok(()) => {
                let message = format!("now {} (sha256 {})", super::describe(&new), new.sha256);
                *ready = *new;
                Err(Trigger::Response { success: true, message })
            }
        },
    }
}
