//! Over real links, with a worker that does what it must not.

use std::sync::Arc;

use edgeprompt_engine::{Answer, Task};
use edgeprompt_kv::ModelDigest;
use edgeprompt_protocol::{WorkerOrder, WorkerTask};
use edgeprompt_transport::{
    CloudEndpoint, CloudIdentity, EdgeIdentity, LinkConfig, Named, PeerEndpoint,
};
use tokio::runtime::Runtime;

use super::*;

/// For what comes for certain.
const LONG: Duration = Duration::from_secs(60);
/// For what never does.
const SHORT: Duration = Duration::from_millis(50);

const HIDDEN: usize = 8;
const HIDDEN_DIM: u32 = 8;

fn setup() -> WorkerSetup {
    WorkerSetup {
        model: ModelDigest::new([7; 32]),
        layer_count: 2,
        kv_head_count: 2,
        group_len: 1,
        hidden_dim: HIDDEN_DIM,
        head_dim: 4,
        mlp_dim: 16,
        slice_count: 2,
        has_qkv_bias: false,
        has_qk_norm: false,
        norm_epsilon: 1e-5,
        inverse_frequencies: vec![1.0, 0.1],
        attention_factor: 1.0,
        block_len: 4,
        block_count: 16,
        tokens_max: 1 << 18,
    }
}

/// The worker.
struct Liar {
    link: PeerLink,
    steps: (PeerSender, PeerReceiver),
    aside: (PeerSender, PeerReceiver),
    _endpoint: PeerEndpoint,
    _gate: CloudEndpoint<PeerLink>,
}

