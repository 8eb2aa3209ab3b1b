//! CPython's `random`, as far as vLLM's loader uses it, so that a seed picks the requests that it
//! picks for `vllm bench serve`: MT19937 seeded with `init_by_array`, `shuffle` and `choice`.

/// Words of the generator's state.
const N: usize = 624;
const M: usize = 397;

/// Python's generator after `random.seed(seed)`.
pub(crate) struct PythonRandom {
    state: Vec<u32>,
    /// The next word of the state to give out.
    next: usize,
}

impl PythonRandom {
    /// As `random.seed(seed)` of a whole number.
    pub(crate) fn new(seed: u64) -> Self {
        let (low, high) = (lower_half(seed), lower_half(seed >> 32));
        let key: &[u32] = if high == 0 { &[low] } else { &[low, high] };
        Self {
            state: init_by_array(key),
            next: N,
        }
    }

    /// As `random.getrandbits(32)`.
    fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        let state = &mut self.state;
        for i in 0..N {
            let y = (state[i] & 0x8000_0000) | (state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            state[i] = state[(i + M) % N] ^ (y >> 1) ^ odd;
        }
    }

    /// A number below `bound`, as `random._randbelow`: so many bits as the bound has, again and
    /// again until they are below it.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "there is no number below 0");
        let shift = bound.leading_zeros();
        loop {
            let drawn = self.next_u32() >> shift;
            if drawn < bound {
                return drawn;
            }
        }
    }

    /// As `random.shuffle`.
    pub(crate) fn shuffle(&mut self, items: &mut [u32]) {
        let count = u32::try_from(items.len()).unwrap_or(u32::MAX);
        for last in (1..count).rev() {
            let other = self.below(last + 1);
            items.swap(last as usize, other as usize);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
const fn lower_half(number: u64) -> u32 {
    number as u32
}

/// `init_by_array` of Matsumoto and Nishimura's reference code, which CPython has.
fn init_by_array(key: &[u32]) -> Vec<u32> {
    let mut state = init_genrand(19_650_218);
    let mixed = |state: &[u32], i: usize, factor: u32| {
        state[i] ^ (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(factor)
    };
    let (mut i, mut number) = (1, 0u32);
    for j in (0..key.len()).cycle().take(N.max(key.len())) {
        number = if j == 0 { 0 } else { number + 1 };
        let value = mixed(&state, i, 1_664_525);
        state[i] = value.wrapping_add(key[j]).wrapping_add(number);
        i = after(&mut state, i);
    }
    for _ in 1..N {
        let index = u32::try_from(i).unwrap_or_default();
        state[i] = mixed(&state, i, 1_566_083_941).wrapping_sub(index);
        i = after(&mut state, i);
    }
    state[0] = 0x8000_0000;
    state
}

/// The next place to fill, going round.
fn after(state: &mut [u32], i: usize) -> usize {
    if i + 1 < N {
        return i + 1;
    }
    state[0] = state[N - 1];
    1
}

fn init_genrand(seed: u32) -> Vec<u32> {
    let next = |(last, index): &(u32, u32)| {
        let mixed = (last ^ (last >> 30)).wrapping_mul(1_812_433_253);
        let index = index + 1;
        Some((mixed.wrapping_add(index), index))
    };
    let states = std::iter::successors(Some((seed, 0)), next);
    states.take(N).map(|(word, _)| word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(seed: u64) -> [u32; 4] {
        let mut random = PythonRandom::new(seed);
        std::array::from_fn(|_| random.next_u32())
    }

    // Recorded from CPython 3.11: `random.seed(S); [random.getrandbits(32) for _ in range(4)]`.
    #[test]
    fn the_same_seed_gives_pythons_words() {
        assert_eq!(
            words(0),
            [3_626_764_237, 1_654_615_998, 3_255_389_356, 3_823_568_514]
        );
        assert_eq!(
            words(1),
            [577_090_037, 2_444_712_010, 3_639_700_191, 3_445_702_192]
        );
        assert_eq!(
            words(12_345_678_901_234),
            [107_551_873, 2_403_399_316, 624_174_316, 3_544_851_618]
        );
    }

    // `random.seed(7); x = list(range(12)); random.shuffle(x)`, then five `random.choice(x)`.
    #[test]
    fn shuffling_and_choosing_are_pythons() {
        let mut random = PythonRandom::new(7);
        let mut items: Vec<u32> = (0..12).collect();
        random.shuffle(&mut items);
        assert_eq!(items, [7, 11, 3, 10, 8, 4, 9, 1, 0, 6, 2, 5]);
        let chosen: Vec<u32> = (0..5).map(|_| items[random.below(12) as usize]).collect();
        assert_eq!(chosen, [0, 10, 7, 11, 9]);
    }

    // `random.seed(0)`, the sum of 2000 of `random.getrandbits(32)`: past three twists.
    #[test]
    fn the_state_goes_round_as_pythons() {
        let mut random = PythonRandom::new(0);
        let sum: u64 = (0..2000).map(|_| u64::from(random.next_u32())).sum();
        assert_eq!(sum, 4_245_627_930_642);
    }
}
