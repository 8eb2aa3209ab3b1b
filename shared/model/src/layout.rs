//! How the numbers of a weight matrix lie in memory.

use burn::tensor::Device;
use edgeprompt_kernels::{PANEL_WIDTH, Panels};

use crate::linear::is_cpu;

/// Where the numbers of a matrix `[depth, width]` are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) order: Order,
    /// Lines of the matrix.
    pub(crate) depth: usize,
    /// Columns of the matrix.
    pub(crate) width: usize,
}

/// What lies side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Whole lines, as burn multiplies and trains them.
    Lines,
    /// The lines of a panel, as the processor's kernels read them.
    Panels,
}

impl Layout {
    /// Whole lines.
    pub(crate) const fn lines([depth, width]: [usize; 2]) -> Self {
        Self {
            order: Order::Lines,
            depth,
            width,
        }
    }

    /// What a device multiplies fastest, and on the processor in an order that does not depend on how
    /// many rows there are. Not panels of which more than half would be filled up: a file is not to take
    /// many times its own size in memory.
    pub(crate) fn fastest(device: &Device, [depth, width]: [usize; 2]) -> Self {
        let filling = width.next_multiple_of(PANEL_WIDTH) - width;
        let fits_panels = filling <= width;
        Self {
            order: match is_cpu(device) && fits_panels {
                true => Order::Panels,
                false => Order::Lines,
            },
            depth,
            width,
        }
    }

    /// The shape of the tensor that holds the numbers.
    pub(crate) const fn tensor_shape(&self) -> [usize; 2] {
        match self.order {
            Order::Lines => [self.depth, self.width],
            Order::Panels => {
                let len = Panels::len_of([self.depth, self.width]);
                [len / PANEL_WIDTH, PANEL_WIDTH]
            }
        }
    }

    /// Where a number is, and how many columns from it on lie side by side.
    pub(crate) const fn place(&self, line: usize, column: usize) -> (usize, usize) {
        match self.order {
            Order::Lines => (line * self.width + column, self.width - column),
            Order::Panels => (
                Panels::place_of(self.depth, [line, column]),
                PANEL_WIDTH - column % PANEL_WIDTH,
            ),
        }
    }

    /// Writes numbers to consecutive columns of a line.
    ///
    /// # Panics
    /// If they are more than columns, or `target` is not of this layout.
    pub(crate) fn put(
        &self,
        target: &mut [f32],
        (line, column): (usize, usize),
        numbers: impl ExactSizeIterator<Item = f32>,
    ) {
        let end = column + numbers.len();
        assert!(line < self.depth && end <= self.width, "the numbers fit");
        let mut numbers = numbers;
        let mut column = column;
        while column < end {
            let (start, side_by_side) = self.place(line, column);
            let count = side_by_side.min(end - column);
            for (place, number) in target[start..start + count].iter_mut().zip(&mut numbers) {
                *place = number;
            }
            column += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_take_at_most_as_much_again() {
        for width in 1..1000 {
            let layout = Layout::fastest(&Device::flex(), [3, width]);
            let [lines, columns] = layout.tensor_shape();
            assert!(lines * columns <= 3 * width * 2, "{width} columns");
        }
        let order = |width| Layout::fastest(&Device::flex(), [3, width]).order;
        assert_eq!((order(32), order(31)), (Order::Panels, Order::Lines));
    }

    #[test]
    fn a_panel_has_its_lines_one_after_the_other() {
        let (depth, width) = (3, 150);
        let layout = Layout {
            order: Order::Panels,
            depth,
            width,
        };
        for (line, column) in (0..depth).flat_map(|line| (0..width).map(move |it| (line, it))) {
            let (panel, within) = (column / 64, column % 64);
            let place = panel * depth * 64 + line * 64 + within;
            assert_eq!(layout.place(line, column), (place, 64 - within));
        }
        assert_eq!(layout.tensor_shape(), [3 * depth, 64]);
        let lines = Layout::lines([depth, width]);
        assert_eq!(lines.place(2, 10), (2 * width + 10, width - 10));
        assert_eq!(lines.tensor_shape(), [depth, width]);
    }

    #[test]
    fn numbers_that_were_put_are_found_at_their_places() {
        for order in [Order::Lines, Order::Panels] {
            let layout = Layout {
                order,
                depth: 3,
                width: 150,
            };
            let [lines, columns] = layout.tensor_shape();
            let mut target = vec![-1.0; lines * columns];
            for line in 0..3u8 {
                let number = |column: u8| 1000.0 * f32::from(line) + f32::from(column);
                layout.put(&mut target, (line.into(), 0), (0..70).map(number));
                layout.put(&mut target, (line.into(), 70), (70..150).map(number));
            }
            for line in 0..3u8 {
                for column in 0..150u8 {
                    let (place, side_by_side) = layout.place(line.into(), column.into());
                    let expected = 1000.0 * f32::from(line) + f32::from(column);
                    assert_eq!(target[place], expected);
                    assert!(usize::from(column) + side_by_side <= 192);
                }
            }
        }
    }
}
