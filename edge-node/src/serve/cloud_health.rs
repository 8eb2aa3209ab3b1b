//! Whether the cloud answers, and for this model. While it does not, nobody who can do without waits for
//! it: it is asked in the background until it does.
//!
//! A link whose other end has vanished looks like a slow one for as long as its idle timeout.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgeprompt_kv::ModelDigest;
use edgeprompt_telemetry::names;
use tokio::time::{sleep, timeout};

use crate::cloud_prompt::{Loss, LossReason};
use crate::model_question::{self, ModelWord};
use crate::uplink::Uplink;

/// How long a question may take that nothing but the cloud can answer, or that is asked in the background.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// Between two of them: the first pause, and the longest.
const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Between two of them to a cloud that answers for another model: who changes models takes longer.
const OTHER_MODEL_PAUSE: Duration = Duration::from_secs(30);

/// How the cloud was when it was last asked; it is well until then. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct CloudHealth(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    answer_patience: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    is_being_asked: bool,
}

/// How a cloud was seen last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Seen {
    /// It answers.
    #[default]
    Well,
    /// It is being asked for the first time.
    Unheard,
    /// It refused, or what it sent was incomplete or damaged.
    Failed,
    /// It answers, for another model.
    OtherModel,
    /// It did not even refuse, and has not been heard of since.
    Silent,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            answer_patience: ANSWER_PATIENCE,
            state: Mutex::default(),
        }
    }
}

impl CloudHealth {
    /// Of a cloud that nobody has heard yet: not well before it has said something.
    pub(crate) fn unheard() -> Self {
        let health = Self::default();
        health.state().seen = Seen::Unheard;
        health
    }

    /// Of a cloud that is waited for so long.
    #[cfg(test)]
    pub(crate) fn with_patience(answer_patience: Duration) -> Self {
        Self(Arc::new(Shared {
            answer_patience,
            ..Shared::default()
        }))
    }

    /// How long a question may take that nothing but the cloud can answer.
    pub(crate) fn answer_patience(&self) -> Duration {
        self.0.answer_patience
    }

    /// Whether it answered when it was last asked.
    pub(crate) fn is_well(&self) -> bool {
        self.state().seen == Seen::Well
    }

    /// Whether it did not even refuse, and has not been heard of since.
    pub(crate) fn is_silent(&self) -> bool {
        self.state().seen == Seen::Silent
    }

    /// Whether it answers for another model.
    pub(crate) fn is_of_other_model(&self) -> bool {
        self.state().seen == Seen::OtherModel
    }

    /// It answered for this model.
    pub(crate) fn answered(&self) {
        self.state().seen = Seen::Well;
    }

    /// It answered something that tells nothing of its model.
    pub(crate) fn spoke(&self) {
        let mut state = self.state();
        if matches!(state.seen, Seen::Silent | Seen::Unheard) {
            state.seen = Seen::Failed;
        }
    }

    /// What it said when it was asked for its model.
    pub(crate) fn heard(&self, word: ModelWord, cloud: &Uplink, model: ModelDigest) {
        match word {
            ModelWord::Same => self.answered(),
            ModelWord::Other(theirs) => {
                let detail = format!("it runs model {}", theirs.short());
                let reason = LossReason::OtherModel;
                self.failed(&Loss { reason, detail }, cloud, model);
            }
            ModelWord::Nothing(loss) => {
                tracing::warn!(
                    error = loss.detail,
                    "the cloud does not answer: what it has sent before is used, and it is asked again"
                );
                count(&loss);
                self.see(Seen::Silent, cloud, model);
            }
        }
    }

