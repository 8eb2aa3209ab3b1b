//! Numbers to codes.

use half::f16;

use super::fit::{affine, around_zero, symmetric};
use super::layout::{Bits, Layout};

/// The part of a value's error that the same channel of the next token makes up for. Attention sums
/// values over tokens, and where neighbours weigh alike their errors cancel. Measured: a tenth less
/// divergence in four bits than without; all of the error would be too much where they do not.
const ERROR_CARRIED: f32 = 0.6;

/// Keys and values, each `[kv_head, token, head_dim]`, as [`Layout`] says.
pub(crate) fn quantise([keys, values]: [&[f32]; 2], layout: &Layout) -> Vec<u8> {
    let mut payload = Vec::with_capacity(layout.bytes());
    for numbers in [keys, values] {
        for head in 0..layout.heads * layout.firsts {
            let first = &numbers[layout.row(head, 0)];
            push_halves(&mut payload, first.iter().copied());
        }
    }
    let (steps, key_codes) = quantise_keys(keys, layout);
    for params in steps {
        push_halves(&mut payload, params.into_iter());
    }
    let (scales, value_codes) = quantise_values(values, layout);
    push_halves(&mut payload, scales.into_iter());
    payload.extend(key_codes);
    payload.extend(value_codes);
    payload
}

impl Layout {
    /// The numbers of one token, counted from the first of all, in one head's slice of a tensor.
    pub(crate) const fn row(&self, head: usize, token: usize) -> std::ops::Range<usize> {
        let start = (head * (self.firsts + self.tokens) + token) * self.dim;
        start..start + self.dim
    }

    /// The bytes of one token's codes, counted from the first in codes.
    pub(crate) const fn code_row(&self, head: usize, token: usize) -> std::ops::Range<usize> {
        let start = (head * self.tokens + token) * self.row_bytes;
        start..start + self.row_bytes
    }
}

/// Scales and zeros, `[key_group, channel]` each, and codes.
fn quantise_keys(keys: &[f32], layout: &Layout) -> ([Vec<f32>; 2], Vec<u8>) {
    let count = layout.key_groups * layout.channels();
    let (mut scales, mut zeros) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut codes = vec![0; layout.codes_bytes()];
    let code_max = f32::from(layout.bits.code_max());
    let mut of_channel = Vec::new();
    for group in layout.key_groups() {
        for channel in 0..layout.channels() {
            let (head, dim) = (channel / layout.dim, channel % layout.dim);
            let number = |token: usize| keys[layout.row(head, layout.firsts + token).start + dim];
            of_channel.clear();
            of_channel.extend(group.clone().map(number));
            let step = affine(&of_channel, layout.bits);
            scales.push(step.scale);
            zeros.push(step.zero);
            for (token, &number) in group.clone().zip(&of_channel) {
                let row = &mut codes[layout.code_row(head, token)];
                put(row, dim, narrow(step.code(number, code_max)), layout.bits);
            }
        }
    }
    ([scales, zeros], codes)
}

/// Scales, `[token, value_group]`, and codes.
fn quantise_values(values: &[f32], layout: &Layout) -> (Vec<f32>, Vec<u8>) {
    let mut scales = Vec::with_capacity(layout.tokens * layout.value_groups);
    let mut codes = vec![0; layout.codes_bytes()];
    let code_max = f32::from(layout.bits.code_max());
    let mut carried = vec![0.0; layout.channels()];
    let mut of_group = Vec::new();
    for token in 0..layout.tokens {
        for group in layout.value_groups() {
            let wanted = |channel: usize| {
                let (head, dim) = (channel / layout.dim, channel % layout.dim);
                let row = layout.row(head, layout.firsts + token);
                values[row.start + dim] + carried[channel]
            };
            of_group.clear();
            of_group.extend(group.clone().map(wanted));
            let step = around_zero(symmetric(&of_group, layout.bits), layout.bits);
            scales.push(step.scale);
            for (channel, &number) in group.zip(&of_group) {
                let (head, dim) = (channel / layout.dim, channel % layout.dim);
                let code = step.code(number, code_max);
                let off = number - (step.zero + step.scale * code);
                carried[channel] = ERROR_CARRIED * off;
                let row = &mut codes[layout.code_row(head, token)];
                put(row, dim, narrow(code), layout.bits);
            }
        }
    }
    (scales, codes)
}

/// A code as a byte; one that comes of numbers that are not finite is 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a code is from 0 to 255, and the cast saturates"
)]
const fn narrow(code: f32) -> u8 {
    code as u8
}

fn put(row: &mut [u8], dim: usize, code: u8, bits: Bits) {
    match bits {
        Bits::Eight => row[dim] = code,
        Bits::Four if dim < row.len() => row[dim] |= code,
        Bits::Four => row[dim - row.len()] |= code << 4,
    }
}

fn push_halves(payload: &mut Vec<u8>, numbers: impl Iterator<Item = f32>) {
    payload.extend(numbers.flat_map(|number| f16::from_f32(number).to_le_bytes()));
}
