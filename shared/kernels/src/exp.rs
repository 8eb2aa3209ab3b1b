//! The exponential of what is not positive, of a vector of numbers at a time.

use pulp::Simd;

/// Below this the result is not a normal number.
const X_MIN: f32 = -87.0;
/// 1.5·2²³: adding it rounds to a whole number, which is in the lowest bits then.
const ROUNDER: f32 = 12_582_912.0;
/// ln 2 in two parts, the first exact in few bits.
const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
const EXPONENT_BIAS: u32 = 127;
const MANTISSA_BITS: u32 = 23;
/// The polynomial of Cephes' `expf`, of the highest power first.
const COEFFICIENTS: [f32; 6] = [
    1.987_569_1e-4,
    1.398_2e-3,
    8.333_452e-3,
    4.166_579_6e-2,
    1.666_666_5e-1,
    0.5,
];

/// e^x for x ≤ 0: within 2 ulp where that is a normal number, 0 below, and 1 for 0.
#[inline(always)]
pub(crate) fn exp_of_negative<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let is_none = simd.less_than_f32s(x, simd.splat_f32s(X_MIN));
    let x = simd.max_f32s(x, simd.splat_f32s(X_MIN));
    let rounded = simd.mul_add_e_f32s(
        x,
        simd.splat_f32s(std::f32::consts::LOG2_E),
        simd.splat_f32s(ROUNDER),
    );
    let power = simd.sub_f32s(rounded, simd.splat_f32s(ROUNDER));
    let r = simd.mul_add_e_f32s(power, simd.splat_f32s(-LN_2[0]), x);
    let r = simd.mul_add_e_f32s(power, simd.splat_f32s(-LN_2[1]), r);
    let mut p = simd.splat_f32s(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        p = simd.mul_add_e_f32s(p, r, simd.splat_f32s(*coefficient));
    }
    let p = simd.mul_add_e_f32s(
        simd.mul_f32s(p, r),
        r,
        simd.add_f32s(r, simd.splat_f32s(1.0)),
    );
    let biased = simd.add_u32s(
        simd.transmute_u32s_f32s(rounded),
        simd.splat_u32s(EXPONENT_BIAS),
    );
    let exponent = simd.wrapping_dyn_shl_u32s(biased, simd.splat_u32s(MANTISSA_BITS));
    let found = simd.mul_f32s(p, simd.transmute_f32s_u32s(exponent));
    simd.select_f32s(is_none, simd.splat_f32s(0.0), found)
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

    use super::*;

    struct Exponentiate<'a>(&'a mut [f32]);

    impl WithSimd for Exponentiate<'_> {
        type Output = ();

        fn with_simd<S: Simd>(self, simd: S) {
            let (vectors, rest) = S::as_mut_simd_f32s(self.0);
            for vector in vectors {
                *vector = exp_of_negative(simd, *vector);
            }
            let vector = exp_of_negative(simd, simd.partial_load_f32s(rest));
            simd.partial_store_f32s(rest, vector);
        }
    }

    #[test]
    fn the_exponential_is_that_of_the_standard_library() {
        let steps = 0..=u16::MAX;
        let numbers: Vec<_> = steps
            .map(|step| -f32::from(step) * (87.0 / 65_535.0))
            .collect();
        // Lengths that are none of whole vectors, too.
        for len in [1, 15, 33, numbers.len() - 1, numbers.len()] {
            let mut found = numbers[numbers.len() - len..].to_vec();
            Arch::new().dispatch(Exponentiate(&mut found));
            for (found, x) in found.iter().zip(&numbers[numbers.len() - len..]) {
                let expected = f64::from(*x).exp();
                let error = f64::from(*found) / expected - 1.0;
                assert!(error.abs() < 3e-7, "e^{x} is {expected}, not {found}");
            }
        }
        let mut ends = [-1e30, f32::NEG_INFINITY, -87.1, 0.0, -0.0];
        Arch::new().dispatch(Exponentiate(&mut ends));
        assert_eq!(ends, [0.0, 0.0, 0.0, 1.0, 1.0]);
    }
}
