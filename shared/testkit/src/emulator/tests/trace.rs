//! Trace files, as they are and as they should not be.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use crate::emulator::{BitRate, RateSchedule, RateStep};
use crate::fixtures::link_traces;

fn parse(text: &str) -> Result<RateSchedule, String> {
    RateSchedule::parse_trace(text, Path::new("drive.txt")).map_err(|error| error.to_string())
}

fn step(bits: u64, millis: u64) -> RateStep {
    RateStep {
        rate: BitRate::bits_per_second(bits),
        lasts: Duration::from_millis(millis),
    }
}

#[test]
fn a_rate_holds_until_the_next_line() {
    let parsed = parse("1.0\t94.0\n2 67.5\n\n  2.5   0\n").unwrap();
    let steps = [step(94_000_000, 1_000), step(67_500_000, 500), step(0, 500)];
    assert_eq!(parsed, RateSchedule::repeating(&steps).unwrap());
    let lone = RateSchedule::constant(BitRate::megabits_per_second(30));
    assert_eq!(parse("7 30"), Ok(lone));
}

#[test]
fn errors_name_the_file_and_the_line() {
    let error = |text: &str| parse(text).unwrap_err();
    assert_eq!(
        error("0 1\n1 2 3\n"),
        "drive.txt:2: 3 values; a line is a time in seconds and a rate in Mbit/s"
    );
    assert_eq!(
        error("\n\n0,5 1"),
        "drive.txt:3: time \"0,5\" is not a decimal number of seconds"
    );
    for rate in ["-1", "nan", "1e3", ".5", "5.x", "99999999999999999999"] {
        let expected = format!("drive.txt:1: rate {rate:?} is not a decimal number of Mbit/s");
        assert_eq!(error(&format!("0 {rate}")), expected);
    }
    assert_eq!(
        error("0 1\n0.0 2"),
        "drive.txt:2: time 0.0 s is not after the line before"
    );
    assert_eq!(error("0 0\n1 0"), "drive.txt: the rate is zero throughout");
    assert_eq!(
        error(""),
        "drive.txt: 0 steps of rate; a schedule has 1 to 1048576"
    );
    let missing = RateSchedule::from_trace_file(Path::new("/nowhere/drive.txt"));
    assert_eq!(
        missing.unwrap_err().to_string(),
        "/nowhere/drive.txt: cannot be read"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(rates in prop::collection::vec(0_u64..2_000_000, 1..50)) {
        prop_assume!(rates.iter().any(|rate| *rate > 0));
        let line = |(second, kilobits): (usize, &u64)| {
            format!("{second} {}.{:03}\n", kilobits / 1_000, kilobits % 1_000)
        };
        let text: String = rates.iter().enumerate().map(line).collect();
        let steps: Vec<_> = rates.iter().map(|rate| step(rate * 1_000, 1_000)).collect();
        prop_assert_eq!(parse(&text), Ok(RateSchedule::repeating(&steps).unwrap()));
    }

    #[test]
    fn no_text_makes_it_panic(text in "[0-9 .\t\n\u{e9}x-]{0,200}") {
        let _ = parse(&text);
    }
}

#[test]
fn measured_traces_are_read() {
    for (kind, megabits) in [("4g", 5..200), ("5g", 5..2_000)] {
        for path in link_traces(kind) {
            let trace = RateSchedule::from_trace_file(&path).unwrap();
            assert!(
                trace.period() > Duration::from_secs(30),
                "{}",
                path.display()
            );
            assert!(
                megabits.contains(&(trace.mean().bits() / 1_000_000)),
                "{}",
                path.display()
            );
        }
    }
}