    /// It was asked in vain.
    pub(crate) fn failed(&self, loss: &Loss, cloud: &Uplink, model: ModelDigest) {
        count(loss);
        match loss.reason {
            LossReason::Unreachable
            | LossReason::LinkLost
            | LossReason::Stalled
            | LossReason::Slow => {
                self.see(Seen::Silent, cloud, model);
            }
            LossReason::OtherModel => {
                if self.see(Seen::OtherModel, cloud, model) != Seen::OtherModel {
                    tracing::warn!(
                        model = model.short(),
                        error = loss.detail,
                        "the cloud runs another model: cloud prompts that are here stay, and those that are remembered are computed here; start both nodes with the same model files"
                    );
                }
            }
            LossReason::Refused | LossReason::Corrupt | LossReason::Unreadable => {
                self.state().seen = Seen::Failed;
            }
        }
    }

    /// It answered, and then did not send all that it had promised. A path that loses links is looked at
    /// until it carries one again.
    pub(crate) fn broke_off(&self, loss: &Loss, cloud: &Uplink, model: ModelDigest) {
        if !matches!(self.state().seen, Seen::Well | Seen::Unheard) {
            return;
        }
        match loss.reason {
            LossReason::Unreachable
            | LossReason::LinkLost
            | LossReason::Stalled
            | LossReason::Slow => {
                self.see(Seen::Failed, cloud, model);
            }
            LossReason::Refused | LossReason::OtherModel | LossReason::Corrupt => {
                self.state().seen = Seen::Failed;
            }
            // That is this edge's disk.
            LossReason::Unreadable => {}
        }
    }

