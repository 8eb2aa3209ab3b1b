//! Where the marks of an axis are.

/// Round numbers from 0 to `end`, about `count` of them.
pub(super) fn ticks(end: f64, count: f64) -> impl Iterator<Item = f64> {
    let rough = end / count;
    let power = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let step = steps.map(|step| step * power).into_iter();
    let step = step
        .clone()
        .find(|step| *step >= rough)
        .unwrap_or(10.0 * power);
    (0..)
        .map(move |index| (f64::from(index) * step * 1e6).round() / 1e6)
        .take_while(move |tick| *tick <= end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let found: Vec<_> = ticks(730.0, 8.0).collect();
        assert_eq!(
            found,
            [0.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0]
        );
        assert_eq!(ticks(0.9, 8.0).last(), Some(0.8));
    }
}
