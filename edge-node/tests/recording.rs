//! Fifty private prompts through a cloud that keeps everything it decodes: it is told the same
//! bytes fifty times, and nothing that either node leaves behind holds a word of them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
// All of it is test code, so a panic is a failed test.
#![cfg(test)]

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cloud_node::compute::PromptComputer;
use cloud_node::library::PromptLibrary;
use cloud_node::service::{CloudService, PublicPrompts};
use edge_node::answer::{Answer, Cloud, Question, Stop, answer};
use edge_node::audit::findings::{Session, findings};
use edge_node::audit::prompts::{MadeUp, made_up};
use edge_node::cloud_prompt::CloudPrompt;
use edge_node::patience::Patience;
use edge_node::uplink::Uplink;
use edgeprompt_engine::SequenceOptions;
use edgeprompt_kv::{KvDtype, PromptId};
use edgeprompt_model::{ComputeDevice, Model};
use edgeprompt_protocol::codec::encode_to_cloud;
use edgeprompt_protocol::{CloudRequest, Fetch, PromptName, PromptRef};
use edgeprompt_telemetry::exporter;
use edgeprompt_transport::{
    CloudEndpoint, CloudIdentity, CloudLink, ComputeSpan, EdgeEndpoint, EdgeIdentity,
    INVITATION_LIFETIME, IncomingRequest, LinkConfig,
};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

const SESSIONS: u64 = 50;
const CLOUD_TEXT: &str = "You work at the shop desk.\nThe jade plan costs 42 coins.\n";
const PRIVATE_LEN_MAX: usize = 300;

