//! How much a cloud endpoint has under way, and whether it still takes more: what draining waits
//! for. It limits nothing itself.

use std::sync::Arc;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, Default)]
struct State {
    request_count: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Serving,
    Draining,
}

/// The requests under way on all links of an endpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    state: Arc<watch::Sender<State>>,
}

/// One request under way; dropping it ends it.
#[derive(Debug)]
pub(crate) struct LoadGuard(Load);

impl Load {
    /// Counts one more request.
    pub(crate) fn begin(&self) -> LoadGuard {
        self.state.send_modify(|state| state.request_count += 1);
        LoadGuard(self.clone())
    }

    /// Tells every link to take no further requests.
    pub(crate) fn start_draining(&self) {
        self.state
            .send_modify(|state| state.phase = Phase::Draining);
    }

    /// Whether [`Load::start_draining`] was called.
    pub(crate) fn is_draining(&self) -> bool {
        self.state.borrow().phase == Phase::Draining
    }

    /// Waits until [`Load::start_draining`].
    pub(crate) async fn draining(&self) {
        self.wait_for(|state| state.phase == Phase::Draining).await;
    }

    /// Waits until no request is under way.
    pub(crate) async fn idle(&self) {
        self.wait_for(|state| state.request_count == 0).await;
    }

    async fn wait_for(&self, condition: impl FnMut(&State) -> bool) {
        let reached = self.state.subscribe().wait_for(condition).await.is_ok();
        assert!(reached, "`self` holds a sender, so the channel is open");
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.state.send_modify(|state| state.request_count -= 1);
    }
}
