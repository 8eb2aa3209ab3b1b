//! What modes are worth beside each other: ratios of the same requests, group by group or round by round,
//! and what they are wanted to be. Pure.

use serde::Serialize;

use super::messages::Mode;
use super::outcome::{Fill, Series};
use crate::statistics::Spread;

/// At this length of the cloud prompt EDGEPROMPT is wanted to be so much faster than the others.
const WANTED_AT: usize = 1024;

/// A ratio, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Claim {
    /// What is divided by what, where.
    pub(super) what: String,
    /// Over the groups or rounds.
    pub(super) ratio: Spread,
    /// If anything is.
    pub(super) wanted: Option<Bound>,
    /// Whether the median is as wanted.
    pub(super) holds: Option<bool>,
}

/// What a ratio is wanted to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Claim {
    fn new(what: String, ratio: Spread, wanted: Option<Bound>) -> Self {
        let holds = wanted.map(|wanted| match wanted {
            Bound::AtLeast(least) => ratio.median >= least,
            Bound::AtMost(most) => ratio.median <= most,
        });
        Self {
            what,
            ratio,
            wanted,
            holds,
        }
    }

    /// In a line.
    pub(super) fn in_words(&self) -> String {
        let Spread { median, min, max } = self.ratio;
        let (wanted, holds) = match (self.wanted, self.holds) {
            (None, _) | (_, None) => (String::new(), ""),
            (Some(bound), Some(holds)) => {
                let wanted = match bound {
                    Bound::AtLeast(least) => format!(", wanted at least {least:.2}"),
                    Bound::AtMost(most) => format!(", wanted at most {most:.2}"),
                };
                (wanted, if holds { ": yes" } else { ": no" })
            }
        };
        let what = &self.what;
        format!("{what}: {median:.2} ({min:.2} to {max:.2}){wanted}{holds}\n")
    }
}

/// Of groups: EDGEPROMPT's throughput beside each other mode's at each length, and what remains of it at the
/// longest cloud prompt.
pub(super) fn of_groups(series: &[Series]) -> Vec<Claim> {
    let ours = || series.iter().filter(|it| it.mode == Mode::Edgeprompt);
    let beside = ours().flat_map(|ours| {
        let same_len = |it: &&Series| it.cloud_len == ours.cloud_len;
        let others = series.iter().filter(same_len);
        others.filter_map(|other| faster(ours, other))
    });
    let by_len = |it: &&Series| it.cloud_len;
    let (shortest, longest) = (ours().min_by_key(by_len), ours().max_by_key(by_len));
    let kept = shortest.zip(longest).and_then(|(shortest, longest)| {
        let (from, to) = (shortest.cloud_len, longest.cloud_len);
        let ratio = ratios(longest, shortest, |it, group| {
            throughput(it, group, Fill::LeftOut)
        })?;
        let wanted = ((from, to) == (64, 2048)).then_some(Bound::AtLeast(0.9));
        let what = format!("edgeprompt's tokens/s with cloud prompts of {to} / of {from}");
        (from < to).then(|| Claim::new(what, ratio, wanted))
    });
    beside.chain(kept).collect()
}

fn faster(ours: &Series, other: &Series) -> Option<Claim> {
    let (fill, said, least) = match other.mode {
        Mode::Paged => (Fill::LeftOut, "", Some(1.5)),
        Mode::PagedPc => (Fill::LeftOut, "", Some(1.1)),
        Mode::Relay => (Fill::Counted, " with its fill", Some(1.0)),
        Mode::Concat => (Fill::LeftOut, "", None),
        Mode::Edgeprompt => return None,
    };
    let (len, mode) = (ours.cloud_len, other.mode);
    let ratio = ratios(ours, other, |it, group| throughput(it, group, fill))?;
    let what = format!("edgeprompt's tokens/s / {mode}'s{said}, cloud prompt of {len}");
    let wanted = least.filter(|_| len == WANTED_AT).map(Bound::AtLeast);
    Some(Claim::new(what, ratio, wanted))
}

/// Something of one round.
type Measure = fn(&Series, usize) -> f64;

/// Of requests that come as they please: EDGEPROMPT's times beside RELAY's at each rate.
pub(super) fn of_rates(series: &[Series]) -> Vec<Claim> {
    let ours = series.iter().filter(|it| it.mode == Mode::Edgeprompt);
    let pairs = ours.filter_map(|ours| {
        let mut others = series.iter();
        let is_it = |it: &&Series| it.mode == Mode::Relay && it.request_rate == ours.request_rate;
        Some((ours, others.find(is_it)?))
    });
    let claims = pairs.flat_map(|(ours, relay)| {
        let rate = ours.request_rate.unwrap_or_default();
        let measures: [(&str, Measure); 2] = [
            ("p99 TTFT", |it, round| {
                it.round(round).ttft_ms().percentile(99.0)
            }),
            ("mean s/token", |it, round| {
                it.round(round).seconds_per_token().mean()
            }),
        ];
        measures.into_iter().filter_map(move |(name, measure)| {
            let ratio = ratios(ours, relay, measure)?;
            let what = format!("edgeprompt's {name} / relay's, {rate} requests/s");
            Some(Claim::new(what, ratio, Some(Bound::AtMost(1.0))))
        })
    });
    claims.collect()
}

