//! Time across the cells of a chart: where a moment falls, and where the ticks are.

/// The least distance of two ticks, so that their labels stay apart.
const TICK_CELLS_MIN: u128 = 10;
const NS_PER_MS: u128 = 1_000_000;

/// In whole nanoseconds, so that no time, however absurd, overflows.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub(super) total_ns: u128,
    pub(super) cell_count: u16,
}

impl Axis {
    pub(super) fn cell_start(self, cell: u16) -> u128 {
        self.total_ns * u128::from(cell) / u128::from(self.cell_count)
    }

    pub(super) fn cell_of(self, at_ns: u128) -> u16 {
        let after = (1..self.cell_count).find(|&cell| self.cell_start(cell) > at_ns);
        after.unwrap_or(self.cell_count) - 1
    }

    /// A step of 1, 2 or 5 times a power of ten.
    pub(super) fn tick_step(self) -> u128 {
        let step_min = (self.total_ns * TICK_CELLS_MIN).div_ceil(u128::from(self.cell_count));
        let power = 10_u128.pow(step_min.ilog10());
        let steps = [power, 2 * power, 5 * power];
        steps
            .into_iter()
            .find(|&step| step >= step_min)
            .unwrap_or(10 * power)
    }
}

/// In milliseconds, with as many decimals as `step_ns` needs.
pub(super) fn tick_label(tick_ns: u128, step_ns: u128) -> String {
    let (whole, part) = (tick_ns / NS_PER_MS, tick_ns % NS_PER_MS);
    let mut digits = format!("{part:06}");
    let mut unit_ns = NS_PER_MS;
    let mut decimal_count = 0;
    while !step_ns.is_multiple_of(unit_ns) {
        unit_ns /= 10;
        decimal_count += 1;
    }
    if decimal_count == 0 {
        return whole.to_string();
    }
    digits.truncate(decimal_count);
    format!("{whole}.{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_falls_into_the_cell_that_starts_no_later() {
        let axis = Axis {
            total_ns: 100,
            cell_count: 8,
        };
        assert_eq!(axis.cell_of(0), 0);
        assert_eq!(axis.cell_of(axis.cell_start(3)), 3);
        assert_eq!(axis.cell_of(axis.cell_start(3) - 1), 2);
        assert_eq!(axis.cell_of(100), 7);
    }

    #[test]
    fn ticks_are_round_and_far_enough_apart() {
        let step = |total_ns| {
            Axis {
                total_ns,
                cell_count: 60,
            }
            .tick_step()
        };
        assert_eq!(step(6), 1);
        assert_eq!(step(60), 10);
        assert_eq!(step(61), 20);
        assert_eq!(step(31_000_000), 10_000_000);
        assert_eq!(step(29_000_000), 5_000_000);
    }

    #[test]
    fn ticks_are_labelled_with_the_decimals_their_step_needs() {
        assert_eq!(tick_label(20_000_000, 5_000_000), "20");
        assert_eq!(tick_label(1_500_000, 500_000), "1.5");
        assert_eq!(tick_label(40_000, 20_000), "0.04");
        assert_eq!(tick_label(3, 1), "0.000003");
    }
}
