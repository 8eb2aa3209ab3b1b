//! A leader that says what no leader says: its worker ends the work with a reason, and nothing else.

use std::net::SocketAddr;
use std::time::Duration;

use burn::tensor::Device;
use bytes::Bytes;
use edge_node::crew::work::{Lent, WorkError, work};
use edgeprompt_engine::Shard;
use edgeprompt_kv::ModelDigest;
use edgeprompt_protocol::{
    WorkerHello, WorkerJob, WorkerJobs, WorkerOrder, WorkerPrefix, WorkerRow, WorkerSetup,
    WorkerStream, WorkerTask,
};
use edgeprompt_transport::{
    CloudEndpoint, EdgeIdentity, LinkConfig, Named, PeerEndpoint, PeerLink, PeerSender,
};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::cluster;

/// What a worker lends: less than a head of the largest shape that may be spread.
const MEMORY_BYTES: u64 = 1 << 20;

fn setup() -> WorkerSetup {
    WorkerSetup {
        model: ModelDigest::new([0x11; 32]),
        layer_count: 2,
        kv_head_count: 2,
        group_len: 1,
        hidden_dim: 16,
        head_dim: 8,
        mlp_dim: 32,
        slice_count: 2,
        has_qkv_bias: false,
        has_qk_norm: false,
        norm_epsilon: 1e-5,
        inverse_frequencies: vec![1.0; 4],
        attention_factor: 1.0,
        block_len: 4,
        block_count: 8,
        tokens_max: 64,
    }
}

/// The streams of a leader that has begun well.
struct Streams {
    steps: PeerSender,
    aside: PeerSender,
}

struct Scene {
    runtime: Runtime,
    leader: CloudEndpoint<PeerLink>,
    addr: SocketAddr,
    worker: PeerEndpoint,
}

impl Scene {
    /// A worker's link, with what comes of the work, and the leader's end of it.
    fn begin(&mut self) -> (oneshot::Receiver<Result<(), WorkError>>, PeerLink) {
        let (worker, addr) = (&self.worker, self.addr);
        let (ended, end) = oneshot::channel();
        let links = self.runtime.block_on(async {
            let dialled = worker.connect(addr).await.unwrap();
            (dialled, self.leader.accept().await.unwrap())
        });
        self.runtime.spawn(async move {
            let lent = Lent {
                flops_per_second: 1e9,
                memory_bytes: MEMORY_BYTES,
                percent: 100,
                model: None,
                device_memory: || None,
            };
            let (_leave, stay) = oneshot::channel();
            let empty = |shape, model| Shard::empty(shape, model, &Device::flex());
            let _ = ended.send(work(links.0, lent, empty, stay).await);
        });
        (end, links.1)
    }

    /// How the work ends if the leader does this.
    fn end(
        &mut self,
        setup: WorkerSetup,
        act: impl AsyncFnOnce(&mut Streams),
    ) -> Result<(), WorkError> {
        let (end, link) = self.begin();
        self.runtime.block_on(async {
            let opening = WorkerStream::Steps(Box::new(setup));
            let (steps, mut replies) = link.open(&opening, 1).await.unwrap();
            let hello: WorkerHello = replies.receive().await.unwrap();
            assert!(!hello.has_model && hello.memory_bytes == MEMORY_BYTES);
            let (aside, _answers) = link.open(&WorkerStream::Aside, 0).await.unwrap();
            let mut streams = Streams { steps, aside };
            act(&mut streams).await;
            timeout(Duration::from_secs(60), end)
                .await
                .unwrap()
                .unwrap()
        })
    }

    /// How it ends after one order, with so many numbers that are none.
    fn end_of_order(&mut self, task: WorkerTask, number_count: u32) -> WorkError {
        let ended = self.end(setup(), async move |streams| {
            let order = WorkerOrder {
                turn: 1,
                task,
                number_count,
            };
            let numbers = Bytes::from(vec![0; 4 * number_count as usize]);
            // A worker that has read enough may hang up before it has read all.
            let _ = streams.steps.send_with(&order, numbers).await;
        });
        ended.unwrap_err()
    }
}

fn scene() -> Scene {
    let cluster = cluster();
    let identity = |name: &str| {
        cluster.invite(name);
        EdgeIdentity::load(&cluster.dir.path().join(name)).unwrap()
    };
    let (leads, works) = (identity("leads"), identity("works"));
    let runtime = Runtime::new().unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (leader, worker) = runtime.block_on(async {
        let config = LinkConfig::default;
        let leader = CloudEndpoint::bind_for_workers(any, (&leads, Named::All), config()).unwrap();
        let worker = PeerEndpoint::bind_for_work(any, &works, config()).unwrap();
        (leader, worker)
    });
    Scene {
        addr: leader.local_addr().unwrap(),
        runtime,
        leader,
        worker,
    }
}

