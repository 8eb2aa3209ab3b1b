//! The number formats that weights are stored in, and how each is widened to f32.

use std::fmt;

use half::{bf16, f16};

/// A number format that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberFormat {
    F32,
    F16,
    Bf16,
    /// Blocks of 32 signed bytes that share an f16 scale.
    Q8_0,
}

/// The number format of a tensor as its file declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeclaredFormat {
    Read(NumberFormat),
    /// Another one, by name: harmless until a tensor of it is needed.
    Unread(String),
}

/// Numbers in one block of [`NumberFormat::Q8_0`].
pub(crate) const Q8_0_BLOCK_LEN: usize = 32;
/// Bytes of one block of [`NumberFormat::Q8_0`]: the scale, then the numbers.
pub(crate) const Q8_0_BLOCK_BYTES: usize = 2 + Q8_0_BLOCK_LEN;

impl fmt::Display for NumberFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
        })
    }
}

impl fmt::Display for DeclaredFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(format) => format.fmt(f),
            Self::Unread(name) => f.write_str(name),
        }
    }
}

impl NumberFormat {
    /// Bytes of a row of `row_len` numbers; `None` if there is no such row.
    pub(crate) fn row_bytes(self, row_len: usize) -> Option<usize> {
        match self {
            Self::F32 => row_len.checked_mul(4),
            Self::F16 | Self::Bf16 => row_len.checked_mul(2),
            Self::Q8_0 if row_len.is_multiple_of(Q8_0_BLOCK_LEN) => {
                (row_len / Q8_0_BLOCK_LEN).checked_mul(Q8_0_BLOCK_BYTES)
            }
            Self::Q8_0 => None,
        }
    }

    /// Widens stored numbers to as many f32.
    pub(crate) fn widen(self, bytes: &[u8], numbers: &mut [f32]) {
        match self {
            Self::F32 => each(bytes, numbers, f32::from_le_bytes),
            Self::F16 => each(bytes, numbers, |b| f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => each(bytes, numbers, |b| bf16::from_le_bytes(b).to_f32()),
            Self::Q8_0 => {
                let blocks = bytes.as_chunks::<Q8_0_BLOCK_BYTES>().0;
                for (block, numbers) in blocks.iter().zip(numbers.chunks_mut(Q8_0_BLOCK_LEN)) {
                    let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
                    for (number, byte) in numbers.iter_mut().zip(&block[2..]) {
                        *number = scale * f32::from(byte.cast_signed());
                    }
                }
            }
        }
    }
}

fn each<const N: usize>(bytes: &[u8], numbers: &mut [f32], widen: impl Fn([u8; N]) -> f32) {
    for (number, stored) in numbers.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *number = widen(*stored);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_formats_are_widened() {
        let halves = [1.5f32, -2.0].map(|n| f16::from_f32(n).to_le_bytes());
        let brains = [1.5f32, -2.0].map(|n| bf16::from_f32(n).to_le_bytes());
        for (format, stored) in [(NumberFormat::F16, halves), (NumberFormat::Bf16, brains)] {
            let mut numbers = [0.0; 2];
            format.widen(stored.as_flattened(), &mut numbers);
            assert_eq!(numbers, [1.5, -2.0]);
            assert_eq!(format.row_bytes(2), Some(4));
        }
    }

    #[test]
    fn q8_0_numbers_are_their_byte_times_the_scale_of_their_block() {
        let mut stored = Vec::new();
        for scale in [0.5f32, 0.25] {
            stored.extend(f16::from_f32(scale).to_le_bytes());
            stored.extend((0..32u8).map(|i| (i.cast_signed() - 16).cast_unsigned()));
        }
        let mut numbers = [0.0; 64];
        NumberFormat::Q8_0.widen(&stored, &mut numbers);
        assert_eq!((numbers[0], numbers[31]), (-8.0, 7.5));
        assert_eq!((numbers[32], numbers[63]), (-4.0, 3.75));
        assert_eq!(NumberFormat::Q8_0.row_bytes(64), Some(stored.len()));
        assert_eq!(NumberFormat::Q8_0.row_bytes(33), None);
    }
}
