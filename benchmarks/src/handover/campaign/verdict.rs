//! What an answer came to, and whether it may. Pure.

use std::time::Duration;

use serde::Serialize;

/// A time in which an edge was dead, since the campaign began; without an end it still is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dead {
    pub(super) since: Duration,
    pub(super) until: Option<Duration>,
}

impl Dead {
    fn overlap(self, other: Self) -> Option<Self> {
        let since = self.since.max(other.since);
        let until = match (self.until, other.until) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        until
            .is_none_or(|until| since <= until)
            .then_some(Self { since, until })
    }
}

/// Whether all of these edges were dead at once, some time between two moments.
pub(super) fn were_dead_at_once(edges: &[Vec<Dead>], from: Duration, to: Duration) -> bool {
    let whole = Dead {
        since: from,
        until: Some(to),
    };
    let at_once = edges.iter().fold(vec![whole], |at_once, edge| {
        let overlaps = |all: &Dead| {
            let all = *all;
            edge.iter().filter_map(move |dead| all.overlap(*dead))
        };
        at_once.iter().flat_map(overlaps).collect()
    });
    !edges.is_empty() && !at_once.is_empty()
}

/// How a user's client lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Client {
    /// It goes where the session goes.
    Follows,
    /// It stays on its connection.
    Plain,
}

/// What one user heard.
#[derive(Clone, Debug)]
pub(super) struct Heard<'a> {
    pub(super) text: &'a str,
    /// Whether it was told that this is all.
    pub(super) is_whole: bool,
    /// Whether every edge that could go on with it was dead at once.
    pub(super) may_fail: bool,
}

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// As without moves.
    Same,
    /// An error, with the text so far, where nothing else could be.
    Lost,
    /// Another text, or a text so far that is another.
    Different,
    /// An error although somebody could have gone on.
    Failed,
}

impl Outcome {
    /// Beside the text of an answer that nobody moves.
    pub(super) fn of(heard: &Heard<'_>, expected: &str) -> Self {
        match heard {
            Heard {
                is_whole: true,
                text,
                ..
            } if *text == expected => Self::Same,
            Heard { is_whole: true, .. } => Self::Different,
            Heard { text, .. } if !expected.starts_with(text) => Self::Different,
            Heard { may_fail: true, .. } => Self::Lost,
            Heard { .. } => Self::Failed,
        }
    }

    /// Whether it must not be.
    pub(super) const fn is_violation(self) -> bool {
        matches!(self, Self::Different | Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(since: u64, until: u64) -> Dead {
        Dead {
            since: Duration::from_secs(since),
            until: (until > 0).then(|| Duration::from_secs(until)),
        }
    }

    #[test]
    fn edges_are_dead_at_once_if_their_times_meet_while_the_user_asks() {
        let check = |edges: &[Vec<Dead>], expected: bool| {
            let (from, to) = (Duration::from_secs(10), Duration::from_secs(20));
            assert_eq!(were_dead_at_once(edges, from, to), expected, "{edges:?}");
        };
        check(&[], false);
        check(&[vec![dead(12, 13)]], true);
        check(&[vec![dead(5, 0)]], true);
        check(&[vec![dead(1, 9), dead(21, 0)]], false);
        check(&[vec![dead(12, 15)], vec![dead(14, 16)]], true);
        check(&[vec![dead(12, 13)], vec![dead(14, 16)]], false);
        check(&[vec![dead(12, 13), dead(15, 16)], vec![dead(14, 0)]], true);
        check(&[vec![dead(12, 13)], vec![]], false);
    }

    #[test]
    fn only_the_same_text_or_a_clear_end_is_right() {
        let of = |text: &str, is_whole, may_fail| {
            let heard = Heard {
                text,
                is_whole,
                may_fail,
            };
            Outcome::of(&heard, "abc")
        };
        assert_eq!(of("abc", true, false), Outcome::Same);
        assert_eq!(of("ab", true, true), Outcome::Different);
        assert_eq!(of("ab", false, true), Outcome::Lost);
        assert_eq!(of("ab", false, false), Outcome::Failed);
        assert_eq!(of("b", false, true), Outcome::Different);
        assert_eq!(of("abcd", false, true), Outcome::Different);
    }
}