#[test]
fn streams_come_in_their_order() {
    let mut scene = scene();
    for streams in [
        vec![WorkerStream::Aside],
        vec![WorkerStream::Steps(Box::new(setup())); 2],
    ] {
        let (end, link) = scene.begin();
        let ended = scene.runtime.block_on(async {
            let mut open = Vec::new();
            for stream in &streams {
                open.push(link.open(stream, 1).await.unwrap());
            }
            timeout(Duration::from_secs(60), end)
                .await
                .unwrap()
                .unwrap()
        });
        assert!(matches!(ended, Err(WorkError::OutOfOrder)), "{ended:?}");
    }
}

/// With how many numbers each comes.
fn orders_of_what_is_not_there() -> Vec<(WorkerTask, u32)> {
    let begin = |len, block| {
        let row = WorkerRow {
            len,
            start: 0,
            prefix: None,
            blocks: vec![block],
        };
        WorkerTask::Begin { rows: vec![row] }
    };
    let jobs = |layer, head| {
        let jobs = WorkerJobs {
            layer,
            heads: vec![head],
            slices: Vec::new(),
        };
        WorkerTask::Switch { layers: vec![jobs] }
    };
    let (layer, blocks) = (0, vec![8]);
    let put = WorkerTask::Put {
        layer,
        head: 0,
        blocks,
    };
    let take = WorkerTask::Take {
        layer,
        head: 1,
        blocks: vec![0],
    };
    let prefix = WorkerPrefix {
        key: 1,
        token_count: 4,
    };
    let prefix = WorkerTask::Prefix {
        prefix,
        layer,
        heads: vec![7],
    };
    vec![
        (begin(1, 8), 0),
        (begin(65, 0), 0),
        (WorkerTask::Heads { layer: 2 }, 16),
        (WorkerTask::FeedForward { layer }, 16),
        (jobs(2, 0), 0),
        (jobs(0, 2), 0),
        (jobs(0, 0), 0),
        (put, 64),
        (take, 0),
        (prefix, 64),
        // Numbers that belong to nothing, and too many of them.
        (begin(1, 0), 1),
        (WorkerTask::Heads { layer }, 1 << 20),
    ]
}

/// Weights that are not those of their digest, and none at all.
fn wrong_weights() -> Vec<(WorkerTask, u32)> {
    let weights = |job, digest| WorkerTask::Weights {
        layer: 0,
        job,
        digest,
    };
    vec![
        (weights(WorkerJob::Slice(0), Some([0; 32])), 3 * 16 * 16),
        (weights(WorkerJob::Head(0), None), 0),
    ]
}

#[test]
fn orders_that_no_leader_gives_end_the_work() {
    let mut scene = scene();
    let orders = [orders_of_what_is_not_there(), wrong_weights()].concat();
    for (index, (task, number_count)) in orders.into_iter().enumerate() {
        let error = scene.end_of_order(task, number_count);
        assert!(
            matches!(error, WorkError::Wire(_) | WorkError::Order(_)),
            "order {index}: {error:?}"
        );
    }
}

#[test]
fn what_is_no_message_ends_the_work() {
    let mut scene = scene();
    let noise = Bytes::from(vec![0xa5; 100]);
    for is_aside in [false, true] {
        let noise = noise.clone();
        let ended = scene.end(setup(), async move |streams| {
            let stream = match is_aside {
                true => &mut streams.aside,
                false => &mut streams.steps,
            };
            stream.send_bytes(noise).await.unwrap();
        });
        assert!(matches!(ended, Err(WorkError::Link(_))), "{ended:?}");
    }
}

#[test]
fn a_worker_takes_no_more_than_it_lends() {
    let mut scene = scene();
    let large = WorkerSetup {
        hidden_dim: 1024,
        mlp_dim: 1024,
        ..setup()
    };
    let ended = scene.end(large, async |streams| {
        let numbers = Bytes::from(vec![0; 4 * 3 * 1024 * 512]);
        let order = WorkerOrder {
            turn: 1,
            task: WorkerTask::Weights {
                layer: 0,
                job: WorkerJob::Slice(0),
                digest: Some(*blake3::hash(&numbers).as_bytes()),
            },
            number_count: 3 * 1024 * 512,
        };
        // As above.
        let _ = streams.aside.send_with(&order, numbers).await;
    });
    assert!(matches!(ended, Err(WorkError::Order(_))), "{ended:?}");
}
