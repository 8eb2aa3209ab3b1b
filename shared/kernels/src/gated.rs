//! What stands between the two products of a gated MLP.

use pulp::{Arch, Simd, WithSimd};

use crate::exp::exp_of_negative;

/// `silu(gate)·up` with `silu(x) = x / (1 + e^{−x})`, number by number.
///
/// `gate_up`: `[row, 2·width]`, the gates of a row before its other half; the result: `[row, width]`.
pub fn gated(gate_up: &[f32], width: usize) -> Vec<f32> {
    let mut out = vec![0.0; gate_up.len() / 2];
    Arch::new().dispatch(Gated {
        gate_up,
        width,
        out: &mut out,
    });
    out
}

struct Gated<'a> {
    gate_up: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl WithSimd for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.gate_up.chunks_exact(2 * self.width);
        for (from, out) in rows.zip(self.out.chunks_exact_mut(self.width)) {
            let (gates, ups) = from.split_at(self.width);
            let (gates, gates_rest) = S::as_simd_f32s(gates);
            let (ups, ups_rest) = S::as_simd_f32s(ups);
            let (out, out_rest) = S::as_mut_simd_f32s(out);
            for ((out, gate), up) in out.iter_mut().zip(gates).zip(ups) {
                *out = simd.mul_f32s(silu(simd, *gate), *up);
            }
            let gate = simd.partial_load_f32s(gates_rest);
            let up = simd.partial_load_f32s(ups_rest);
            simd.partial_store_f32s(out_rest, simd.mul_f32s(silu(simd, gate), up));
        }
    }
}

#[inline(always)]
fn silu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Of what is not positive, so that nothing overflows.
    let e = exp_of_negative(simd, simd.neg_f32s(simd.abs_f32s(x)));
    let one = simd.splat_f32s(1.0);
    let is_negative = simd.less_than_f32s(x, simd.splat_f32s(0.0));
    let part = simd.select_f32s(is_negative, e, one);
    simd.div_f32s(simd.mul_f32s(x, part), simd.add_f32s(one, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_those_of_the_definition() {
        let width = 37;
        let number = |index: usize| ((index as f32 * 0.618_034).fract() - 0.5) * 60.0;
        let gate_up: Vec<_> = (0..3 * 2 * width).map(number).collect();
        let found = gated(&gate_up, width);
        assert_eq!(found.len(), 3 * width);
        for (index, found) in found.iter().enumerate() {
            let (row, column) = (index / width, index % width);
            let gate = f64::from(gate_up[row * 2 * width + column]);
            let up = f64::from(gate_up[row * 2 * width + width + column]);
            let expected = gate / (1.0 + (-gate).exp()) * up;
            let error = (f64::from(*found) - expected).abs();
            assert!(
                error <= 1e-6 * expected.abs() + 1e-9,
                "silu({gate})·{up} is {expected}, not {found}"
            );
        }
    }

    #[test]
    fn gates_without_end_are_closed_or_open() {
        let found = gated(&[-1e30, -100.0, 0.0, 100.0, 1.0, 1.0, 1.0, 2.0], 4);
        assert_eq!(found[2..], [0.0, 200.0]);
        assert!(found[0].abs() < 1e-7 && found[1].abs() < 1e-35);
    }
}
