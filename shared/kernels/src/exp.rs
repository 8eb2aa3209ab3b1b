//! The exponential of what is not positive, as vector code.

/// e^x for x ≤ 0, within 2 ulp where that is a normal number and 0 or nearly so below: steps that
/// the compiler turns into vector code. The polynomial is that of Cephes' `expf`.
#[inline(always)]
pub(crate) fn exp_of_negative(x: f32) -> f32 {
    // Below this the result is not a normal number.
    const X_MIN: f32 = -87.0;
    /// 1.5·2²³: adding it rounds to a whole number, which is in the lowest bits then.
    const ROUNDER: f32 = 12_582_912.0;
    // ln 2 in two parts, the first exact in few bits.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const EXPONENT_BIAS: u32 = 127;

    let x = x.max(X_MIN);
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let power = rounded - ROUNDER;
    let r = x - power * LN_2_HIGH - power * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    let exponent = rounded.to_bits().wrapping_add(EXPONENT_BIAS) << 23;
    p * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_the_standard_library() {
        for step in 0..=u16::MAX {
            let x = -f32::from(step) * (87.0 / 65_535.0);
            let (found, expected) = (f64::from(exp_of_negative(x)), f64::from(x).exp());
            assert!(
                (found / expected - 1.0).abs() < 3e-7,
                "e^{x} is {expected}, not {found}"
            );
        }
        assert!(exp_of_negative(-1e30) < 1e-37);
        assert!(exp_of_negative(f32::NEG_INFINITY) < 1e-37);
    }
}
