//! Scales and zeros that lose least: a few ranges are tried, each is fitted to the numbers by least
//! squares once they are rounded to it, and the one with the smallest square error stays.

use half::f16;

use super::layout::Bits;

/// Parts of a group's range that are tried: cutting outliers off makes the steps between the others
/// finer. Measured on real keys and values, which lose a fifth less than over the whole range.
const RANGES: [f32; 7] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 1.05];

/// What turns codes into numbers: `zero + scale · code`, each as it is after a trip through f16.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) scale: f32,
    pub(crate) zero: f32,
}

impl Step {
    fn rounded(scale: f32, zero: f32) -> Self {
        Self {
            scale: f16::from_f32(scale).to_f32(),
            zero: f16::from_f32(zero).to_f32(),
        }
    }

    /// The nearest code from 0 to `code_max`, as a number. A scale of nothing has one code.
    #[inline(always)]
    pub(crate) fn code(self, number: f32, code_max: f32) -> f32 {
        let inverse = match self.scale == 0.0 {
            true => 0.0,
            false => 1.0 / self.scale,
        };
        nearest(((number - self.zero) * inverse).max(0.0).min(code_max))
    }
}

/// Rounds what is from 0 to 255 without a call to the mathematics library: beyond 2^23 an f32 has
/// no fraction.
#[inline(always)]
fn nearest(number: f32) -> f32 {
    const NO_FRACTION: f32 = 8_388_608.0;
    (number + NO_FRACTION) - NO_FRACTION
}

/// The step of numbers that lie anywhere.
pub(crate) fn affine(numbers: &[f32], bits: Bits) -> Step {
    let (low, high) = bounds(numbers);
    let (middle, reach) = (low / 2.0 + high / 2.0, high / 2.0 - low / 2.0);
    let code_max = f32::from(bits.code_max());
    let over = |range: f32| {
        let scale = 2.0 * reach * range / code_max;
        Step::rounded(scale, middle - reach * range)
    };
    let fitted = |tried: Step| {
        let line = Line::through(numbers, code_max, tried);
        Step::rounded(line.slope, line.at_zero)
    };
    best(numbers, code_max, over, fitted)
}

/// The scale of numbers around zero, whose code is the middle one. It has the sign that gives the
/// number farthest from zero the side with one code more.
pub(crate) fn symmetric(numbers: &[f32], bits: Bits) -> f32 {
    let (low, high) = bounds(numbers);
    let extreme = if high > -low { high } else { low };
    let (code_max, middle) = (f32::from(bits.code_max()), f32::from(bits.middle()));
    let step = |scale: f32| around_zero(f16::from_f32(scale).to_f32(), bits);
    let over = |range: f32| step(-extreme * range / middle);
    let fitted = |tried: Step| {
        let code = |number| tried.code(number, code_max) - middle;
        let product = sum_of(numbers, |number| number * code(number));
        let square = sum_of(numbers, |number| code(number) * code(number));
        step(if square > 0.0 { product / square } else { 0.0 })
    };
    best(numbers, code_max, over, fitted).scale
}

/// The step of numbers around zero. Its zero follows from its scale, so that it is not sent.
pub(crate) fn around_zero(scale: f32, bits: Bits) -> Step {
    let zero = -scale * f32::from(bits.middle());
    Step { scale, zero }
}

/// The best of the steps over parts of the range, and of those fitted to what they make of the
/// numbers.
fn best(
    numbers: &[f32],
    code_max: f32,
    over: impl Fn(f32) -> Step,
    fitted: impl Fn(Step) -> Step,
) -> Step {
    let mut chosen = (f32::INFINITY, over(1.0));
    for range in RANGES {
        let tried = over(range);
        for step in [tried, fitted(tried)] {
            chosen = better(chosen, (error(numbers, code_max, step), step));
        }
    }
    chosen.1
}

/// Of two steps with their errors; a NaN is never better.
fn better(a: (f32, Step), b: (f32, Step)) -> (f32, Step) {
    match b.0 < a.0 {
        true => b,
        false => a,
    }
}

fn error(numbers: &[f32], code_max: f32, step: Step) -> f32 {
    sum_of(numbers, |number| {
        let off = step.zero + step.scale * step.code(number, code_max) - number;
        off * off
    })
}

/// A sum in eight parts, so that the compiler takes many terms at a time.
#[inline(always)]
fn sum_of(numbers: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (chunks, rest) = numbers.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for chunk in chunks {
        for (sum, number) in sums.iter_mut().zip(chunk) {
            *sum += term(*number);
        }
    }
    let rest: f32 = rest.iter().map(|number| term(*number)).sum();
    sums.iter().sum::<f32>() + rest
}

/// The smallest and the largest; NaN both if any is.
fn bounds(numbers: &[f32]) -> (f32, f32) {
    if numbers.iter().any(|number| number.is_nan()) {
        return (f32::NAN, f32::NAN);
    }
    let ends = (f32::INFINITY, f32::NEG_INFINITY);
    let wider = |(low, high): (f32, f32), &number: &f32| (low.min(number), high.max(number));
    numbers.iter().fold(ends, wider)
}

/// A line through numbers over their codes.
struct Line {
    slope: f32,
    at_zero: f32,
}

impl Line {
    /// The one with the least square error.
    fn through(numbers: &[f32], code_max: f32, step: Step) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a group has a hundred numbers or so"
        )]
        let count = numbers.len() as f32;
        let code = |number| step.code(number, code_max);
        let mean_code = sum_of(numbers, code) / count;
        let mean_number = sum_of(numbers, |number| number) / count;
        let product = sum_of(numbers, |number| {
            (code(number) - mean_code) * (number - mean_number)
        });
        let square = sum_of(numbers, |number| {
            (code(number) - mean_code) * (code(number) - mean_code)
        });
        let slope = if square > 0.0 { product / square } else { 0.0 };
        let at_zero = mean_number - slope * mean_code;
        Self { slope, at_zero }
    }
}