/// A log that is kept in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Everything that any crate of this process logs from now on, at every level.
    fn of_everything() -> Self {
        let log = Self::default();
        let writer = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Everything that the cloud has decoded, by session.
type Recorded = Arc<Mutex<Vec<Vec<CloudRequest>>>>;

/// A cloud between the edge and the real one: it decodes, records, and passes on.
struct RecordingCloud {
    endpoint: CloudEndpoint,
    upstream: CloudLink,
    recorded: Recorded,
}

impl RecordingCloud {
    async fn run(mut self) {
        while let Some(mut link) = self.endpoint.accept().await {
            let session = {
                let mut recorded = self.recorded.lock().unwrap();
                recorded.push(Vec::new());
                recorded.len() - 1
            };
            let (upstream, recorded) = (self.upstream.clone(), Arc::clone(&self.recorded));
            tokio::spawn(async move {
                while let Some(incoming) = link.next_request().await {
                    recorded.lock().unwrap()[session].push(incoming.request.clone());
                    pass_on(incoming, &upstream).await;
                }
            });
        }
    }
}

async fn pass_on(incoming: IncomingRequest, upstream: &CloudLink) {
    let CloudRequest::Fetch(asked) = incoming.request else {
        panic!("only fetches are sent")
    };
    let fetch = Fetch {
        fetch: upstream.next_fetch_id(),
        ..asked.clone()
    };
    let mut layers = upstream.fetch(fetch).await.unwrap();
    let mut manifest = layers.manifest().clone();
    manifest.fetch = asked.fetch;
    let sender = incoming.responder.manifest(&manifest).await.unwrap();
    while let Some(layer) = layers.next_layer().await.unwrap() {
        let sent = sender.send(layer.layer, &layer.kv, ComputeSpan::Stored);
        sent.await.unwrap();
    }
    sender.finish().await.unwrap();
}

struct World {
    model: Arc<Model>,
    computer: Arc<PromptComputer>,
    edge: EdgeIdentity,
    addr: SocketAddr,
    recorded: Recorded,
    _stop: watch::Sender<bool>,
}

impl World {
    async fn new() -> Self {
        let device = ComputeDevice::default().open().unwrap();
        let model = Arc::new(Model::demo(&device).unwrap());
        let mut library = PromptLibrary::default();
        library.add(name(), CLOUD_TEXT, &model).unwrap();
        let computer = PromptComputer::start(Arc::clone(&model), 64 << 20);
        let service = CloudService {
            computer: Arc::clone(&computer),
            library: library.into(),
            public_prompts: PublicPrompts::Accepted,
        };
        let (loopback, config) = ((Ipv4Addr::LOCALHOST, 0).into(), LinkConfig::default());
        let identity = CloudIdentity::in_memory().unwrap();
        let join = || EdgeIdentity::join(&identity.invite(INVITATION_LIFETIME).unwrap()).unwrap();
        let real = CloudEndpoint::bind(loopback, &identity, config).unwrap();
        let real_addr = real.local_addr().unwrap();
        let (stop, stopping) = watch::channel(false);
        tokio::spawn(Arc::new(service).run(real, stopping));
        let relay = EdgeEndpoint::bind(loopback, &join(), config).unwrap();
        let recording = RecordingCloud {
            endpoint: CloudEndpoint::bind(loopback, &identity, config).unwrap(),
            upstream: relay.connect(real_addr).await.unwrap(),
            recorded: Recorded::default(),
        };
        let (addr, edge) = (recording.endpoint.local_addr().unwrap(), join());
        let recorded = Arc::clone(&recording.recorded);
        tokio::spawn(recording.run());
        Self {
            model,
            computer,
            edge,
            addr,
            recorded,
            _stop: stop,
        }
    }

    /// One private prompt on a link of its own, and what was sent for it.
    async fn session(&self, made: MadeUp) -> (Session, Answer) {
        let uplink = Uplink::new(&[self.addr], &self.edge, LinkConfig::default()).unwrap();
        let asked_at = Instant::now();
        let named = PromptRef::Named(name());
        let prompt = CloudPrompt::fetch(&uplink, &self.model, named).await;
        let prompt = prompt.unwrap();
        let model = Arc::clone(&self.model);
        let (made, answered) = spawn_blocking(move || {
            let question = Question {
                model: &model,
                private: &made.private,
                options: SequenceOptions::default(),
                max_tokens: 8,
                stop: Stop::AtLengthOnly,
                patience: Patience::Unlimited,
                asked_at,
            };
            let answered = answer(&question, Cloud::Arriving(prompt), |_| {});
            (made, answered)
        })
        .await
        .unwrap();
        let sent = uplink.sent().clone();
        let datagram_bytes = uplink.link().await.unwrap().stats().sent_bytes;
        uplink.close(Duration::from_secs(20)).await;
        let session = Session {
            private_len: made.private.len(),
            canary: made.canary,
            frames: sent.frames().iter().map(|frame| frame.to_vec()).collect(),
            omitted_count: sent.omitted_count(),
            datagram_bytes,
        };
        (session, answered)
    }

    /// The bytes of every decoded message, encoded again, by session.
    fn recorded(&self) -> Vec<Vec<u8>> {
        let bytes = |requests: &Vec<CloudRequest>| {
            let frames = requests.iter().map(|r| encode_to_cloud(r).unwrap());
            frames.collect::<Vec<_>>().concat()
        };
        self.recorded.lock().unwrap().iter().map(bytes).collect()
    }
}

fn name() -> PromptName {
    "shop-desk".parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_private_prompts_leave_fifty_equal_records_and_no_trace() {
    let (log, metrics) = (Log::of_everything(), exporter::install().unwrap());
    let world = World::new().await;
    let mut sessions = Vec::new();
    for index in 0..SESSIONS {
        let made = made_up(&world.model, index, PRIVATE_LEN_MAX).unwrap();
        let public = world.model.tokenizer().unwrap().encode(CLOUD_TEXT).unwrap();
        let whole = [public.as_slice(), made.private.for_engine()].concat();
        for secret in [made.private.for_engine(), &whole] {
            let id = PromptId::of(&world.model.digest, secret);
            assert!(
                world.computer.find(&id, KvDtype::F32).is_none(),
                "session {index}"
            );
        }
        let (session, answered) = world.session(made).await;
        assert_eq!(answered.recomputed, None, "session {index}");
        sessions.push(session);
    }
    let lengths: BTreeSet<_> = sessions.iter().map(|s| s.private_len).collect();
    assert!(lengths.len() > 8, "prompts of many lengths: {lengths:?}");

    assert_eq!(findings(&sessions), []);
    let recorded = world.recorded();
    assert_eq!(recorded.len(), sessions.len());
    let sent = sessions[0].frames.concat();
    assert!(!sent.is_empty());
    assert!(recorded.iter().all(|bytes| *bytes == sent));
    assert_eq!(world.computer.computed_count(), 1, "one prompt, once");

    let (log, metrics) = (log.text(), metrics.render());
    for part in ["TRACE quinn", "edge admitted", "cloud prompt computed"] {
        assert!(log.contains(part), "the log has {part}");
    }
    assert!(metrics.contains("edge_time_to_first_token_seconds_count 50"));
    for session in &sessions {
        assert_eq!(session.canary.found_in_text(&log), None);
        assert_eq!(session.canary.found_in_text(&metrics), None);
    }
    print_datagrams(&sessions);
}

/// What is not the same every time: acknowledgements follow timing.
fn print_datagrams(sessions: &[Session]) {
    let mut bytes: Vec<_> = sessions
        .iter()
        .map(|s| (s.private_len, s.datagram_bytes))
        .collect();
    bytes.sort_unstable();
    println!("private tokens, bytes of datagrams: {bytes:?}");
}
