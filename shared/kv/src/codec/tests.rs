//! Lengths, error bounds, bytes that are pinned, and bytes that are not a layer's.

use bytes::Bytes;
use proptest::prelude::*;

use crate::{KvDtype, KvGeometry, LayerKv};

/// Parts of the range that an error may have beyond half a step: scales and zeros are halves.
const HALF_SLACK: f32 = 2e-3;

fn geometry(kv_heads: u32, head_dim: u32) -> KvGeometry {
    KvGeometry::new(1, kv_heads, head_dim).unwrap()
}

/// Numbers of one half, no two tokens or channels alike.
fn numbers(geometry: &KvGeometry, token_count: usize, seed: u32) -> Vec<f32> {
    let count = u32::try_from(geometry.elements(token_count)).unwrap();
    let mixed = (0..count).map(|i| (i ^ seed).wrapping_mul(0x9e37_79b1) >> 8);
    #[expect(clippy::cast_precision_loss, reason = "24 bits fit")]
    mixed.map(|bits| bits as f32 / 8_388_608.0 - 1.0).collect()
}

fn rms(a: &[f32], b: &[f32]) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let count = a.len().max(1) as f32;
    let square: f32 = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum();
    (square / count).sqrt()
}

proptest! {
    #[test]
    fn a_layer_has_the_announced_length_and_comes_back_within_its_step(
        kv_heads in 1u32..5, head_dim in 1u32..40, token_count in 0usize..150, seed: u32,
        reach in 1e-2f32..100.0,
    ) {
        let geometry = geometry(kv_heads, head_dim);
        let scaled = |seed| -> Vec<f32> {
            numbers(&geometry, token_count, seed).iter().map(|n| n * reach).collect()
        };
        let [keys, values] = [scaled(seed), scaled(!seed)];
        for (dtype, step) in [
            (KvDtype::F32, 0.0),
            (KvDtype::F16, 2.0 * reach / 2048.0),
            (KvDtype::Bf16, 2.0 * reach / 256.0),
            (KvDtype::Int8, 2.0 * reach / 255.0),
            (KvDtype::Int4, 2.0 * reach / 15.0),
        ] {
            let layer = LayerKv::encode([&keys, &values], &geometry, dtype).unwrap();
            prop_assert_eq!(layer.payload().len(), geometry.layer_bytes(token_count, dtype));
            let [key_error, value_error] = {
                let [k, v] = layer.decode();
                prop_assert_eq!((k.len(), v.len()), (keys.len(), values.len()));
                [rms(&k, &keys), rms(&v, &values)]
            };
            let slack = HALF_SLACK * reach * f32::from(!dtype.is_exact());
            prop_assert!(key_error <= step / 2.0 + slack, "{dtype} keys: {key_error}");
            // A value makes up for part of the error before it.
            prop_assert!(value_error <= 0.8 * step + slack, "{dtype} values: {value_error}");
        }
    }

    #[test]
    fn any_bytes_decode_to_as_many_numbers(
        kv_heads in 1u32..4, head_dim in 1u32..20, token_count in 0usize..100, seed: u64,
    ) {
        let geometry = geometry(kv_heads, head_dim);
        for dtype in KvDtype::ALL {
            let mut state = seed | 1;
            let mut byte = || {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                state.to_be_bytes()[0]
            };
            let bytes: Vec<u8> = (0..geometry.layer_bytes(token_count, dtype)).map(|_| byte()).collect();
            let layer = LayerKv::new(Bytes::from(bytes), &geometry, token_count, dtype).unwrap();
            let expected = geometry.elements(token_count);
            prop_assert_eq!(layer.decode().map(|half| half.len()), [expected; 2]);
        }
    }
}