impl Liar {
    /// Says something on the stream of steps.
    fn reply(&mut self, runtime: &Runtime, reply: &WorkerReply, numbers: &[f32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        let said = runtime.block_on(self.steps.0.send_with(reply, bytes.into()));
        said.unwrap();
    }
}

fn linked(runtime: &Runtime, patience: Duration) -> (LinkPort, Liar) {
    let dir = tempfile::tempdir().unwrap();
    let (cloud, token) = CloudIdentity::init(&dir.path().join("cloud")).unwrap();
    let leader = EdgeIdentity::join(&token).unwrap();
    let token = cloud.invite(LONG).unwrap();
    let worker = EdgeIdentity::join(&token).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    runtime.block_on(async {
        let names = Named::These([worker.name().to_owned()].into());
        let config = LinkConfig::default();
        let mut gate = CloudEndpoint::bind_for_workers(any, (&leader, names), config).unwrap();
        let endpoint = PeerEndpoint::bind_for_work(any, &worker, config).unwrap();
        let addr = gate.local_addr().unwrap();
        let (dialled, accepted) = tokio::join!(endpoint.connect(addr), gate.accept());
        let (link, accepted) = (dialled.unwrap(), accepted.unwrap());
        assert_eq!(accepted.peer_name(), Some(worker.name()));
        let welcomed = async {
            let (_, mut sender, receiver) = link.accept::<WorkerStream>().await.unwrap();
            let hello = WorkerHello {
                flops_per_second: 1e9,
                memory_bytes: 1 << 30,
                has_model: false,
            };
            sender.send(&hello).await.unwrap();
            let (_, aside, orders) = link.accept::<WorkerStream>().await.unwrap();
            ((sender, receiver), (aside, orders))
        };
        let opening = LinkPort::open(accepted, setup(), patience);
        let (opened, (steps, aside)) = tokio::join!(opening, welcomed);
        let liar = Liar {
            link,
            steps,
            aside,
            _endpoint: endpoint,
            _gate: gate,
        };
        (opened.unwrap().0, liar)
    })
}

fn heads(turn: u64, token_count: usize) -> Order {
    let input = Arc::new(vec![0.5; token_count * HIDDEN]);
    let task = Task::Heads { layer: 0, input };
    Order { turn, task }
}

fn part(turn: u64, number_count: usize) -> WorkerReply {
    WorkerReply {
        turn,
        answer: WorkerAnswer::Part { busy_us: 1 },
        number_count: u32::try_from(number_count).unwrap(),
    }
}

/// Why a worker is lost that is asked for the heads of two tokens and says something else.
fn why_lost(says: impl FnOnce(&Runtime, &mut Liar)) -> String {
    let runtime = Runtime::new().unwrap();
    let (mut port, mut liar) = linked(&runtime, LONG);
    port.send(heads(1, 2));
    says(&runtime, &mut liar);
    let gone = port.receive(LONG).err().unwrap().reason;
    // It is gone for good, whatever is asked, and the worker hears of it.
    port.send(heads(2, 1));
    assert_eq!(port.receive(LONG).err().unwrap().reason, gone);
    assert_eq!(port.poll_aside().err().unwrap().reason, gone);
    runtime.block_on(liar.link.closed());
    gone
}

#[test]
fn an_order_and_its_numbers_arrive_and_so_does_the_answer() {
    let runtime = Runtime::new().unwrap();
    let (mut port, mut liar) = linked(&runtime, LONG);
    port.send(Order {
        turn: 6,
        task: Task::Begin { rows: Vec::new() },
    });
    port.send(heads(7, 2));
    let orders = runtime.block_on(async {
        let begin: WorkerOrder = liar.steps.1.receive().await.unwrap();
        let heads: WorkerOrder = liar.steps.1.receive().await.unwrap();
        let numbers = liar.steps.1.receive_rest(2 * HIDDEN * 4).await.unwrap();
        assert_eq!(&numbers[..4], 0.5f32.to_le_bytes());
        [begin, heads]
    });
    assert!(matches!(orders[0].task, WorkerTask::Begin { .. }));
    assert!(matches!(orders[1].task, WorkerTask::Heads { layer: 0 }));
    let numbers: Vec<f32> = (0u8..16).map(f32::from).collect();
    liar.reply(&runtime, &part(7, 16), &numbers);
    let reply = port.receive(LONG).unwrap();
    assert_eq!(reply.turn, 7);
    assert!(matches!(reply.answer, Answer::Part { numbers: found, .. } if found == numbers));
}

#[test]
fn nothing_is_read_of_an_answer_that_is_longer_than_it_must_be() {
    // None of its numbers ever come: who waited for them would do so for long.
    let why = why_lost(|runtime, liar| liar.reply(runtime, &part(1, 1 << 26), &[]));
    assert!(why.contains("not asked"), "{why}");
}

#[test]
fn an_answer_to_another_order_is_none() {
    let why = why_lost(|runtime, liar| liar.reply(runtime, &part(2, 2 * HIDDEN), &[1.0; 16]));
    assert!(why.contains("not asked"), "{why}");
}

#[test]
fn numbers_that_are_none_spoil_no_sum() {
    let why = why_lost(|runtime, liar| liar.reply(runtime, &part(1, 2 * HIDDEN), &[f32::NAN; 16]));
    assert!(why.contains("not finite"), "{why}");
}

#[test]
fn garbage_ends_the_link() {
    why_lost(|runtime, liar| {
        let mut garbage = vec![Bytes::from_static(&[0xa5; 64])];
        let sent = runtime.block_on(liar.steps.0.send_some(&mut garbage));
        sent.unwrap();
    });
}

#[test]
fn an_answer_counts_once() {
    let runtime = Runtime::new().unwrap();
    let (mut port, mut liar) = linked(&runtime, LONG);
    port.send(heads(1, 1));
    port.send(heads(2, 1));
    liar.reply(&runtime, &part(1, HIDDEN), &[1.0; HIDDEN]);
    liar.reply(&runtime, &part(1, HIDDEN), &[1.0; HIDDEN]);
    assert_eq!(port.receive(LONG).unwrap().turn, 1);
    let why = port.receive(LONG).err().unwrap().reason;
    assert!(why.contains("not asked"), "{why}");
}

#[test]
fn answers_aside_that_nobody_awaits_end_the_link() {
    let runtime = Runtime::new().unwrap();
    let (mut port, mut liar) = linked(&runtime, LONG);
    let done = WorkerReply {
        turn: 1,
        answer: WorkerAnswer::Done,
        number_count: 0,
    };
    runtime.block_on(async {
        // Until nobody reads them any more.
        while liar.aside.0.send(&done).await.is_ok() {}
    });
    let why = loop {
        match port.poll_aside() {
            Ok(reply) => assert!(reply.is_none(), "it was not asked"),
            Err(gone) => break gone.reason,
        }
    };
    assert!(why.contains("not asked"), "{why}");
}

#[test]
fn a_worker_that_is_silent_is_lost_after_so_long_and_at_once_from_then_on() {
    let runtime = Runtime::new().unwrap();
    let (mut port, liar) = linked(&runtime, LONG);
    port.send(heads(1, 1));
    let why = port.receive(SHORT).err().unwrap().reason;
    assert!(why.contains("too long"), "{why}");
    port.send(heads(2, 1));
    assert_eq!(port.receive(LONG).err().unwrap().reason, why);
    runtime.block_on(liar.link.closed());
}

#[test]
fn a_worker_that_lets_nothing_go_on_aside_is_lost() {
    let runtime = Runtime::new().unwrap();
    let (mut port, liar) = linked(&runtime, SHORT);
    assert!(port.poll_aside().unwrap().is_none(), "it owes nothing");
    port.send_aside(Order {
        turn: 1,
        task: Task::Switch { layers: Vec::new() },
    });
    let why = loop {
        match port.poll_aside() {
            Ok(reply) => assert!(reply.is_none(), "it says nothing"),
            Err(gone) => break gone.reason,
        }
    };
    assert!(why.contains("too long"), "{why}");
    runtime.block_on(liar.link.closed());
}

#[test]
fn sending_waits_for_nobody_and_an_order_that_stays_here_is_not_waited_for_longer() {
    let runtime = Runtime::new().unwrap();
    let (mut port, liar) = linked(&runtime, LONG);
    // Twice as much as the stream takes while nobody reads.
    port.send(heads(1, (8 << 20) / (4 * HIDDEN)));
    assert!(!port.unsent.is_empty(), "the link took all of it");
    let why = port.receive(SHORT).err().unwrap().reason;
    assert!(why.contains("too long"), "{why}");
    runtime.block_on(liar.link.closed());
}

#[test]
fn what_goes_aside_holds_up_no_step() {
    let runtime = Runtime::new().unwrap();
    let (mut port, mut liar) = linked(&runtime, LONG);
    // More than the buffers of the link, and nobody reads it.
    for turn in 0..8 {
        let numbers = Some(vec![0.0; (16 << 20) / 4]);
        let (layer, job) = (0, edgeprompt_engine::Job::Slice(0));
        let task = Task::Weights {
            layer,
            job,
            numbers,
        };
        port.send_aside(Order { turn, task });
    }
    // The first of them is on its way.
    let first: WorkerOrder = runtime.block_on(liar.aside.1.receive()).unwrap();
    assert_eq!(first.turn, 0);
    port.send(heads(9, 2));
    let order: WorkerOrder = runtime.block_on(liar.steps.1.receive()).unwrap();
    assert_eq!(order.turn, 9);
    liar.reply(&runtime, &part(9, 2 * HIDDEN), &[1.0; 16]);
    assert_eq!(port.receive(LONG).unwrap().turn, 9);
}
