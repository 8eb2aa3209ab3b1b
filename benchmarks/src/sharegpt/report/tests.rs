//! What was measured, made up by hand, and what is said of it.

use clap::Parser;

use super::*;
use crate::pipeline::messages::TokensSpec;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ShareGptArgs,
}

fn args(line: &str) -> ShareGptArgs {
    let line = ["sharegpt"].into_iter().chain(line.split_whitespace());
    Line::try_parse_from(line).unwrap().args
}

/// A group that took so long: two answers of ten tokens, the first token of each after a tenth of it.
fn group(seconds: f64, digests: [&str; 2]) -> GroupOutcome {
    GroupOutcome {
        seconds,
        output_tokens: 20,
        kv_bytes_wire: 0,
        ttft_s: vec![seconds / 10.0; 2],
        e2e_s: vec![seconds / 2.0, seconds],
        output_lens: vec![10; 2],
        digests: digests.map(str::to_owned).to_vec(),
    }
}

fn series(mode: Mode, fill_s: f64, groups: Vec<GroupOutcome>) -> Series {
    let cloud = TokensSpec {
        seed: 0,
        ordinal: 0,
        len: 64,
    };
    Series {
        groups,
        ..Series::new(mode, cloud, fill_s)
    }
}

fn of_groups() -> Vec<Series> {
    vec![
        series(
            Mode::Paged,
            0.0,
            vec![group(4.0, ["a", "b"]), group(1.0, ["c", "d"])],
        ),
        series(
            Mode::Relay,
            0.5,
            vec![group(1.0, ["a", "b"]), group(1.0, ["c", "x"])],
        ),
    ]
}

/// What a report says, with its plan.
fn said<T>(line: &str, series: &[Series], say: impl Fn(&Report<'_>) -> T) -> T {
    let args = args(line);
    let plan = Plan::of(&args).unwrap();
    let lens = Lens::short();
    let provenance = Provenance::gather().unwrap();
    say(&Report::new(&args, (&plan, &lens), provenance, series))
}

const GROUPS: &str = "--num-prompts 4 --num-groups 2 --cloud-lens 64 --modes paged,relay";
const RATES: &str = "--num-prompts 2 --num-groups 1 --request-rates 2 --modes paged,relay";

#[test]
fn the_table_of_groups_counts_a_fill_and_compares_with_paged() {
    let table = said(GROUPS, &of_groups(), |it| it.table());
    let row = |index: usize| -> Vec<String> {
        let row = table.lines().nth(index).unwrap().split_whitespace();
        row.map(str::to_owned).collect()
    };
    // 40 tokens in 5 seconds, groups of 5 and 20 a second.
    assert_eq!(
        row(1),
        [
            "64", "paged", "8.0", "(5.0", "to", "20.0)", "8.0", "0.00", "1.00", "4/4"
        ]
    );
    // In 2 seconds, or 2.5 with its fill; one answer is another.
    assert_eq!(
        row(2),
        [
            "64", "relay", "20.0", "(20.0", "to", "20.0)", "16.0", "0.50", "2.50", "3/4"
        ]
    );
}

#[test]
fn the_table_of_rates_has_times_and_no_fill() {
    let mut measured = vec![series(Mode::Relay, 0.0, vec![group(2.0, ["a", "b"])])];
    measured[0].request_rate = Some(2.0);
    let table = said(RATES, &measured, |it| it.table());
    assert!(!table.contains("FILL"), "{table}");
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    // Two requests and 20 tokens in 2 s; 0.1 and 0.2 s a token.
    assert_eq!(
        row,
        ["2", "relay", "1.00", "10.0", "200.0", "200.0", "0.1500"]
    );
}

#[test]
fn the_file_has_what_the_table_has_and_where_it_comes_from() {
    let line = format!("{GROUPS} --edge-device cuda");
    let found = said(&line, &of_groups(), |it| it.json());
    let relay = &found["rows"][1];
    assert_eq!(relay["mode"], "relay");
    assert_eq!(relay["output_throughput"], 20.0);
    assert_eq!(relay["output_throughput_with_fill"], 16.0);
    assert_eq!(relay["same_answers_as_paged"], "3/4");
    assert_eq!(relay["mean_ttft_ms"], 100.0);
    assert_eq!(
        (&found["edge_device"], &found["cloud_device"]),
        (&"cuda".into(), &"flex".into())
    );
    assert_eq!(found["settings"]["num_prompts"], 4);
    assert!(found["provenance"]["commit"].is_string());
}

#[test]
fn the_figures_have_a_point_for_all_that_was_measured_and_nothing_else() {
    let draw = |line: &str, series: &[Series]| {
        let plan = Plan::of(&args(line)).unwrap();
        plots::draw(&plan, "subtitle", series)
    };
    let markers = |file: &str| file.matches("<polygon").count();
    // Both have a key; relay has a point at the one length of two.
    let figure = draw(&GROUPS.replace("64", "64,128"), &of_groups()[1..]);
    let [(name, file)] = &figure[..] else {
        panic!("one figure")
    };
    assert_eq!((*name, markers(file)), ("sharegpt-fig3.svg", 2 + 1));
    assert!(file.contains(">64<") && file.contains(">128<") && file.contains("tokens/s"));
    // The largest is a bar's end.
    let tall = draw(GROUPS, &of_groups());
    let ticks = |file: &str| (file.contains(">20<"), file.contains(">40<"));
    assert_eq!(ticks(&tall[0].1), (true, false));

    let mut measured = of_groups();
    measured[0].request_rate = Some(2.0);
    measured[1].request_rate = Some(4.0);
    let figures = draw(&RATES.replace("rates 2", "rates 2,4"), &measured);
    let names: Vec<_> = figures.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "sharegpt-fig4.svg",
            "sharegpt-fig5.svg",
            "sharegpt-ttft.svg"
        ]
    );
    for ((_, file), unit) in figures.iter().zip(["(1/s)", "s/token", "TTFT (ms)"]) {
        assert_eq!(markers(file), 2 + 2);
        assert!(file.contains(unit), "{unit}");
    }
}
