//! Codes to numbers, straight into what attention reads: any bytes of the right length decode.

use half::f16;

use super::layout::{Bits, Layout};

/// Keys and values, each `[kv_head, token, head_dim]`. They may be infinite or NaN, as their scales
/// may.
///
/// # Panics
/// If the payload is not as long as the layout says.
pub(crate) fn dequantise(payload: &[u8], layout: &Layout) -> [Vec<f32>; 2] {
    assert_eq!(payload.len(), layout.bytes(), "a checked payload");
    let mut parts = Parts(payload);
    let first_keys = halves(parts.take(layout.first_bytes()));
    let first_values = halves(parts.take(layout.first_bytes()));
    let scales = halves(parts.take(layout.key_params_bytes()));
    let zeros = halves(parts.take(layout.key_params_bytes()));
    let value_scales = halves(parts.take(layout.value_scales_bytes()));
    let key_codes = parts.take(layout.codes_bytes());
    let keys = keys(&first_keys, [&scales, &zeros], key_codes, layout);
    let values = values(&first_values, &value_scales, parts.0, layout);
    [keys, values]
}

struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes);
        self.0 = rest;
        taken
    }
}

fn halves(bytes: &[u8]) -> Vec<f32> {
    let (halves, _) = bytes.as_chunks();
    let halves = halves.iter();
    halves.map(|b| f16::from_le_bytes(*b).to_f32()).collect()
}

fn keys(firsts: &[f32], [scales, zeros]: [&[f32]; 2], codes: &[u8], layout: &Layout) -> Vec<f32> {
    let (dim, channels) = (layout.dim, layout.channels());
    let mut keys = Vec::with_capacity(channels * (layout.firsts + layout.tokens));
    let mut unpacked = vec![0; dim];
    for head in 0..layout.heads {
        keys.extend(firsts.iter().skip(head * dim).take(dim));
        for (group, tokens) in layout.key_groups().enumerate() {
            let at = group * channels + head * dim;
            let (scales, zeros) = (&scales[at..at + dim], &zeros[at..at + dim]);
            for token in tokens {
                let codes = unpack(&codes[layout.code_row(head, token)], &mut unpacked, layout);
                let params = zeros.iter().zip(scales);
                keys.extend(
                    codes
                        .iter()
                        .zip(params)
                        .map(|(code, (zero, scale))| zero + scale * f32::from(*code)),
                );
            }
        }
    }
    keys
}

fn values(firsts: &[f32], scales: &[f32], codes: &[u8], layout: &Layout) -> Vec<f32> {
    let (dim, channels) = (layout.dim, layout.channels());
    let mut values = Vec::with_capacity(channels * (layout.firsts + layout.tokens));
    let mut unpacked = vec![0; dim];
    let groups: Vec<_> = layout.value_groups().collect();
    let middle = f32::from(layout.bits.middle());
    for head in 0..layout.heads {
        let of_head = head * dim..(head + 1) * dim;
        // The head's numbers that share a scale, and which it is.
        let runs: Vec<_> = (0..)
            .zip(&groups)
            .map(|(index, group)| {
                let start = group.start.max(of_head.start);
                (index, start..group.end.min(of_head.end))
            })
            .filter(|(_, run)| !run.is_empty())
            .map(|(index, run): (usize, _)| {
                (index, run.start - of_head.start..run.end - of_head.start)
            })
            .collect();
        values.extend(firsts.iter().skip(of_head.start).take(dim));
        for token in 0..layout.tokens {
            let codes = unpack(&codes[layout.code_row(head, token)], &mut unpacked, layout);
            let scales = &scales[token * layout.value_groups..];
            for (group, run) in &runs {
                let scale = scales[*group];
                let numbers = codes[run.clone()].iter();
                values.extend(numbers.map(|code| scale * (f32::from(*code) - middle)));
            }
        }
    }
    values
}

/// The codes of one row, a byte each.
#[inline(always)]
fn unpack<'a>(row: &'a [u8], unpacked: &'a mut [u8], layout: &Layout) -> &'a [u8] {
    match layout.bits {
        Bits::Eight => row,
        Bits::Four => {
            let (low, high) = unpacked.split_at_mut(layout.row_bytes);
            for (code, byte) in low.iter_mut().zip(row) {
                *code = byte & 15;
            }
            for (code, byte) in high.iter_mut().zip(row) {
                *code = byte >> 4;
            }
            unpacked
        }
    }
}
