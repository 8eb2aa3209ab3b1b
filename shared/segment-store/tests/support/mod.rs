//! Small segments with known numbers.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use edgeprompt_kv::{KvDtype, KvGeometry, LayerIndex, LayerKv, ModelDigest, TokenId};
use edgeprompt_segment_store::{SegmentInfo, SegmentWriter};

/// Two layers of one head of two numbers, over so many tokens from `first` on.
pub(crate) fn info(first: u32, token_count: u32) -> SegmentInfo {
    let tokens: Arc<[TokenId]> = (first..first + token_count).map(TokenId).collect();
    SegmentInfo {
        model: ModelDigest::new([7; 32]),
        geometry: KvGeometry::new(2, 1, 2).unwrap(),
        dtype: KvDtype::F32,
        tokens,
        text: Some("Hi".into()),
    }
}

/// A layer whose every byte follows from its place.
pub(crate) fn layer(info: &SegmentInfo, layer: LayerIndex) -> LayerKv {
    let count = u8::try_from(info.layer_bytes()).unwrap();
    let first = u8::try_from(layer.0).unwrap() * 100;
    let payload: Vec<u8> = (0..count).map(|i| first.wrapping_add(i)).collect();
    let payload = Bytes::from(payload);
    LayerKv::new(payload, &info.geometry, info.tokens.len(), info.dtype).unwrap()
}

pub(crate) fn layers(info: &SegmentInfo) -> Vec<LayerKv> {
    let count = info.geometry.layer_count();
    (0..count).map(|i| layer(info, LayerIndex(i))).collect()
}

/// The bytes of the whole file.
pub(crate) fn encoded(info: &SegmentInfo) -> Vec<u8> {
    let mut writer = SegmentWriter::begin(Cursor::new(Vec::new()), info.clone()).unwrap();
    for layer in layers(info) {
        writer.layer(&layer).unwrap();
    }
    writer.finish().unwrap().into_inner()
}
