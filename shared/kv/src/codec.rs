//! Keys and values as numbers and as the bytes of a number format, both ways. No tensors.

mod dequantise;
mod fit;
mod layout;
mod quantise;

use half::{bf16, f16};

pub(crate) use layout::{Bits, Layout};

use crate::{KvDtype, KvGeometry};

/// Keys and values, each `[kv_head, token, head_dim]`, in a number format.
pub(crate) fn encode(numbers: [&[f32]; 2], geometry: &KvGeometry, dtype: KvDtype) -> Vec<u8> {
    let token_count = numbers[0].len() / geometry.elements(1);
    match dtype {
        KvDtype::F32 => one_by_one(numbers, f32::to_le_bytes),
        KvDtype::F16 => one_by_one(numbers, |n| f16::from_f32(n).to_le_bytes()),
        KvDtype::Bf16 => one_by_one(numbers, |n| bf16::from_f32(n).to_le_bytes()),
        KvDtype::Int8 => quantised(numbers, geometry, token_count, Bits::Eight),
        KvDtype::Int4 => quantised(numbers, geometry, token_count, Bits::Four),
    }
}

fn one_by_one<const N: usize>(numbers: [&[f32]; 2], encode: impl Fn(f32) -> [u8; N]) -> Vec<u8> {
    let mut payload = vec![0; numbers.map(<[f32]>::len).iter().sum::<usize>() * N];
    let (places, _) = payload.as_chunks_mut();
    for (place, number) in places.iter_mut().zip(numbers.into_iter().flatten()) {
        *place = encode(*number);
    }
    payload
}

fn quantised(
    numbers: [&[f32]; 2],
    geometry: &KvGeometry,
    token_count: usize,
    bits: Bits,
) -> Vec<u8> {
    quantise::quantise(numbers, &Layout::new(geometry, token_count, bits))
}

/// Keys and values, each `[kv_head, token, head_dim]`, of a payload of the right length.
pub(crate) fn decode(
    payload: &[u8],
    geometry: &KvGeometry,
    token_count: usize,
    dtype: KvDtype,
) -> [Vec<f32>; 2] {
    let halves = || {
        let (keys, values) = payload.split_at(payload.len() / 2);
        [keys, values]
    };
    let layout = |bits| Layout::new(geometry, token_count, bits);
    match dtype {
        KvDtype::F32 => halves().map(|bytes| {
            let (numbers, _) = bytes.as_chunks();
            numbers.iter().map(|b| f32::from_le_bytes(*b)).collect()
        }),
        KvDtype::F16 => halves().map(|bytes| {
            let (numbers, _) = bytes.as_chunks();
            let numbers = numbers.iter();
            numbers.map(|b| f16::from_le_bytes(*b).to_f32()).collect()
        }),
        KvDtype::Bf16 => halves().map(|bytes| {
            let (numbers, _) = bytes.as_chunks();
            let numbers = numbers.iter();
            numbers.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
        }),
        KvDtype::Int8 => dequantise::dequantise(payload, &layout(Bits::Eight)),
        KvDtype::Int4 => dequantise::dequantise(payload, &layout(Bits::Four)),
    }
}

#[cfg(test)]
mod tests;