    /// Notes how it was seen, and has it asked until it is well. Says how it was seen before.
    fn see(&self, seen: Seen, cloud: &Uplink, model: ModelDigest) -> Seen {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.seen, seen);
        if !state.is_being_asked {
            state.is_being_asked = true;
            tokio::spawn(self.clone().ask_until_it_is_well(cloud.clone(), model));
        }
        before
    }

    async fn ask_until_it_is_well(self, cloud: Uplink, model: ModelDigest) {
        let mut pause = PAUSE;
        // Whoever said something just now has nothing new to say.
        if !self.is_silent() {
            sleep(pause).await;
        }
        while !self.is_settled() {
            if self.is_silent() {
                // What is left of a link tells nothing.
                cloud.forget();
            }
            let asked = timeout(
                self.answer_patience(),
                model_question::ask(cloud.clone(), model),
            )
            .await;
            match asked {
                Ok(ModelWord::Same) => {
                    tracing::info!("the cloud answers again");
                    self.answered();
                    continue;
                }
                Ok(word @ ModelWord::Other(_)) => {
                    self.heard(word, &cloud, model);
                    pause = OTHER_MODEL_PAUSE;
                }
                Ok(ModelWord::Nothing(_)) | Err(_) => {
                    self.state().seen = Seen::Silent;
                    pause = pause.min(PAUSE_MAX);
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether there is nothing to ask any more; who is told so must not ask on.
    fn is_settled(&self) -> bool {
        let mut state = self.state();
        let is_well = state.seen == Seen::Well;
        state.is_being_asked = !is_well;
        is_well
    }

    /// Plain data: a thread that panicked left nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(loss: &Loss) {
    let reason = loss.reason.label();
    metrics::counter!(names::EDGE_CLOUD_FAILED_TOTAL, names::REASON => reason).increment(1);
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use burn::tensor::Device;
    use cloud_node::compute::PromptComputer;
    use cloud_node::library::ServedLibrary;
    use cloud_node::running::RunningCloud;
    use cloud_node::service::{CloudService, PublicPrompts};
    use edgeprompt_model::{Model, ModelShape};
    use edgeprompt_transport::{CloudIdentity, EdgeIdentity, LinkConfig};

    use super::*;

    /// If it takes longer it hangs.
    const HANGS: Duration = Duration::from_secs(60);

    fn model() -> Model {
        Model::dummy(ModelShape::Tiny, &Device::flex())
    }

    fn cloud_of(model: Model, identity: &CloudIdentity, addr: SocketAddr) -> RunningCloud {
        let model = Arc::new(model);
        let service = CloudService {
            computer: PromptComputer::start(model, 1 << 20),
            library: ServedLibrary::default(),
            public_prompts: PublicPrompts::Refused,
        };
        service
            .start(addr, identity, LinkConfig::default())
            .unwrap()
    }

    fn cloud(identity: &CloudIdentity, addr: SocketAddr) -> RunningCloud {
        cloud_of(model(), identity, addr)
    }

    /// In the place of one that has stopped, which lets go of its address a moment later.
    async fn cloud_again(identity: &CloudIdentity, addr: SocketAddr) -> RunningCloud {
        until(|| std::net::UdpSocket::bind(addr).is_ok()).await;
        cloud(identity, addr)
    }

    fn join(identity: &CloudIdentity) -> EdgeIdentity {
        EdgeIdentity::join(&identity.invite(HANGS).unwrap()).unwrap()
    }

    fn loopback() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    fn uplink(identity: &CloudIdentity, addr: SocketAddr) -> Uplink {
        Uplink::new(&[addr], &join(identity), LinkConfig::default()).unwrap()
    }

    async fn until(what: impl Fn() -> bool) {
        let waiting = async {
            while !what() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(HANGS, waiting).await.unwrap();
    }

    #[tokio::test]
    async fn a_cloud_that_comes_back_is_noticed_without_anybody_asking() {
        let identity = CloudIdentity::in_memory().unwrap();
        let first = cloud(&identity, loopback());
        let addr = first.addr();
        let uplink = uplink(&identity, addr);
        uplink.link().await.unwrap();
        first.stop().await;
        let health = CloudHealth::default();
        let loss = silence();
        health.failed(&loss, &uplink, model().digest);
        assert!(health.is_silent() && !health.is_well());
        let _second = cloud_again(&identity, addr).await;
        until(|| health.is_well()).await;
        assert!(!health.is_silent());
    }

    #[tokio::test]
    async fn a_link_that_broke_off_is_well_again_when_the_cloud_answers() {
        let identity = CloudIdentity::in_memory().unwrap();
        let cloud = cloud(&identity, loopback());
        let uplink = uplink(&identity, cloud.addr());
        let health = CloudHealth::default();
        health.broke_off(&silence(), &uplink, model().digest);
        // It is asked, and what others ask meanwhile is asked of it as well.
        assert!(!health.is_well() && !health.is_silent());
        until(|| health.is_well()).await;
        assert!(uplink.path().rtt.is_some());
        uplink.forget();
        assert!(
            uplink.path().rtt.is_some(),
            "links that follow take one path"
        );
        health.broke_off(
            &Loss {
                reason: LossReason::Unreadable,
                detail: String::new(),
            },
            &uplink,
            model().digest,
        );
        assert!(health.is_well(), "that was this edge's disk");
    }

    #[tokio::test]
    async fn a_cloud_of_another_model_is_not_well_however_well_it_answers() {
        let identity = CloudIdentity::in_memory().unwrap();
        let mut other = model();
        other.digest = ModelDigest::new([1; 32]);
        let first = cloud_of(other, &identity, loopback());
        let addr = first.addr();
        let uplink = uplink(&identity, addr);
        let health = CloudHealth::unheard();
        assert!(!health.is_well() && !health.is_silent());
        let word = model_question::ask(uplink.clone(), model().digest).await;
        assert_eq!(word, ModelWord::Other(ModelDigest::new([1; 32])));
        health.heard(word, &uplink, model().digest);
        assert!(health.is_of_other_model() && !health.is_well());
        health.spoke();
        assert!(health.is_of_other_model(), "a list tells nothing of models");
        first.stop().await;
        let word = model_question::ask(uplink.clone(), model().digest).await;
        assert!(matches!(word, ModelWord::Nothing(_)));
        health.heard(word, &uplink, model().digest);
        assert!(health.is_silent());
        let _second = cloud_again(&identity, addr).await;
        until(|| health.is_well()).await;
        let word = model_question::ask(uplink.clone(), model().digest).await;
        assert_eq!(word, ModelWord::Same);
    }

    fn silence() -> Loss {
        Loss {
            reason: LossReason::Slow,
            detail: "it says nothing".to_owned(),
        }
    }
}
