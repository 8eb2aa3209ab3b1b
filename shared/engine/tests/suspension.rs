//! A pass stops at the first missing layer, keeps what it has, and goes on when the layer comes:
//! no network, no waiting.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use burn::tensor::Device;
use edgeprompt_engine::{CloudSegment, Progress, Sequence, SequenceOptions, greedy};
use edgeprompt_engine::{SegmentPrefill, layer_from_view, view_from_layer};
use edgeprompt_kv::{KvDtype, LayerIndex, TokenId};
use edgeprompt_model::{Model, ModelShape};

fn small_model() -> Model {
    Model::dummy(ModelShape::Tiny, &Device::flex())
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
    for (layer, view) in SegmentPrefill::start(&model, &cloud) {
        let wire = layer_from_view(&view, &model.geometry, KvDtype::F32).unwrap();
        arriving.push((
            layer,
            view_from_layer(&wire, &model.geometry, &Device::flex()),
        ));
    }
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
    assert_eq!(last, LayerIndex(5));
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
