//! What a leader and its workers say to each other, byte for byte: a change here is a change of
//! [`WORKER_ALPN`].

use edgeprompt_kv::ModelDigest;
use edgeprompt_protocol::codec::{ToPeer, decode_from_peer, encode_to_peer};
use edgeprompt_protocol::{
    NUMBERS_MAX, WORKER_ALPN, WorkerAnswer, WorkerHello, WorkerJob, WorkerJobs, WorkerOrder,
    WorkerPrefix, WorkerReply, WorkerRow, WorkerSetup, WorkerStream, WorkerTask,
};

fn check<M: ToPeer>(message: &M, hex: &str) {
    let frame = encode_to_peer(message).expect("a valid message");
    let found: String = frame[4..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let expected: String = hex.split_whitespace().collect();
    assert_eq!(found, expected);
    // Some of the types cannot be printed or compared: they are private.
    let again: M = decode_from_peer(&frame[4..]).expect("its own bytes");
    assert!(encode_to_peer(&again).expect("valid") == frame);
}

fn order(task: WorkerTask, number_count: u32) -> WorkerOrder {
    WorkerOrder {
        turn: 7,
        task,
        number_count,
    }
}

fn setup() -> WorkerSetup {
    WorkerSetup {
        model: ModelDigest::new([0x11; 32]),
        layer_count: 6,
        kv_head_count: 2,
        group_len: 2,
        hidden_dim: 32,
        head_dim: 4,
        mlp_dim: 64,
        slice_count: 8,
        has_qkv_bias: false,
        has_qk_norm: true,
        norm_epsilon: 1e-5,
        inverse_frequencies: vec![1.0, 0.5],
        attention_factor: 1.0,
        block_len: 16,
        block_count: 300,
        tokens_max: 512,
    }
}

const PREFIX: WorkerPrefix = WorkerPrefix {
    key: 3,
    token_count: 300,
};

#[test]
fn the_name_goes_with_the_bytes() {
    assert_eq!(WORKER_ALPN, b"edgeprompt-worker/2");
}

#[test]
fn what_opens_a_stream() {
    let steps = WorkerStream::Steps(Box::new(setup()));
    check(
        &steps,
        "001111111111111111111111111111111111111111111111111111111111111111060202200440080001f168e388b5f8e43e02000000000000f03f000000000000e03f000000000000f03f10fb2c01fb0002",
    );
    check(&WorkerStream::Aside, "01");
    let hello = WorkerHello {
        flops_per_second: 1.5,
        memory_bytes: 1 << 30,
        has_model: true,
    };
    check(&hello, "000000000000f83ffc0000004001");
}

#[test]
fn what_is_to_be_done() {
    let row = |prefix| WorkerRow {
        len: 1,
        start: 20,
        prefix,
        blocks: vec![5, 300],
    };
    let rows = vec![row(Some(PREFIX)), row(None)];
    check(
        &order(WorkerTask::Begin { rows }, 0),
        "07000201140103fb2c010205fb2c010114000205fb2c0100",
    );
    check(&order(WorkerTask::Heads { layer: 5 }, 64), "07010540");
    check(&order(WorkerTask::FeedForward { layer: 5 }, 64), "07020540");
    let (prefix, heads) = (PREFIX, vec![1]);
    let task = WorkerTask::Prefix {
        prefix,
        layer: 2,
        heads,
    };
    check(&order(task, 2400), "070303fb2c01020101fb6009");
    check(&order(WorkerTask::Forget { key: 3 }, 0), "07040300");
    let weights = |job, digest| WorkerTask::Weights {
        layer: 2,
        job,
        digest,
    };
    let digest = Some([0x22; 32]);
    check(
        &order(weights(WorkerJob::Head(1), digest), 9),
        "070502000101222222222222222222222222222222222222222222222222222222222222222209",
    );
    check(
        &order(weights(WorkerJob::Slice(7), None), 0),
        "07050201070000",
    );
    let (layer, head, blocks) = (2, 1, vec![0, 4]);
    let take = WorkerTask::Take {
        layer,
        head,
        blocks: blocks.clone(),
    };
    check(&order(take, 0), "0706020102000400");
    let put = WorkerTask::Put {
        layer,
        head,
        blocks,
    };
    check(&order(put, 256), "07070201020004fb0001");
    let layers = vec![WorkerJobs {
        layer: 2,
        heads: vec![0, 1],
        slices: vec![],
    }];
    check(
        &order(WorkerTask::Switch { layers }, 0),
        "070801020200010000",
    );
    check(&order(WorkerTask::Unstage, 0), "070900");
    let blocks = vec![0, 4];
    check(&order(WorkerTask::Wipe { blocks }, 0), "070a02000400");
}

#[test]
fn what_is_answered() {
    let reply = |answer, number_count| WorkerReply {
        turn: 300,
        answer,
        number_count,
    };
    check(
        &reply(WorkerAnswer::Part { busy_us: 1000 }, 32),
        "fb2c0100fbe80320",
    );
    check(&reply(WorkerAnswer::Kv, 256), "fb2c0101fb0001");
    check(&reply(WorkerAnswer::Done, 0), "fb2c010200");
    check(&reply(WorkerAnswer::Leaving, 0), "fb2c010300");
    let memory = WorkerAnswer::Memory { bytes: 1000 };
    check(&reply(memory, 0), "fb2c0104fbe80300");
}

#[test]
fn absurd_shapes_and_lengths_are_refused() {
    let refused = |change: fn(&mut WorkerSetup)| {
        let mut setup = setup();
        change(&mut setup);
        encode_to_peer(&WorkerStream::Steps(Box::new(setup))).is_err()
    };
    assert!(!refused(|_| {}));
    for change in [
        |it: &mut WorkerSetup| it.layer_count = 0,
        |it: &mut WorkerSetup| it.layer_count = 257,
        |it: &mut WorkerSetup| it.kv_head_count = 0,
        |it: &mut WorkerSetup| it.slice_count = 65,
        |it: &mut WorkerSetup| it.head_dim = 6,
        |it: &mut WorkerSetup| it.block_count = u32::MAX,
        |it: &mut WorkerSetup| it.norm_epsilon = f64::NAN,
        |it: &mut WorkerSetup| it.inverse_frequencies[1] = f64::INFINITY,
        |it: &mut WorkerSetup| (it.hidden_dim, it.mlp_dim) = (1 << 17, 1 << 18),
        |it: &mut WorkerSetup| (it.hidden_dim, it.tokens_max) = (1 << 17, 1 << 17),
    ] {
        assert!(refused(change));
    }
    let too_many = order(WorkerTask::Heads { layer: 0 }, NUMBERS_MAX + 1);
    assert!(encode_to_peer(&too_many).is_err());
    let blocks = vec![0; (1 << 18) + 1];
    let take = WorkerTask::Take {
        layer: 0,
        head: 0,
        blocks,
    };
    assert!(encode_to_peer(&order(take, 0)).is_err());
    let hello = WorkerHello {
        flops_per_second: f64::NAN,
        memory_bytes: 0,
        has_model: false,
    };
    assert!(encode_to_peer(&hello).is_err());
}
