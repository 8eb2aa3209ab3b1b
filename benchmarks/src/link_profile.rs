//! The link that a benchmark runs over: a named one, or the rates that somebody measured.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use edgeprompt_testkit::emulator::{BitRate, EmulatedLink, NamedLink, RateSchedule, RateStep};

/// What a trace says nothing about, it shares with this link: delay, jitter and loss.
const LIKE: NamedLink = NamedLink::FiveG;

/// Seconds that the last rate of a trace holds.
const LAST_STEP_S: f64 = 1.0;

/// A named link, or a file of lines of seconds and Mbit/s, which repeats for ever in the direction of
/// the edge.
///
/// # Errors
/// If it is neither; the line that is wrong is named.
pub(crate) fn read(profile: &str, seed: u64) -> Result<EmulatedLink> {
    if let Ok(named) = profile.parse::<NamedLink>() {
        return Ok(named.link(seed));
    }
    let text = std::fs::read_to_string(Path::new(profile)).with_context(|| {
        format!("{profile:?} is no link profile (lan, wifi, 5g, lte, 6g) and no file that is read")
    })?;
    let schedule = schedule(&text).with_context(|| format!("the trace {profile}"))?;
    let mut link = LIKE.link(seed);
    link.down = link.down.with_rate(schedule);
    Ok(link)
}

/// The steps of a file of lines of seconds and Mbit/s.
///
/// # Errors
/// If it is not read, or none; the line that is wrong is named.
pub(crate) fn trace(path: &Path) -> Result<Vec<RateStep>> {
    let unread = || format!("{} is not read", path.display());
    let text = std::fs::read_to_string(path).with_context(unread)?;
    steps(&text).with_context(|| format!("the trace {}", path.display()))
}

fn schedule(text: &str) -> Result<RateSchedule> {
    Ok(RateSchedule::repeating(&steps(text)?)?)
}

/// Steps of rate from lines of seconds and Mbit/s, in the order of time.
fn steps(text: &str) -> Result<Vec<RateStep>> {
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut words = line.split([' ', '\t', ',']).filter(|word| !word.is_empty());
        let (Some(seconds), Some(megabits)) = (words.next(), words.next()) else {
            if line.trim().is_empty() {
                continue;
            }
            bail!("line {}: seconds and Mbit/s are expected", index + 1);
        };
        let number = |word: &str| word.parse().ok().filter(|it: &f64| it.is_finite());
        let (Some(seconds), Some(megabits)) = (number(seconds), number(megabits)) else {
            ensure!(index == 0, "line {}: these are no numbers", index + 1);
            continue;
        };
        ensure!(megabits >= 0.0, "line {}: a rate is below 0", index + 1);
        let before = points.last().map_or(f64::NEG_INFINITY, |point| point.0);
        ensure!(seconds > before, "line {}: times must rise", index + 1);
        points.push((seconds, megabits));
    }
    let ends = points.iter().skip(1).map(|point| Some(point.0));
    let steps = points.iter().zip(ends.chain([None])).map(|(point, end)| {
        let (start, megabits) = *point;
        let lasts = end.map_or(LAST_STEP_S, |end| end - start);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float that is too large becomes the largest rate"
        )]
        let bits = (megabits * 1e6).round() as u64;
        Ok(RateStep {
            rate: BitRate::bits_per_second(bits),
            lasts: Duration::try_from_secs_f64(lasts)?,
        })
    });
    steps.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_becomes_steps() {
        let found = schedule("t Mbps\n0 100\n0.5\t300\n\n2, 0\n").unwrap();
        // 100 for half a second, 300 for one and a half, nothing for one.
        assert_eq!(found.period(), Duration::from_secs(3));
        assert_eq!(found.mean(), BitRate::bits_per_second(500_000_000 / 3));
    }

    #[test]
    fn a_trace_that_is_none_is_refused_by_its_line() {
        for (text, words) in [
            ("0 100\nx y\n", "line 2"),
            ("0 100\n0 200\n", "line 2: times must rise"),
            ("0 100\n1 -2\n", "line 2: a rate is below 0"),
            ("0 100\n1\n", "line 2: seconds and Mbit/s"),
            ("", "0 steps"),
        ] {
            let error = format!("{:#}", schedule(text).unwrap_err());
            assert!(error.contains(words), "{text:?}: {error}");
        }
        let error = read("no-such-link", 1).unwrap_err();
        assert!(format!("{error:#}").contains("lan, wifi, 5g, lte, 6g"));
        assert_eq!(read("wifi", 3).unwrap(), NamedLink::Wifi.link(3));
    }
}