/// One series' measure over the other's, for what both have answered.
fn ratios(
    ours: &Series,
    other: &Series,
    measure: impl Fn(&Series, usize) -> f64,
) -> Option<Spread> {
    let count = ours.groups.len().min(other.groups.len());
    let each = (0..count).map(|index| measure(ours, index) / measure(other, index));
    Spread::of_some(each.map(Some))
}

/// Of one group, with its part of what the mode took beforehand.
#[expect(clippy::cast_precision_loss, reason = "counts of tokens and groups")]
fn throughput(series: &Series, group: usize, fill: Fill) -> f64 {
    let fill_s = match fill {
        Fill::Counted => series.fill_s / series.groups.len() as f64,
        Fill::LeftOut => 0.0,
    };
    let group = &series.groups[group];
    group.output_tokens as f64 / (group.seconds + fill_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::messages::TokensSpec;
    use crate::sharegpt::outcome::GroupOutcome;

    fn series(mode: Mode, len: usize, seconds: &[f64]) -> Series {
        let cloud = TokensSpec {
            seed: 0,
            ordinal: 0,
            len,
        };
        let group = |seconds: &f64| GroupOutcome {
            seconds: *seconds,
            output_tokens: 100,
            kv_bytes_wire: 0,
            ttft_s: vec![0.1, *seconds],
            e2e_s: vec![*seconds; 2],
            output_lens: vec![50; 2],
            digests: Vec::new(),
        };
        Series {
            groups: seconds.iter().map(group).collect(),
            ..Series::new(mode, cloud, 0.0)
        }
    }

    #[test]
    fn groups_are_compared_one_by_one() {
        let ours = series(Mode::Edgeprompt, 1024, &[1.0, 2.0]);
        let paged = series(Mode::Paged, 1024, &[2.0, 5.0]);
        let mut relay = series(Mode::Relay, 1024, &[1.0, 1.0]);
        let found = of_groups(&[paged.clone(), ours.clone(), relay.clone()]);
        let [first, second] = &found[..] else {
            panic!("{found:?}")
        };
        let (median, min, max) = (2.25, 2.0, 2.5);
        assert_eq!(first.ratio, Spread { median, min, max });
        assert_eq!(first.holds, Some(true));
        assert!(
            first
                .in_words()
                .ends_with("2.25 (2.00 to 2.50), wanted at least 1.50: yes\n")
        );
        assert_eq!(second.holds, Some(false), "half as fast in one group");
        // Two seconds for both groups.
        relay.fill_s = 2.0;
        let with_fill = of_groups(&[ours, relay]);
        assert_eq!(
            (with_fill[0].ratio.min, with_fill[0].holds),
            (1.0, Some(true))
        );
    }

    #[test]
    fn nothing_is_wanted_where_nothing_was_promised() {
        let ours = [64, 512].map(|len| series(Mode::Edgeprompt, len, &[1.0 + len as f64]));
        let paged = series(Mode::Paged, 64, &[130.0]);
        let found = of_groups(&[&ours[..], &[paged]].concat());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|it| it.holds.is_none()));
        assert!((found[1].ratio.median - 65.0 / 513.0).abs() < 1e-9);
        let far = [64, 2048].map(|len| series(Mode::Edgeprompt, len, &[1.0]));
        assert_eq!(of_groups(&far)[0].holds, Some(true));
    }

    #[test]
    fn times_of_requests_that_come_as_they_please_are_compared_at_each_rate() {
        let at = |mode, rate, seconds: &[f64]| Series {
            request_rate: Some(rate),
            ..series(mode, 700, seconds)
        };
        let found = of_rates(&[
            at(Mode::Relay, 1.0, &[2.0, 4.0]),
            at(Mode::Edgeprompt, 1.0, &[1.0, 5.0]),
            at(Mode::Edgeprompt, 2.0, &[1.0]),
        ]);
        assert_eq!(found.len(), 2, "nothing to compare with at two: {found:?}");
        let per_token = &found[1];
        assert_eq!((per_token.ratio.min, per_token.ratio.max), (0.5, 1.25));
        assert_eq!(per_token.holds, Some(true));
        assert!(found[0].ratio.max > 1.2 && found[0].what.contains("1 requests/s"));
    }
}
