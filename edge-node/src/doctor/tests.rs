//! What comes of a fetch that is measured.

use std::sync::mpsc::sync_channel;

use edgeprompt_kv::{KvGeometry, LayerIndex, LayerKv};
use edgeprompt_protocol::LayerTimings;
use edgeprompt_transport::ReceivedLayer;

use super::*;
use crate::kv_origin::KvOrigin;

const LAYER_BYTES: usize = 32;

fn layer(index: u32) -> Arrival {
    let geometry = KvGeometry::new(2, 1, 4).unwrap();
    let payload = vec![0; LAYER_BYTES].into();
    let kv = LayerKv::new(payload, &geometry, 1, KvDtype::F32).unwrap();
    let now = Instant::now();
    Arrival::Layer {
        received: ReceivedLayer {
            layer: LayerIndex(index),
            kv,
            first_byte_at: now,
            last_byte_at: now,
            timings: LayerTimings {
                compute_start_us: 0,
                compute_end_us: 0,
                send_start_us: 0,
            },
            rebuilt_bytes: 0,
        },
        received_by_cloud_at: now,
        origin: KvOrigin::Cloud,
    }
}

#[test]
fn a_link_is_well_only_if_every_layer_came() {
    let (sender, arrivals) = sync_channel(4);
    sender.send(Arrival::Begun(2)).unwrap();
    sender.send(layer(0)).unwrap();
    // It stalls: the other end is there and says nothing more.
    let stalled = received(&arrivals, 2, Duration::ZERO).unwrap_err();
    assert_eq!(stalled.reason, LossReason::Slow);
    sender.send(layer(0)).unwrap();
    sender.send(layer(1)).unwrap();
    let (bytes, _) = received(&arrivals, 2, FETCH_PATIENCE).unwrap();
    assert_eq!(bytes, 2 * LAYER_BYTES as u64);
    sender.send(layer(0)).unwrap();
    drop(sender);
    let ended = received(&arrivals, 2, FETCH_PATIENCE).unwrap_err();
    assert_eq!(ended.reason, LossReason::LinkLost);
    assert!(
        ended.detail.starts_with("1 of 2 layers"),
        "{}",
        ended.detail
    );
}
