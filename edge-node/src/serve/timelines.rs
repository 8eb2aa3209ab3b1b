//! The timelines of the last requests, for those who sent them. Times and public facts: no text, no
//! tokens.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edgeprompt_engine::PassEvent;
use edgeprompt_protocol::PromptName;
use serde_json::{Value, json};

use crate::serve::access::Caller;
use crate::serve::fill_log::LayersCame;
use crate::serve::filling::{Filling, FillingWatch};
use crate::serve::pass_times::{PassTimes, SeenTimes};

/// Requests that are remembered, of all callers together: each takes some kilobytes.
const KEPT_MAX: usize = 256;

/// The last requests.
#[derive(Debug, Default)]
pub(crate) struct Timelines {
    kept: Mutex<VecDeque<Kept>>,
}

#[derive(Debug)]
struct Kept {
    id: String,
    caller: Caller,
    recorder: Recorder,
}

impl Timelines {
    /// Begins the timeline of a request that arrived at `asked_at`. The oldest goes if there are too
    /// many.
    pub(crate) fn begin(
        &self,
        (id, caller): (&str, &Caller),
        layer_count: usize,
        asked_at: Instant,
    ) -> Recorder {
        let recorder = Recorder(Arc::new(Record {
            asked_at,
            cloud: Mutex::new(None),
            times: Mutex::new(PassTimes::new(layer_count)),
        }));
        let mut kept = lock(&self.kept);
        if kept.len() >= KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Kept {
            id: id.to_owned(),
            caller: caller.clone(),
            recorder: recorder.clone(),
        });
        recorder
    }

    /// The last request that `caller` sent under this id. Clients may choose ids, so others' may be
    /// guessed; they are not shown.
    pub(crate) fn find(&self, id: &str, caller: &Caller) -> Option<Recorder> {
        let kept = lock(&self.kept);
        let found = kept.iter().rev();
        let mut found = found.filter(|kept| kept.id == id && kept.caller.is(caller));
        found.next().map(|kept| kept.recorder.clone())
    }
}

/// The timeline of one request, being written. Clones write the same one.
#[derive(Clone, Debug)]
pub(crate) struct Recorder(Arc<Record>);

#[derive(Debug)]
struct Record {
    asked_at: Instant,
    cloud: Mutex<Option<BuildsOn>>,
    times: Mutex<PassTimes>,
}

/// What an answer's first token waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvTimes {
    /// How long it stood still for layers of the cloud prompt.
    pub(crate) wait: Duration,
    /// When they came, unless all were there.
    pub(crate) layers: Option<LayersCame>,
}

/// The cloud prompt under a request.
#[derive(Debug)]
struct BuildsOn {
    name: PromptName,
    token_count: usize,
    filling: FillingWatch,
}

impl Recorder {
    /// The request builds on this cloud prompt.
    pub(crate) fn builds_on(&self, name: PromptName, token_count: usize, filling: FillingWatch) {
        *lock(&self.0.cloud) = Some(BuildsOn {
            name,
            token_count,
            filling,
        });
    }

    /// The engine did something for it.
    pub(crate) fn heard(&self, event: PassEvent, now: Instant) {
        lock(&self.0.times).heard(event, self.since_asked(now));
    }

    /// Its first token is there.
    pub(crate) fn first_token(&self, now: Instant) {
        lock(&self.0.times).first_token(self.since_asked(now));
    }

    /// What its first token waited for, if it builds on a cloud prompt.
    pub(crate) fn kv_times(&self, now: Instant) -> Option<KvTimes> {
        let seen = lock(&self.0.times).seen_at(self.since_asked(now));
        let cloud = lock(&self.0.cloud);
        let log = cloud.as_ref()?.filling.log();
        Some(KvTimes {
            wait: seen.timeline.exposed_wait(),
            layers: log.layers_came(self.0.asked_at),
        })
    }

    /// All of it, as far as it has come.
    pub(crate) fn json(&self, now: Instant) -> Value {
        let since_asked = self.since_asked(now);
        let SeenTimes {
            timeline,
            omitted_count,
        } = lock(&self.0.times).seen_at(since_asked);
        let cloud = lock(&self.0.cloud);
        json!({
            "object": "timeline",
            "now_ms": since_asked.as_secs_f64() * 1e3,
            "timeline": timeline,
            "spans_omitted": omitted_count,
            "cloud_prompt": cloud.as_ref().map(|cloud| cloud.json(self.0.asked_at)),
        })
    }

    fn since_asked(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.0.asked_at)
    }
}

