//! What there is to do for one user: tokens that can be prefilled or sent, and from when on.
//!
//! Keys and values are only ever appended, so what a finished block holds is final while the source
//! still decodes: it can be sent before the user leaves.

use super::scenario::{Rhythm, Scenario, User};

/// Most groups of blocks that are planned one by one for a user who is still decoding; more are put
/// together, each group from when its last token is there.
const LATE_GROUPS_MAX: u32 = 4;

/// When work for a user may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// When it leaves.
    AtLeaving,
    /// When it is known that it will.
    WhenKnown,
}

/// Tokens of which the last one is there from a moment on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Late {
    pub(crate) there_at_s: f64,
    /// Position after the last one.
    pub(crate) end: u32,
}

/// A user's work.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Work {
    pub(crate) leaves_at_s: f64,
    /// When it may begin.
    pub(crate) begins_at_s: f64,
    pub(crate) context_len: u32,
    pub(crate) past_len: u32,
    /// Tokens whose ids are known when it begins.
    pub(crate) known_len: u32,
    /// Tokens in blocks that are finished when it begins.
    pub(crate) finished_len: u32,
    /// What comes after those.
    pub(crate) late: Vec<Late>,
}

impl Work {
    /// Of all users in the order in which they leave.
    pub(crate) fn of_all(scenario: &Scenario, begin: Begin) -> Vec<Self> {
        let users = scenario.leaving();
        users
            .map(|user| Self::of(user, scenario.rhythm(), begin))
            .collect()
    }

    /// Of a user.
    pub(crate) fn of(user: &User, rhythm: Rhythm, begin: Begin) -> Self {
        let context_len = user.context_len;
        let mut work = Self {
            leaves_at_s: user.leaves_at_s,
            begins_at_s: user.leaves_at_s,
            context_len,
            past_len: user.past_len,
            known_len: context_len,
            finished_len: context_len,
            late: Vec::new(),
        };
        if begin == Begin::AtLeaving || user.known_at_s >= user.leaves_at_s {
            return work;
        }
        let decodes_for_s = user.leaves_at_s - user.known_at_s;
        let decoded = at_most(decodes_for_s * user.decode_tokens_per_s, context_len);
        let block_len = rhythm.block_len;
        work.begins_at_s = user.known_at_s;
        work.known_len = context_len - decoded;
        if decoded > 0 {
            work.finished_len = work.known_len / block_len * block_len;
            work.late = late_groups(user, &work, block_len);
        }
        work
    }

    /// What is to be sent when `prefill_len` tokens are prefilled: positions after the last one of
    /// each part, and from when on.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Late> {
        let at_once = Late {
            there_at_s: self.begins_at_s,
            end: self.finished_len,
        };
        std::iter::once(at_once).chain(self.late.iter().copied())
    }
}

/// The blocks that are finished while the source decodes, in few groups; the rest when the user leaves.
fn late_groups(user: &User, work: &Work, block_len: u32) -> Vec<Late> {
    let last_end = user.context_len / block_len * block_len;
    let block_count = (last_end - work.finished_len) / block_len;
    let group_len = block_count.div_ceil(LATE_GROUPS_MAX).max(1) * block_len;
    let mut groups = Vec::new();
    let mut end = work.finished_len;
    while end < last_end {
        end = end.saturating_add(group_len).min(last_end);
        let decoded = f64::from(end.saturating_sub(work.known_len));
        let there_at_s = user.known_at_s + decoded / user.decode_tokens_per_s;
        groups.push(Late {
            there_at_s: there_at_s.min(user.leaves_at_s),
            end,
        });
    }
    if user.context_len > last_end {
        groups.push(Late {
            there_at_s: user.leaves_at_s,
            end: user.context_len,
        });
    }
    groups
}

/// A count of tokens that is not negative, rounded down, and at most so large.
fn at_most(tokens: f64, max: u32) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float that is too large becomes the largest number"
    )]
    let tokens = tokens.max(0.0) as u32;
    tokens.min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RHYTHM: Rhythm = Rhythm {
        cycle_s: 0.0,
        block_len: 16,
    };

    fn user() -> User {
        User {
            leaves_at_s: 3.0,
            known_at_s: 1.0,
            context_len: 100,
            past_len: 0,
            decode_tokens_per_s: 20.0,
        }
    }

    #[test]
    fn blocks_are_there_when_their_last_token_is() {
        let work = Work::of(&user(), RHYTHM, Begin::WhenKnown);
        assert_eq!((work.known_len, work.finished_len), (60, 48));
        let late = |there_at_s, end| Late { there_at_s, end };
        let expected = [late(1.2, 64), late(2.0, 80), late(2.8, 96), late(3.0, 100)];
        assert_eq!(work.late, expected);
    }

    #[test]
    fn many_blocks_come_in_few_groups_never_before_they_are_there() {
        let user = User {
            context_len: 4000,
            decode_tokens_per_s: 1000.0,
            ..user()
        };
        let work = Work::of(&user, RHYTHM, Begin::WhenKnown);
        assert_eq!(work.known_len, 2000);
        assert!(work.late.len() <= 5, "{:?}", work.late);
        assert_eq!(work.late.last().unwrap().end, 4000);
        for late in &work.late {
            let decoded = (late.there_at_s - 1.0) * 1000.0;
            assert!(f64::from(late.end - 2000) <= decoded + 1e-6, "{late:?}");
        }
    }

    #[test]
    fn nothing_is_late_for_a_user_who_left_or_does_not_decode() {
        let left = Work::of(&user(), RHYTHM, Begin::AtLeaving);
        assert_eq!((left.begins_at_s, left.finished_len), (3.0, 100));
        assert!(left.late.is_empty());
        let idle = User {
            decode_tokens_per_s: 0.0,
            ..user()
        };
        let idle = Work::of(&idle, RHYTHM, Begin::WhenKnown);
        assert_eq!((idle.begins_at_s, idle.finished_len), (1.0, 100));
        assert!(idle.late.is_empty());
    }
}
