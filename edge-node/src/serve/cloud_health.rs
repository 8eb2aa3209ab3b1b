//! Whether the cloud answers. While it does not, nobody who can do without waits for it: it is asked in the
//! background until it does.
//!
//! A link whose other end has vanished looks like a slow one for as long as its idle timeout.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::uplink::Uplink;

/// How long a question may take that nothing but the cloud can answer, or that is asked in the background.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Between two of them: the first pause, and the longest.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How the cloud was when it was last asked; it is well until then. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct CloudHealth(Arc<State>);

#[derive(Debug)]
struct State {
    answer_patience: Duration,
    failed: AtomicBool,
    silent: AtomicBool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            answer_patience: ANSWER_PATIENCE,
            failed: AtomicBool::new(false),
            silent: AtomicBool::new(false),
        }
    }
}

impl CloudHealth {
    /// Of a cloud that is waited for so long.
    #[cfg(test)]
    pub(crate) fn with_patience(answer_patience: Duration) -> Self {
        Self(Arc::new(State {
            answer_patience,
            ..State::default()
        }))
    }

    /// How long a question may take that nothing but the cloud can answer.
    pub(crate) fn answer_patience(&self) -> Duration {
        self.0.answer_patience
    }

    /// Whether it answered when it was last asked.
    pub(crate) fn is_well(&self) -> bool {
        !self.0.failed.load(Ordering::Relaxed)
    }

    /// Whether it did not even refuse, and has not been heard of since.
    pub(crate) fn is_silent(&self) -> bool {
        self.0.silent.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self) {
        self.0.failed.store(false, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.0.failed.store(true, Ordering::Relaxed);
    }

    /// It said nothing: asks until it does.
    pub(crate) fn fell_silent(&self, cloud: &Uplink) {
        self.failed();
        if !self.0.silent.swap(true, Ordering::Relaxed) {
            tokio::spawn(self.clone().ask_until_it_answers(cloud.clone()));
        }
    }

    async fn ask_until_it_answers(self, cloud: Uplink) {
        let mut pause = PAUSE;
        loop {
            // What is left of a link tells nothing.
            cloud.forget();
            let asked = async {
                let link = cloud.link().await.ok()?;
                link.list_prompts().await.ok()
            };
            if let Ok(Some(_)) = timeout(self.answer_patience(), asked).await {
                tracing::info!("the cloud answers again");
                self.answered();
                self.0.silent.store(false, Ordering::Relaxed);
                return;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use burn::tensor::Device;
    use cloud_node::compute::PromptComputer;
    use cloud_node::library::PromptLibrary;
    use cloud_node::running::RunningCloud;
    use cloud_node::service::{CloudService, PublicPrompts};
    use edgeprompt_model::{Model, ModelShape};
    use edgeprompt_transport::{CloudIdentity, EdgeIdentity, LinkConfig};

    use super::*;

    /// If it takes longer it hangs.
    const HANGS: Duration = Duration::from_secs(60);

    fn cloud(identity: &CloudIdentity, addr: SocketAddr) -> RunningCloud {
        let model = Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()));
        let service = CloudService {
            computer: PromptComputer::start(model, 1 << 20),
            library: PromptLibrary::default(),
            public_prompts: PublicPrompts::Refused,
        };
        service
            .start(addr, identity, LinkConfig::default())
            .unwrap()
    }

    #[tokio::test]
    async fn a_cloud_that_comes_back_is_noticed_without_anybody_asking() {
        let identity = CloudIdentity::in_memory().unwrap();
        let token = identity.invite(HANGS).unwrap();
        let edge = EdgeIdentity::join(&token).unwrap();
        let first = cloud(&identity, (Ipv4Addr::LOCALHOST, 0).into());
        let addr = first.addr();
        let uplink = Uplink::new(&[addr], &edge, LinkConfig::default()).unwrap();
        uplink.link().await.unwrap();
        first.stop().await;
        let health = CloudHealth::default();
        health.fell_silent(&uplink);
        assert!(health.is_silent() && !health.is_well());
        let _second = cloud(&identity, addr);
        let back = async {
            while health.is_silent() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(HANGS, back).await.unwrap();
        assert!(health.is_well());
    }
}
