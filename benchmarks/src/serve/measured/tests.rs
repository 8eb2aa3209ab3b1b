//! A run made by hand, whose numbers can be checked in the head.

use super::*;
use crate::serve::answer::Answer;
use crate::serve::own_fields::OwnFields;

const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn answered(index: usize, start: u64, ttft: u64, gaps: &[u64]) -> Outcome {
    let itls: Vec<_> = gaps.iter().copied().map(millis).collect();
    Outcome {
        start: millis(start),
        index,
        answer: Ok(Answer {
            ttft: millis(ttft),
            latency: millis(ttft) + itls.iter().sum::<Duration>(),
            prompt_len: (index == 0).then_some(100),
            output_len: itls.len() + 1,
            itls,
            cached_len: None,
            own: OwnFields::default(),
        }),
    }
}

fn failed(index: usize, reason: &str) -> Outcome {
    Outcome {
        start: millis(0),
        index,
        answer: Err(reason.to_owned()),
    }
}

fn run() -> Vec<Outcome> {
    vec![
        answered(0, 100, 50, &[10, 30]),
        failed(1, "HTTP 500"),
        answered(2, 150, 950, &[100, 100, 100, 100]),
        answered(3, 190, 10, &[]),
        failed(4, "HTTP 500"),
        failed(5, "refused"),
    ]
}

#[test]
fn totals_count_what_was_answered() {
    let measured = Measured::of(&run(), millis(2_000), &[7, 7, 11, 13, 7, 7], None);
    assert_eq!((measured.completed, measured.failed), (3, 3));
    // The server's word for the first, the length counted before for the others.
    assert_eq!(measured.input_tokens, 100 + 11 + 13);
    assert_eq!(measured.output_tokens, 3 + 5 + 1);
    assert_eq!(measured.per_second(measured.output_tokens), 4.5);
    assert_eq!((measured.good, measured.cached_tokens), (None, None));
    let failures: Vec<_> = measured.failures.into_iter().collect();
    assert_eq!(
        failures,
        [("HTTP 500".to_owned(), 2), ("refused".to_owned(), 1)]
    );
}

#[test]
fn an_answer_of_one_token_has_no_time_per_token() {
    let measured = Measured::of(&run(), millis(2_000), &[7; 6], None);
    let mean = |metric| measured.times(metric).mean();
    let near = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-9, "{got} {expected}");
    near(mean(Metric::Ttft), (50.0 + 950.0 + 10.0) / 3.0);
    near(mean(Metric::Tpot), (20.0 + 100.0) / 2.0);
    near(mean(Metric::Itl), 440.0 / 6.0);
    near(mean(Metric::E2el), (90.0 + 1350.0 + 10.0) / 3.0);
}

#[test]
fn a_good_request_keeps_its_promises_and_a_failed_one_never() {
    let good = |promises: &[&str]| {
        let slos: Vec<_> = promises.iter().map(|it| it.parse().unwrap()).collect();
        let slos = Slos::of(&slos);
        Measured::of(&run(), millis(2_000), &[7; 6], slos.as_ref()).good
    };
    assert_eq!(good(&["ttft:1000"]), Some(3));
    assert_eq!(good(&["ttft:50"]), Some(2));
    assert_eq!(good(&["tpot:19"]), Some(1));
    assert_eq!(good(&["ttft:50", "e2el:89"]), Some(1));
    assert_eq!(good(&[]), None);
}

#[test]
fn peaks_are_of_the_busiest_second_and_moment() {
    let measured = Measured::of(&run(), millis(2_000), &[7; 6], None);
    // After the first start at 100: chunks at 50, 60, 90 and 100; then 1000, 1100, ... 1400.
    assert_eq!(measured.output_tokens_per_s_max, 5);
    // From 150 to 190 the first two; the third begins as the first ends.
    assert_eq!(measured.concurrent_max, 2);
    let nothing = Measured::of(&[failed(0, "x")], millis(0), &[7], None);
    assert_eq!(
        (nothing.output_tokens_per_s_max, nothing.concurrent_max),
        (0, 0)
    );
    assert_eq!(
        (nothing.per_second(5), nothing.times(Metric::Ttft).mean()),
        (0.0, 0.0)
    );
}
