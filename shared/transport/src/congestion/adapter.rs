//! [`RateController`] as QUIC's library wants a controller.

use std::any::Any;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory};

use super::controller::RateController;
use super::round::Supply;
use crate::config::LinkEstimate;

/// Where a link's controller looks for what is remembered of its peer, who is known only after the
/// handshake. Set at most once.
#[derive(Clone, Debug, Default)]
pub(crate) struct PathHint(Arc<OnceLock<LinkEstimate>>);

impl PathHint {
    /// Tells the controller; a second time is without effect.
    pub(crate) fn set(&self, estimate: LinkEstimate) {
        // Fails if it was set before.
        let _ = self.0.set(estimate);
    }
}

/// Makes the controllers of one link: one for each network path it moves to.
#[derive(Debug, Default)]
pub(crate) struct PathControllerFactory {
    /// Taken by the first controller: a hint says nothing about a path that the link moves to.
    hint: Mutex<Option<PathHint>>,
}

impl PathControllerFactory {
    /// A factory for one link, whose first path is the one that `hint` is about.
    pub(crate) fn with_hint(hint: PathHint) -> Self {
        Self {
            hint: Mutex::new(Some(hint)),
        }
    }
}

impl ControllerFactory for PathControllerFactory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let hint = self
            .hint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        Box::new(PathController {
            core: RateController::new(now, current_mtu),
            hint,
        })
    }
}

/// The controller of one path.
#[derive(Clone, Debug)]
pub(crate) struct PathController {
    core: RateController,
    /// Until it was taken.
    hint: Option<PathHint>,
}

impl PathController {
    /// What `connection` found its path to be.
    pub(crate) fn estimate_of(connection: &quinn::Connection) -> Option<LinkEstimate> {
        let controller = connection.congestion_state().into_any();
        controller.downcast::<Self>().ok()?.core.estimate()
    }
}

impl Controller for PathController {
    fn on_ack(
        &mut self,
        _now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &quinn_proto::RttEstimator,
    ) {
        self.core.on_acked(sent, bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        if let Some(estimate) = self.hint.as_ref().and_then(|hint| hint.0.get()) {
            self.core.set_hint(*estimate);
            self.hint = None;
        }
        let supply = if app_limited {
            Supply::Limited
        } else {
            Supply::Ample
        };
        self.core.on_batch_end(now, in_flight, supply);
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.core.on_lost(lost_bytes);
        if is_persistent_congestion {
            self.core.on_persistent_loss();
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.core.set_packet_bytes(new_mtu);
    }

    fn window(&self) -> u64 {
        self.core.window_bytes()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.core.window_bytes()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