#[test]
fn numbers_that_are_not_finite_do_not_come_back_finite() {
    let geometry = geometry(2, 8);
    for dtype in KvDtype::ALL {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in [0, 8 * 3, 8 * 40 + 5] {
                let mut keys = numbers(&geometry, 40, 1);
                keys[place] = wrong;
                let layer = LayerKv::encode([&keys, &keys], &geometry, dtype).unwrap();
                for half in layer.decode() {
                    assert!(
                        half.iter().any(|n| !n.is_finite()),
                        "{dtype} {wrong} {place}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_constant_and_a_zero_come_back_as_they_are() {
    let geometry = geometry(1, 4);
    for constant in [0.0, 1.5, -0.25] {
        let numbers = vec![constant; geometry.elements(70)];
        for dtype in KvDtype::ALL {
            let layer = LayerKv::encode([&numbers, &numbers], &geometry, dtype).unwrap();
            let [keys, values] = layer.decode();
            assert_eq!(keys, numbers, "{dtype}");
            assert!(
                rms(&values, &numbers) < 1e-3 * constant.abs() + 1e-9,
                "{dtype}"
            );
        }
    }
}

#[test]
fn a_format_of_its_own_is_not_recoded_and_another_is() {
    let geometry = geometry(2, 8);
    let numbers = numbers(&geometry, 33, 5);
    let exact = LayerKv::encode([&numbers, &numbers], &geometry, KvDtype::F32).unwrap();
    assert_eq!(exact.recoded(KvDtype::F32), exact);
    for dtype in KvDtype::ALL {
        let encoded = LayerKv::encode([&numbers, &numbers], &geometry, dtype).unwrap();
        assert_eq!(exact.recoded(dtype), encoded);
        assert_eq!(encoded.dtype(), dtype);
    }
}

#[test]
fn wire_sizes_are_what_is_promised() {
    // 8 KV heads of 128 and stories260K's 4 of 8; a prompt of 256 tokens.
    for (heads, dim) in [(8, 128), (4, 8), (4, 16)] {
        let geometry = geometry(heads, dim);
        let bytes = |dtype| geometry.layer_bytes(256, dtype) as f64;
        let ratio = |dtype| bytes(KvDtype::F32) / bytes(dtype);
        assert!(ratio(KvDtype::Int8) >= 3.7, "{}", ratio(KvDtype::Int8));
        assert!(ratio(KvDtype::Int4) >= 6.5, "{}", ratio(KvDtype::Int4));
    }
}

#[test]
fn errors_of_values_that_weigh_alike_cancel() {
    let geometry = geometry(1, 32);
    let mut values = vec![0.33; geometry.elements(101)];
    for token in values.chunks_exact_mut(32) {
        token[0] = 1.0;
    }
    let layer = LayerKv::encode([&values, &values], &geometry, KvDtype::Int4).unwrap();
    let [_, decoded] = layer.decode();
    // The first is in f16.
    let of_channel = |channel: usize| decoded.iter().skip(32 + channel).step_by(32);
    let largest = of_channel(1).map(|n| (n - 0.33).abs()).fold(0.0, f32::max);
    let mean = of_channel(1).sum::<f32>() / 100.0;
    assert!(largest > 1e-3, "nothing to cancel");
    assert!((mean - 0.33).abs() < largest / 2.0, "{mean} {largest}");
}

/// One head of three numbers and three tokens, of which the first stays in f16.
#[test]
fn golden_bytes() {
    let geometry = geometry(1, 3);
    let keys = [1.0, -2.0, 0.5, 0.25, 3.0, -1.0, 0.75, -1.0, 2.0];
    let values = [0.5, 1.5, -1.0, -0.5, 0.125, 1.0, 2.0, -0.75, 0.25];
    let hex = |dtype| -> String {
        let layer = LayerKv::encode([&keys, &values], &geometry, dtype).unwrap();
        layer
            .payload()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    assert_eq!(
        hex(KvDtype::Int8),
        "003c00c000380038003e00bc041804240622003400bc00bc00a000a400ff00ff00ffc0700000b070"
    );
    assert_eq!(
        hex(KvDtype::Int4),
        "003c00c000380038003e00bc442844346632003400bc00bc00b000b4000fff000c07700b"
    );
}
