//! Jitter as a function of time: how much longer than its least delay a direction takes at a moment.
//!
//! It wanders between random values rather than being drawn for each packet: drawn for each, the
//! packets of a busy link, which stay in order, would all take as long as the unluckiest recent one.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::profile::DirectionSeed;

/// How often a new value is drawn: about the time over which a radio scheduler or a contended
/// medium changes its mind, and longer than the jitter of the named links, so that jitter mostly
/// stretches and squeezes a train of packets and rarely holds it up.
const PERIOD: Duration = Duration::from_millis(20);

/// Sets the numbers of jitter apart from those of loss, which share the seed.
const JITTER_STREAMS: u64 = 1 << 32;

/// The jitter of one direction.
#[derive(Clone, Debug)]
pub(super) struct Jitter {
    max: Duration,
    rng: ChaCha8Rng,
    /// The last piece looked up; times mostly rise slowly.
    piece: Piece,
}

/// The jitter goes straight from one value to another within a period.
#[derive(Clone, Copy, Debug)]
struct Piece {
    index: u128,
    from: f64,
    to: f64,
}

impl Jitter {
    pub(super) fn new(max: Duration, seed: DirectionSeed) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.seed);
        rng.set_stream(JITTER_STREAMS + seed.stream);
        let piece = piece_at(&mut rng, 0);
        Self { max, rng, piece }
    }

    /// Between nothing and the maximum.
    pub(super) fn at(&mut self, time: Duration) -> Duration {
        let index = time.as_nanos() / PERIOD.as_nanos();
        if index != self.piece.index {
            self.piece = piece_at(&mut self.rng, index);
        }
        let into = Duration::from_nanos_u128(time.as_nanos() % PERIOD.as_nanos());
        let progress = into.div_duration_f64(PERIOD);
        let Piece { from, to, .. } = self.piece;
        self.max.mul_f64(from + (to - from) * progress)
    }
}

/// The piece of any period, from the place of its two values in the stream of random numbers.
fn piece_at(rng: &mut ChaCha8Rng, index: u128) -> Piece {
    let value_words = 2;
    rng.set_word_pos(index * value_words);
    let (from, to) = (rng.random::<f64>(), rng.random::<f64>());
    Piece { index, from, to }
}