impl BuildsOn {
    fn json(&self, asked_at: Instant) -> Value {
        let mut value = json!({
            "id": self.name.as_str(),
            "token_count": self.token_count,
            "began_ms": self.filling.log().began_ms(asked_at),
            "timeline": self.filling.log().timeline(),
        });
        describe(&mut value, &self.filling.now());
        value
    }
}

/// Adds how far a cloud prompt is, and what came of it.
pub(crate) fn describe(value: &mut Value, filling: &Filling) {
    match filling {
        Filling::Filling => value["state"] = "filling".into(),
        Filling::Broken => value["state"] = "broken".into(),
        Filling::Filled(filled) => {
            value["state"] = "filled".into();
            value["received_bytes"] = filled.bytes.received().into();
            for (origin, bytes) in filled.bytes.iter().filter(|(_, bytes)| *bytes > 0) {
                value["bytes"][origin.label()] = bytes.into();
            }
            value["chosen_layers"] = filled.chosen_count.into();
            value["recomputed_layers"] = filled.recomputed_count.into();
            let reason = filled.loss.as_ref().map(|loss| loss.reason.label());
            value["recompute_reason"] = reason.into();
            if let Some(outcome) = filled.outcome {
                outcome.describe(value);
            }
        }
    }
}

/// Plain data: a thread that panicked left nothing half done.
fn lock<T>(data: &Mutex<T>) -> MutexGuard<'_, T> {
    data.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::access::Callers;
    use axum::http::HeaderMap;

    fn caller() -> Caller {
        Callers::anybody(1).identify(&HeaderMap::new()).unwrap()
    }

    #[test]
    fn only_who_sent_a_request_finds_its_timeline() {
        let timelines = Timelines::default();
        let (alpha, beta) = (caller(), caller());
        let now = Instant::now();
        timelines.begin(("my-1", &alpha), 2, now);
        assert!(timelines.find("my-1", &alpha).is_some());
        assert!(timelines.find("my-1", &alpha.clone()).is_some());
        assert!(timelines.find("my-1", &beta).is_none());
        assert!(timelines.find("my-2", &alpha).is_none());
        // The same words from somebody else hide nothing from either.
        timelines.begin(("my-1", &beta), 3, now);
        let layers = |caller| {
            let found = timelines.find("my-1", caller).unwrap().json(now);
            found["timeline"]["layers"].as_array().unwrap().len()
        };
        assert_eq!((layers(&alpha), layers(&beta)), (2, 3));
    }

    #[test]
    fn the_oldest_go_first() {
        let timelines = Timelines::default();
        let caller = caller();
        for index in 0..=KEPT_MAX {
            timelines.begin((&format!("r{index}"), &caller), 1, Instant::now());
        }
        assert!(timelines.find("r0", &caller).is_none());
        assert!(timelines.find("r1", &caller).is_some());
        assert_eq!(lock(&timelines.kept).len(), KEPT_MAX);
    }

    #[test]
    fn what_was_recorded_is_told() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let recorder = Timelines::default().begin(("r", &caller()), 1, began);
        recorder.heard(PassEvent::Resumed, at(2));
        let layer = edgeprompt_kv::LayerIndex(0);
        recorder.heard(PassEvent::Computed(layer), at(5));
        recorder.first_token(at(6));
        let told = recorder.json(at(7));
        assert_eq!(told["now_ms"], 7.0);
        assert_eq!(told["timeline"]["ttft_ms"], 6.0);
        let span = &told["timeline"]["layers"][0]["edge_compute"][0];
        assert_eq!(*span, json!({ "start_ms": 2.0, "end_ms": 5.0 }));
        assert!(told["cloud_prompt"].is_null());
        assert_eq!(recorder.kv_times(at(7)), None);
    }

    #[test]
    fn what_the_first_token_waited_for_is_added_up() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let recorder = Timelines::default().begin(("r", &caller()), 2, began);
        let (_tell, told) = tokio::sync::watch::channel(Filling::Filling);
        recorder.builds_on("p".parse().unwrap(), 4, FillingWatch::new(told));
        let layer = edgeprompt_kv::LayerIndex;
        for (event, ms) in [
            (PassEvent::Resumed, 0),
            (PassEvent::Missing(layer(0)), 1),
            (PassEvent::Resumed, 4),
            (PassEvent::Computed(layer(0)), 5),
            (PassEvent::Missing(layer(1)), 6),
            (PassEvent::Resumed, 8),
            (PassEvent::Computed(layer(1)), 9),
        ] {
            recorder.heard(event, at(ms));
        }
        let waited = recorder.kv_times(at(20)).unwrap();
        assert_eq!(waited.wait, Duration::from_millis(5));
    }
}
