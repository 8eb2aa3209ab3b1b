//! Recorded arrivals: a CSV file with, on each line, when a request came, the tokens of its prompt
//! and the tokens of its answer, as in Azure's LLM inference traces.

use std::io::{self, BufRead};
use std::time::Duration;

use time::{Date, Month, PrimitiveDateTime, Time, UtcOffset};

use super::{Lens, Malformed};

/// Longest line that is read: those of the traces have 50 bytes.
const LINE_BYTES_MAX: u64 = 1024;

/// Longest prompt or answer that is believed: the longest contexts of models.
const LEN_MAX: usize = 1 << 20;

/// One recorded request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceRow {
    /// After the first request.
    pub(crate) arrival: Duration,
    /// Its lengths.
    pub(crate) lens: Lens,
}

/// The first `count_max` requests of a trace, in order, and the lines before their end that are none.
///
/// # Errors
/// Those of reading; a line that is not understood is none.
pub(crate) fn read(
    mut reader: impl BufRead,
    count_max: usize,
) -> io::Result<(Vec<TraceRow>, Malformed)> {
    let (mut rows, mut malformed) = (Vec::new(), Malformed::default());
    let (mut line, mut first_at, mut last_at) = (Vec::new(), None, i128::MIN);
    let mut number = 0;
    while rows.len() < count_max && next_line(&mut reader, &mut line)? {
        number += 1;
        let text = std::str::from_utf8(&line).map(str::trim);
        let row = match text {
            Ok("") => continue,
            Ok(text) if number == 1 && is_head(text) => continue,
            Ok(text) => parse(text),
            Err(_) => Err("is not UTF-8"),
        };
        match row {
            Ok((at, _)) if at < last_at => {
                malformed.add(|| format!("line {number} is earlier than the one before"));
            }
            Ok((at, lens)) => {
                last_at = at;
                let since = at - *first_at.get_or_insert(at);
                let arrival = Duration::from_nanos(u64::try_from(since).unwrap_or(u64::MAX));
                rows.push(TraceRow { arrival, lens });
            }
            Err(problem) => malformed.add(|| format!("line {number} {problem}")),
        }
    }
    Ok((rows, malformed))
}

/// Reads a line, of which no more is kept than is needed to see that it is too long.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut limited = io::Read::take(&mut *reader, LINE_BYTES_MAX);
    let read = limited.read_until(b'\n', line)?;
    if line.last() != Some(&b'\n') && read as u64 == LINE_BYTES_MAX {
        reader.skip_until(b'\n')?;
    }
    Ok(read > 0)
}

/// Whether the first line names columns.
fn is_head(line: &str) -> bool {
    let first = line.trim_start_matches('\u{feff}').chars().next();
    first.is_some_and(char::is_alphabetic)
}

/// The time in nanoseconds, of whatever epoch, and the lengths.
fn parse(line: &str) -> Result<(i128, Lens), &'static str> {
    if line.len() as u64 >= LINE_BYTES_MAX {
        return Err("is too long");
    }
    let mut fields = line.split(',').map(str::trim);
    let mut field = || fields.next().ok_or("has fewer than three fields");
    let (at, prompt, output) = (field()?, field()?, field()?);
    let at = timestamp(at).ok_or("does not begin with a time, in seconds or as a date")?;
    let len = |text: &str| {
        let len = text.parse().ok();
        len.filter(|len| (1..=LEN_MAX).contains(len))
    };
    Ok((
        at,
        Lens {
            prompt: len(prompt).ok_or("has no number of prompt tokens from 1 to 1048576")?,
            output: len(output).ok_or("has no number of answer tokens from 1 to 1048576")?,
        },
    ))
}

fn timestamp(text: &str) -> Option<i128> {
    match text.parse::<f64>() {
        Ok(seconds) => nanoseconds(seconds),
        Err(_) => date_time(text),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a fraction of a nanosecond"
)]
fn nanoseconds(seconds: f64) -> Option<i128> {
    // A hundred years of seconds after 1970, and more.
    (0.0..=1e10)
        .contains(&seconds)
        .then_some((seconds * 1e9) as i128)
}

/// `2023-11-16 18:15:46.6805900`, perhaps with an offset as `+00:00` or `Z`.
fn date_time(text: &str) -> Option<i128> {
    let (date, rest) = text.split_once([' ', 'T'])?;
    let mut parts = date.splitn(3, '-');
    let year = parts.next()?.parse().ok()?;
    let month = Month::try_from(parts.next()?.parse::<u8>().ok()?).ok()?;
    let date = Date::from_calendar_date(year, month, parts.next()?.parse().ok()?).ok()?;
    let (clock, offset) = split_offset(rest)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.splitn(3, ':');
    let mut part = || parts.next()?.parse::<u8>().ok();
    let clock = Time::from_hms_nano(part()?, part()?, part()?, fraction_nanos(fraction)?).ok()?;
    let at = PrimitiveDateTime::new(date, clock).assume_offset(offset);
    Some(at.unix_timestamp_nanos())
}

