//! Every mode gives the answers of `paged`, whose cloud prompt is part of every request.

use std::sync::mpsc::sync_channel;

use edge_node::kv_origin::KvOrigin;
use edgeprompt_engine::{SegmentPrefill, layer_from_view};
use edgeprompt_kv::KvDtype;
use edgeprompt_model::{ComputeDevice, ModelShape};
use edgeprompt_protocol::LayerTimings;
use edgeprompt_transport::ReceivedLayer;

use super::*;
use crate::pipeline::messages::TokensSpec;
use crate::pipeline::plan::CloudStore;

/// Not a whole number of blocks.
const CLOUD_LEN: usize = 37;
const REQUEST_COUNT: usize = 3;

fn model() -> Arc<Model> {
    let device = ComputeDevice::default().open().unwrap();
    Arc::new(Model::dummy(ModelShape::Tiny, &device))
}

fn tokens(ordinal: u64, len: usize) -> TokensSpec {
    TokensSpec {
        seed: 5,
        ordinal,
        len,
    }
}

fn setting(mode: Mode, relay_fill: RelayFill) -> Setting {
    Setting {
        mode,
        cloud: tokens(0, CLOUD_LEN),
        relay_fill,
        cloud_store: CloudStore::Cold,
        edge_share: 100,
        max_num_seqs: REQUEST_COUNT,
        max_num_batched_tokens: 64,
        private_len_max: 40,
    }
}

/// The second one waits for its time.
fn requests() -> Vec<Request> {
    let request = |(ordinal, arrival_s)| Request {
        private: tokens(ordinal, 9),
        output_len: 6,
        arrival_s,
    };
    [(1, 0.0), (2, 0.02), (3, 0.02)].map(request).to_vec()
}

/// What a cloud would send.
fn sent(model: &Model, cloud: &[TokenId]) -> Receiver<Arrival> {
    let (sender, arrivals) = sync_channel(64);
    let now = Instant::now();
    for (layer, view) in SegmentPrefill::start(model, cloud) {
        let received = ReceivedLayer {
            layer,
            kv: layer_from_view(&view, &model.geometry, KvDtype::F32).unwrap(),
            first_byte_at: now,
            last_byte_at: now,
            timings: LayerTimings {
                compute_start_us: 0,
                compute_end_us: 0,
                send_start_us: 0,
            },
            rebuilt_bytes: 0,
        };
        let arrival = Arrival::Layer {
            received,
            received_by_cloud_at: now,
            origin: KvOrigin::Cloud,
        };
        sender.send(arrival).unwrap();
    }
    arrivals
}

fn answered(model: &Arc<Model>, mode: Mode, relay_fill: RelayFill) -> (Answered, Contest) {
    let (mut contest, fill) = Contest::open(model, &setting(mode, relay_fill)).unwrap();
    let is_beforehand = mode == Mode::Relay && relay_fill == RelayFill::Beforehand;
    assert_eq!(contest.segment.is_some(), is_beforehand);
    assert_eq!(fill > Duration::ZERO, is_beforehand, "{mode}");
    if mode.is_streamed() {
        let arrivals = sent(model, &contest.cloud);
        contest.expect(arrivals).unwrap();
    }
    (contest.answer(&requests(), None).unwrap(), contest)
}

#[test]
fn every_mode_gives_the_answers_of_paged() {
    let model = model();
    let digests = |answered: &Answered| -> Vec<_> {
        let requests = answered.requests.iter();
        requests.map(|it| it.digest.clone()).collect()
    };
    let (paged, _) = answered(&model, Mode::Paged, RelayFill::Beforehand);
    let expected = digests(&paged);
    assert_eq!(expected.len(), REQUEST_COUNT);
    assert!(expected[0] != expected[1] && expected[1] != expected[2]);
    for (mode, relay_fill) in [
        (Mode::PagedPc, RelayFill::Beforehand),
        (Mode::Relay, RelayFill::Beforehand),
        (Mode::Relay, RelayFill::WithTheFirst),
        (Mode::Edgeprompt, RelayFill::Beforehand),
        (Mode::Concat, RelayFill::Beforehand),
    ] {
        let (found, contest) = answered(&model, mode, relay_fill);
        assert_eq!(digests(&found), expected, "{mode}, {relay_fill:?}");
        let layer_bytes = model.geometry.layer_bytes(CLOUD_LEN, KvDtype::F32) as u64;
        let all = layer_bytes * u64::from(model.geometry.layer_count());
        let came = if mode.is_streamed() { all } else { 0 };
        assert_eq!(contest.received_bytes, came, "{mode}");
        for times in &found.requests {
            assert_eq!(times.output_len, 6);
            match mode {
                // Two full blocks of 16 of the 37 tokens.
                Mode::Concat => assert_eq!(times.shared_len, 32),
                // The first computes them.
                Mode::PagedPc => {}
                _ => assert_eq!(times.shared_len, 0, "{mode}"),
            }
            assert!(0.0 < times.ttft_s && times.ttft_s <= times.e2e_s);
        }
        assert!(found.seconds > 0.02, "the last request comes then");
    }
}

#[test]
fn a_cloud_prompt_that_is_lost_fails_the_run() {
    let model = model();
    let setting = setting(Mode::Edgeprompt, RelayFill::Beforehand);
    let (mut contest, _) = Contest::open(&model, &setting).unwrap();
    let without = contest.answer(&requests(), None).unwrap_err();
    assert!(without.to_string().contains("no link"), "{without}");
    let (sender, arrivals) = sync_channel(1);
    drop(sender);
    contest.expect(arrivals).unwrap();
    assert!(contest.answer(&requests(), None).is_err());
}
