//! Damage to a file: reproducible from a seed, done in place and undone.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A small generator of numbers (SplitMix64): the same everywhere from the same seed.
pub(crate) struct Numbers {
    state: u64,
}

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap();
        usize::try_from(self.next() % end).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// What is done to a file.
enum Damage {
    /// Bytes written over others.
    Overwritten { offset: usize, bytes: Vec<u8> },
    /// Everything from here on cut off.
    Truncated { len: usize },
    /// Everything from an offset on replaced.
    Replaced { offset: usize, bytes: Vec<u8> },
}

/// A copy of a file that is damaged and repaired again and again.
pub(crate) struct Patient {
    file: File,
    original: Vec<u8>,
    /// Where damage is mostly done: what describes the rest.
    header_len: usize,
}

/// Numbers that lengths, counts and dimensions go wrong at.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    255,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX - 7,
    u64::MAX,
    1 << 40,
    100_000_000,
];
const TEXT_NUMBERS: [&str; 10] = [
    "0",
    "-1",
    "1e999",
    "18446744073709551615",
    "18446744073709551616",
    "4294967296",
    "0.5",
    "99999999999999999999999999",
    "null",
    "[[[[[[[[",
];

impl Patient {
    /// Copies `original` to `path`.
    pub(crate) fn new(path: &Path, original: Vec<u8>, header_len: usize) -> Self {
        std::fs::write(path, &original).unwrap();
        let file = OpenOptions::new().write(true).open(path).unwrap();
        Self {
            file,
            header_len: header_len.min(original.len()),
            original,
        }
    }

    /// Damages the file, runs `examine` and repairs it.
    pub(crate) fn damaged<T>(&mut self, numbers: &mut Numbers, examine: impl FnOnce() -> T) -> T {
        let damages: Vec<Damage> = match numbers.below(4) {
            0 => (0..=numbers.below(3))
                .map(|_| self.overwrite(numbers))
                .collect(),
            _ => vec![self.damage(numbers)],
        };
        let mut repairs = Vec::new();
        for damage in damages {
            repairs.push(self.apply(damage));
        }
        let result = examine();
        for offset in repairs {
            self.repair(offset);
        }
        result
    }

    fn offset(&self, numbers: &mut Numbers) -> usize {
        let header = numbers.below(5) < 4;
        numbers.below(if header {
            self.header_len
        } else {
            self.original.len()
        })
    }

    fn damage(&self, numbers: &mut Numbers) -> Damage {
        match numbers.below(20) {
            0 => Damage::Truncated {
                len: self.offset(numbers),
            },
            1 | 2 => self.splice(numbers),
            3..=5 => self.text_number(numbers),
            _ => self.overwrite(numbers),
        }
    }

    fn overwrite(&self, numbers: &mut Numbers) -> Damage {
        let offset = self.offset(numbers);
        let bytes = match numbers.below(5) {
            0 => vec![self.original[offset] ^ (1 << numbers.below(8))],
            1 => vec![numbers.byte()],
            2 => numbers.one_of(&NUMBERS).to_le_bytes().to_vec(),
            3 => numbers.one_of(&NUMBERS).to_le_bytes()[..4].to_vec(),
            _ => {
                // Bytes of another place, so that they look right.
                let from = self.offset(numbers);
                let len = 1 + numbers.below(24);
                self.original[from..self.original.len().min(from + len)].to_vec()
            }
        };
        Damage::Overwritten {
            bytes: bytes[..bytes.len().min(self.original.len() - offset)].to_vec(),
            offset,
        }
    }

    /// Bytes put in, taken out or doubled; everything after them moves.
    fn splice(&self, numbers: &mut Numbers) -> Damage {
        let offset = self.offset(numbers);
        let taken = numbers.below(16).min(self.original.len() - offset);
        let from = self.offset(numbers);
        let put = self.original[from..].iter().take(numbers.below(64));
        let rest = &self.original[offset + taken..];
        Damage::Replaced {
            offset,
            bytes: put.chain(rest).copied().collect(),
        }
    }

    /// The next number written in digits becomes another one.
    fn text_number(&self, numbers: &mut Numbers) -> Damage {
        let start = self.offset(numbers);
        let digit = |byte: &u8| byte.is_ascii_digit();
        let Some(at) = self.original[start..self.header_len.max(start)]
            .iter()
            .position(digit)
        else {
            return self.overwrite(numbers);
        };
        let offset = start + at;
        let number = &self.original[offset..];
        let digits = number.iter().take_while(|byte| digit(byte)).count();
        let text = numbers.one_of(&TEXT_NUMBERS);
        let bytes = text
            .bytes()
            .chain(number[digits..].iter().copied())
            .collect();
        Damage::Replaced { offset, bytes }
    }

    /// Gives back where the file has to be written again.
    fn apply(&mut self, damage: Damage) -> std::ops::Range<usize> {
        match damage {
            Damage::Overwritten { offset, bytes } => {
                self.write(offset, &bytes);
                offset..offset + bytes.len()
            }
            Damage::Truncated { len } => {
                self.file.set_len(u64::try_from(len).unwrap()).unwrap();
                len..self.original.len()
            }
            Damage::Replaced { offset, bytes } => {
                self.write(offset, &bytes);
                let end = u64::try_from(offset + bytes.len()).unwrap();
                self.file.set_len(end).unwrap();
                offset..self.original.len()
            }
        }
    }

    fn repair(&mut self, range: std::ops::Range<usize>) {
        let original = self.original[range.clone()].to_vec();
        self.write(range.start, &original);
        let len = u64::try_from(self.original.len()).unwrap();
        self.file.set_len(len).unwrap();
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let offset = u64::try_from(offset).unwrap();
        self.file.seek(SeekFrom::Start(offset)).unwrap();
        self.file.write_all(bytes).unwrap();
    }
}

/// Names the damage that a panic happened at.
pub(crate) struct Witness {
    pub(crate) file: PathBuf,
    pub(crate) seed: u64,
    pub(crate) damage: u64,
}

impl Drop for Witness {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (file, seed, damage) = (self.file.display(), self.seed, self.damage);
            eprintln!("{file}: damage {damage} of seed {seed}");
        }
    }
}
