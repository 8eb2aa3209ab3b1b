//! A pass stops at the first missing layer, keeps what it has, and goes on when the layer comes:
//! no network, no waiting.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use burn::tensor::Device;
use edgeprompt_engine::{CloudSegment, Progress, Sequence, SequenceOptions, greedy};
use edgeprompt_engine::{layer_from_view, prefill_segment, view_from_layer};
use edgeprompt_kv::{KvDtype, LayerIndex, TokenId};
use edgeprompt_model::{Model, ModelConfig, ModelShape};

/// Random weights small enough for a test: the 110m shape with fewer and narrower layers.
fn small_model() -> Model {
    let config = ModelConfig {
        hidden_dim: 32,
        mlp_dim: 64,
        layer_count: 3,
        q_head_count: 4,
        kv_head_count: 2,
        head_dim: 8,
        vocab_size: 64,
        ..ModelShape::M110.config()
    };
    Model::random(config, &Device::flex(), 7)
}

fn tokens(ids: std::ops::Range<u32>) -> Vec<TokenId> {
    ids.map(TokenId).collect()
}

#[test]
fn a_pass_waits_for_each_missing_layer_and_no_other() {
    let model = small_model();
    let (cloud, private) = (tokens(1..20), tokens(20..30));
    let mut whole = cloud.clone();
    whole.extend(&private);
    let expected = Sequence::new(&model, None, SequenceOptions::default()).next_greedy(&whole);

    let segment = CloudSegment::empty(&model.geometry, 19);
    let mut arriving = Vec::new();
    prefill_segment(&model, &cloud, |layer, view| {
        let wire = layer_from_view(&view, &model.geometry, KvDtype::F32).unwrap();
        arriving.push((
            layer,
            view_from_layer(&wire, &model.geometry, &Device::flex()),
        ));
    });
    let mut sequence = Sequence::new(&model, Some(segment.clone()), SequenceOptions::default());
    sequence.begin(&private);
    // The last layer comes first and helps nobody yet.
    let (last, view) = arriving.pop().unwrap();
    segment.layers.fill(last, view).unwrap();
    assert!(!segment.is_complete());
    for (layer, view) in arriving {
        assert_eq!(sequence.advance(), Progress::NeedsLayer(layer));
        assert_eq!(
            sequence.advance(),
            Progress::NeedsLayer(layer),
            "asking again changes nothing"
        );
        segment.layers.fill(layer, view).unwrap();
        assert_eq!(sequence.advance(), Progress::LayerDone(layer));
    }
    assert_eq!(sequence.advance(), Progress::Complete);
    assert_eq!(greedy(&sequence.logits()), expected);
    assert_eq!(last, LayerIndex(2));
    assert!(segment.is_complete());
}

#[test]
fn the_private_kv_grows_past_its_first_capacity() {
    let model = small_model();
    let long = tokens(1..60);
    let whole = Sequence::new(&model, None, SequenceOptions::default()).generate_greedy(&long, 40);
    let mut stepwise = Sequence::new(&model, None, SequenceOptions::default());
    for token in &long[..58] {
        stepwise.next_greedy(&[*token]);
    }
    assert_eq!(stepwise.generate_greedy(&long[58..], 40), whole);
}