fn split_offset(text: &str) -> Option<(&str, UtcOffset)> {
    if let Some(clock) = text.strip_suffix('Z') {
        return Some((clock, UtcOffset::UTC));
    }
    let Some(at) = text.rfind(['+', '-']) else {
        return Some((text, UtcOffset::UTC));
    };
    let (clock, offset) = text.split_at(at);
    let (hours, minutes) = offset[1..].split_once(':')?;
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = (hours.parse::<i8>().ok()?, minutes.parse::<i8>().ok()?);
    let in_range = (0..=23).contains(&hours) && (0..=59).contains(&minutes);
    let offset = in_range.then(|| UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok())??;
    Some((clock, offset))
}

/// Nanoseconds of the digits behind the point; beyond nine they are cut.
fn fraction_nanos(digits: &str) -> Option<u32> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{digits:0<9}")[..9].parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
        2023-11-16 18:15:46.6805900,374,44\r\n\
        2023-11-16 18:15:50.9951690,396,109\r\n";

    fn row(micros: u64, prompt: usize, output: usize) -> TraceRow {
        TraceRow {
            arrival: Duration::from_nanos(micros * 1000),
            lens: Lens { prompt, output },
        }
    }

    #[test]
    fn azures_traces_are_read_from_their_first_request_on() {
        let (rows, malformed) = read(AZURE.as_bytes(), 10).unwrap();
        assert_eq!(rows, [row(0, 374, 44), row(4_314_579, 396, 109)]);
        assert_eq!(malformed, Malformed::default());
        let newer = "2024-05-10 23:59:59.500000+00:00,1,2\n2024-05-11 02:00:00.25+02:00,3,4";
        let (rows, _) = read(newer.as_bytes(), 10).unwrap();
        assert_eq!(rows, [row(0, 1, 2), row(750_000, 3, 4)]);
        let (rows, _) = read("10.5,1,2\n\n12,3,4\n".as_bytes(), 10).unwrap();
        assert_eq!(rows, [row(0, 1, 2), row(1_500_000, 3, 4)]);
        assert_eq!(read(AZURE.as_bytes(), 1).unwrap().0.len(), 1);
    }

    #[test]
    fn lines_that_are_no_requests_are_counted_and_named() {
        let long = format!("3,1,{}\n", "2".repeat(5_000));
        let file = [
            "1,5,6\n",
            "noon,5,6\n",
            "2,5\n",
            "2,0,6\n",
            "2,5,-1\n",
            &long,
            "0.5,5,6\n",
            "4,7,8\n",
        ];
        let (rows, malformed) = read(file.concat().as_bytes(), 10).unwrap();
        assert_eq!(rows, [row(0, 5, 6), row(3_000_000, 7, 8)]);
        assert_eq!(malformed.count, 6);
        assert_eq!(
            malformed.first,
            [
                "line 2 does not begin with a time, in seconds or as a date",
                "line 3 has fewer than three fields",
                "line 4 has no number of prompt tokens from 1 to 1048576",
                "line 5 has no number of answer tokens from 1 to 1048576",
                "line 6 is too long",
            ]
        );
        let (rows, malformed) = read(b"\xff\xfe,1,2\n1,1,1\n".as_slice(), 10).unwrap();
        assert_eq!((rows.len(), malformed.count), (1, 1));
    }

    #[test]
    fn a_whole_trace_of_azures_is_read() {
        let Some(file) =
            edgeprompt_testkit::fixtures::data_file("traces/AzureLLMInferenceTrace_conv.csv")
        else {
            return;
        };
        let file = std::fs::File::open(file).unwrap();
        let (rows, malformed) = read(io::BufReader::new(file), usize::MAX).unwrap();
        assert_eq!((rows.len(), malformed.count), (19_366, 0), "{malformed}");
        assert!(rows.is_sorted_by_key(|row| row.arrival));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let (rows, malformed) = read(bytes.as_slice(), 100).unwrap();
            prop_assert!(rows.len() + malformed.count <= bytes.len() + 1);
        }

        #[test]
        fn no_date_makes_it_fail(text in "[0-9]{0,5}[-/][0-9]{0,3}-[0-9]{0,3}[ T][0-9:.+-]{0,20}Z?") {
            timestamp(&text);
        }

        #[test]
        fn what_is_written_is_read(
            rows in prop::collection::vec((0u64..1_000_000, 1usize..5_000, 1usize..5_000), 1..50)
        ) {
            let mut at = 0;
            let (mut file, mut expected) = (String::new(), Vec::new());
            for (gap, prompt, output) in rows {
                at += if expected.is_empty() { 0 } else { gap };
                let (second, micros) = (at / 1_000_000, at % 1_000_000);
                let (hour, minute) = (second / 3600, second / 60 % 60);
                file += &format!(
                    "2023-11-16 {hour:02}:{minute:02}:{:02}.{micros:06}0,{prompt},{output}\n",
                    second % 60
                );
                expected.push(row(at, prompt, output));
            }
            let (read, malformed) = read(file.as_bytes(), usize::MAX).unwrap();
            prop_assert_eq!(read, expected);
            prop_assert_eq!(malformed.count, 0);
        }
    }
}
