//! Services on the spinning thread: requests wait in a stream of r2r's and are taken when the thread looks.

use anyhow::Context as _;
use futures::{FutureExt as _, Stream, StreamExt as _};
use r2r::{QosProfile, ServiceRequest, WrappedServiceTypeSupport};

/// The waiting requests of a service.
pub struct Requests<T: WrappedServiceTypeSupport>(Box<dyn Stream<Item = ServiceRequest<T>> + Unpin>);

impl<T: WrappedServiceTypeSupport + 'static> Requests<T> {
    /// Offers the service `name`.
    ///
    /// # Errors
    /// It cannot be offered.
    pub fn serve(node: &mut r2r::Node, name: &str, qos: QosProfile) -> anyhow::Result<Self> {
        let requests = node.create_service::<T>(name, qos);
        Ok(Self(Box::new(requests.with_context(|| format!("cannot offer the service {name}"))?)))
    }

    /// The next request that waits, if any.
    pub fn waiting(&mut self) -> Option<ServiceRequest<T>> {
        self.0.next().now_or_never().flatten()
    }
}

/// Answers a request.
pub fn respond<T: WrappedServiceTypeSupport + 'static>(request: ServiceRequest<T>, response: T::Response) {
    if let Err(e) = request.respond(response) {
        // As a rule the client has gone meanwhile, which is no concern of this node; the log keeps what else it may be.
        log::warn!("a request could not be answered: {e}");
    }
}
