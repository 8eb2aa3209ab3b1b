//! Measured rates from trace files: one line for each step, its time in seconds and its rate in
//! Mbit/s, separated by blanks. The form of the Lumos5G traces.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::rate::{BitRate, RateSchedule, RateStep, ScheduleError};

/// Largest trace file that is read: what [`super::rate::RATE_STEPS_MAX`] lines need, generously.
const TRACE_BYTES_MAX: u64 = 64 << 20;

/// How long the last step lasts if there is no other to take the length of.
const LONE_STEP: Duration = Duration::from_secs(1);

/// Why a trace cannot be used. Says the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a trace, by its size.
    #[error("{}: {bytes} bytes; a trace has at most {TRACE_BYTES_MAX}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A line is not a step.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: LineProblem,
    },
    /// The lines are steps, but make no schedule.
    #[error("{}: {problem}", path.display())]
    Schedule {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        problem: ScheduleError,
    },
}

/// What is wrong with a line of a trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// There are not two values.
    #[error("{count} values; a line is a time in seconds and a rate in Mbit/s")]
    ValueCount {
        /// How many there are.
        count: usize,
    },
    /// The time is not a number.
    #[error("time {text:?} is not a decimal number of seconds")]
    Time {
        /// What is there.
        text: String,
    },
    /// The rate is not a number.
    #[error("rate {text:?} is not a decimal number of Mbit/s")]
    Rate {
        /// What is there.
        text: String,
    },
    /// The time is not later than that of the line before.
    #[error("time {text} s is not after the line before")]
    NotLater {
        /// The time.
        text: String,
    },
}

impl RateSchedule {
    /// Reads a trace file. Each rate holds until the next line's time, the last for as long as the
    /// one before it; then the trace repeats. The first line's time is the link's start.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn from_trace_file(path: &Path) -> Result<Self, TraceError> {
        let unreadable = |source| TraceError::Read {
            path: path.to_owned(),
            source,
        };
        let bytes = fs::metadata(path).map_err(unreadable)?.len();
        if bytes > TRACE_BYTES_MAX {
            let path = path.to_owned();
            return Err(TraceError::TooLarge { path, bytes });
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        Self::parse_trace(&text, path)
    }

    /// As [`RateSchedule::from_trace_file`], from a text; `path` is what errors name.
    ///
    /// # Errors
    /// [`TraceError`].
    pub fn parse_trace(text: &str, path: &Path) -> Result<Self, TraceError> {
        let mut points: Vec<Point> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let point = parse_line(line, points.last()).map_err(|problem| TraceError::Line {
                path: path.to_owned(),
                line: index + 1,
                problem,
            })?;
            points.push(point);
        }
        Self::repeating(&steps_of(&points)).map_err(|problem| TraceError::Schedule {
            path: path.to_owned(),
            problem,
        })
    }
}

/// A line of a trace.
#[derive(Clone, Copy)]
struct Point {
    at: Duration,
    rate: BitRate,
}

fn parse_line(line: &str, before: Option<&Point>) -> Result<Point, LineProblem> {
    let values: Vec<&str> = line.split_whitespace().collect();
    let [time, rate] = values[..] else {
        let count = values.len();
        return Err(LineProblem::ValueCount { count });
    };
    // To the nanosecond and the bit: digits beyond are below what the schedule can say.
    let nanos = scaled_decimal(time, 9).ok_or_else(|| LineProblem::Time { text: time.into() })?;
    let bits = scaled_decimal(rate, 6).ok_or_else(|| LineProblem::Rate { text: rate.into() })?;
    let at = Duration::from_nanos(nanos);
    if before.is_some_and(|before| before.at >= at) {
        return Err(LineProblem::NotLater { text: time.into() });
    }
    let rate = BitRate::bits_per_second(bits);
    Ok(Point { at, rate })
}

fn steps_of(points: &[Point]) -> Vec<RateStep> {
    let gaps = points.windows(2).map(|pair| pair[1].at - pair[0].at);
    let last = gaps.clone().next_back().unwrap_or(LONE_STEP);
    let lengths = gaps.chain([last]);
    let steps = points.iter().zip(lengths);
    steps
        .map(|(point, lasts)| RateStep {
            rate: point.rate,
            lasts,
        })
        .collect()
}

/// `text × 10^digits` of an unsigned decimal number such as `67.5`, rounded down. Floats would be
/// shorter here and inexact everywhere after.
fn scaled_decimal(text: &str, digits: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let fraction = fraction
        .bytes()
        .map(|byte| byte - b'0')
        .chain([0].into_iter().cycle());
    let scaled = fraction
        .take(digits)
        .try_fold(whole.parse::<u64>().ok()?, |number, digit| {
            number.checked_mul(10)?.checked_add(u64::from(digit))
        })?;
    Some(scaled)
}
