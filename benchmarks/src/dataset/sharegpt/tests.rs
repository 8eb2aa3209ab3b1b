//! The loader against a file made by hand and against real conversations.

use std::io::Cursor;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// A token for each word.
fn words(text: &str) -> Result<usize> {
    Ok(text.split_whitespace().count())
}

fn conversation(name: &str, prompt_len: usize, answer_len: usize) -> String {
    let text = |len: usize| vec![name; len].join(" ");
    json!({"id": name, "conversations": [
        {"from": "human", "value": text(prompt_len)},
        {"from": "gpt", "value": text(answer_len)},
        {"from": "human", "value": "and then?"},
    ]})
    .to_string()
}

const RULES: Rules = Rules {
    sample_count: 100,
    seed: 0,
    order: Order::AsStored,
    output_len: None,
    oversampling: Oversampling::Never,
};

fn load(file: &str, rules: &Rules) -> Result<(Vec<Sample>, Tally)> {
    ShareGpt::new(Cursor::new(file))?.samples(rules, &mut words)
}

/// The first word of each sample: the name of its conversation.
fn names(samples: &[Sample]) -> Vec<&str> {
    samples
        .iter()
        .map(|sample| sample.prompt.split(' ').next().unwrap())
        .collect()
}

#[test]
fn records_that_are_no_conversations_are_named_and_the_others_used() {
    let file = [
        &conversation("a", 5, 6),
        "17",
        r#"{"id": "b"}"#,
        r#"{"id": "c", "conversations": {"value": "x"}}"#,
        r#"{"id": "d", "conversations": [{"value": "only one turn, which is not wrong"}]}"#,
        r#"{"id": "e", "conversations": [{"value": 5}, {"value": "x"}]}"#,
        r#"{"conversations": [{"value": "x"}, {"from": "gpt"}]}"#,
        &conversation("f", 4, 4),
    ];
    let (samples, tally) = load(&format!("[{}]", file.join(" ,\n ")), &RULES).unwrap();
    assert_eq!(names(&samples), ["a", "f"]);
    assert_eq!((samples[0].prompt_len, samples[0].output_len), (5, 6));
    assert_eq!((tally.record_count, tally.short_count), (8, 1));
    assert_eq!(
        tally.malformed.first,
        [
            "record 1 is not an object",
            "record 2 (id \"b\") has no conversations",
            "record 3 (id \"c\") has conversations that are no list",
            "record 5 (id \"e\") has no text in turn 0",
            "record 6 has no text in turn 1",
        ]
    );
}

#[test]
fn a_file_that_breaks_off_or_goes_wrong_is_used_until_there() {
    let whole = format!("[{},{}]", conversation("a", 5, 5), conversation("b", 5, 5));
    let (samples, tally) = load(&whole[..whole.len() - 20], &RULES).unwrap();
    assert_eq!(names(&samples), ["a"]);
    assert!(
        tally.to_string().contains("record 1 breaks off at line 1"),
        "{tally}"
    );
    let (samples, tally) = load(&whole.replace("},{\"c", "};{\"c"), &RULES).unwrap();
    assert_eq!(names(&samples), ["a"]);
    assert!(
        tally.to_string().contains("record 1 is not JSON"),
        "{tally}"
    );
}

#[test]
fn nothing_usable_is_an_error_that_says_what_is_expected() {
    for file in [
        "",
        "[]",
        "{}",
        "\"secret\"",
        "[{\"id\": 1}]",
        &format!("[{}]", conversation("a", 3, 9)),
    ] {
        let error = load(file, &RULES).err().unwrap().to_string();
        assert!(error.contains("no conversation can be used"), "{error}");
        assert!(
            error.contains("ShareGPT_V3_unfiltered_cleaned_split.json"),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn lengths_are_judged_as_vllm_judges_them() {
    let lens = [
        ("a", 3, 10),
        ("b", 10, 3),
        ("c", 1025, 10),
        ("d", 1024, 1025),
        ("e", 1024, 1024),
        ("f", 4, 4),
    ];
    let file: Vec<_> = lens
        .map(|(name, prompt, answer)| conversation(name, prompt, answer))
        .into();
    let file = format!("[{}]", file.join(","));
    let (samples, tally) = load(&file, &RULES).unwrap();
    assert_eq!(names(&samples), ["e", "f"]);
    assert_eq!((tally.rejected_count, tally.kept_count), (4, 2));
    // A forced length is not compared with the least, but counts for the sum.
    let forced = |len| Rules {
        output_len: Some(len),
        ..RULES
    };
    assert_eq!(
        names(&load(&file, &forced(1)).unwrap().0),
        ["b", "d", "e", "f"]
    );
    assert_eq!(names(&load(&file, &forced(2043)).unwrap().0), ["f"]);
}

// Recorded from CPython: `random.seed(7); x = list('abcdefghijkl'); random.shuffle(x)`, the first
// five; then `random.seed(7)` and seven of `random.choice` of those.
#[test]
fn a_seed_picks_the_conversations_that_vllm_picks() {
    let file: Vec<_> = ('a'..='l')
        .map(|name| conversation(&name.to_string(), 5, 5))
        .collect();
    let file = format!("[\n{}\n]\n", file.join(",\n"));
    let rules = Rules {
        seed: 7,
        order: Order::Shuffled,
        sample_count: 5,
        ..RULES
    };
    let (samples, _) = load(&file, &rules).unwrap();
    assert_eq!(names(&samples), ["h", "l", "d", "k", "i"]);
    let few: Vec<_> = ["h", "l", "d", "k", "i"]
        .map(|name| conversation(name, 5, 5))
        .into();
    let few = format!("[{}]", few.join(","));
    let rules = Rules {
        sample_count: 12,
        seed: 7,
        oversampling: Oversampling::WithReplacement,
        ..RULES
    };
    let (samples, tally) = load(&few, &rules).unwrap();
    assert_eq!(names(&samples[..5]), ["h", "l", "d", "k", "i"]);
    assert_eq!(names(&samples[5..]), ["d", "l", "k", "h", "h", "i", "h"]);
    assert_eq!((tally.kept_count, tally.repeated_count), (5, 7));
    assert_eq!(
        load(
            &few,
            &Rules {
                sample_count: 12,
                ..RULES
            }
        )
        .unwrap()
        .0
        .len(),
        5
    );
}

#[test]
fn real_conversations_are_read() {
    let Some(file) = edgeprompt_testkit::fixtures::data_file("sharegpt/sharegpt_v3_sample.json")
    else {
        return;
    };
    let rules = Rules {
        sample_count: 1_000,
        order: Order::Shuffled,
        ..RULES
    };
    let (samples, tally) = ShareGpt::open(&file)
        .unwrap()
        .samples(&rules, &mut words)
        .unwrap();
    assert_eq!(
        (tally.record_count, tally.malformed.count),
        (700, 0),
        "{tally}"
    );
    assert_eq!(
        samples.len() + tally.short_count + tally.rejected_count,
        700
    );
    assert!(samples.len() > 300, "{tally}");
    assert!(
        samples
            .iter()
            .all(|sample| words(&sample.prompt).unwrap() == sample.prompt_len)
    );
    let missing = ShareGpt::open(Path::new("no/such/file.json"))
        .err()
        .unwrap();
    assert!(
        format!("{missing:#}").contains("no/such/file.json"),
        "{missing:#}"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let _ = ShareGpt::new(Cursor::new(bytes)).unwrap().samples(&RULES, &mut words);
    }

    /// White space between records moves their places and nothing else.
    #[test]
    fn every_conversation_is_found_again(
        lens in prop::collection::vec((4usize..9, 4usize..9, "[ \n\t]{0,3}"), 1..20)
    ) {
        let mut file = String::from(" [");
        for (index, (prompt, answer, space)) in lens.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            file += &format!("{space}{comma}{space}{}", conversation("w", *prompt, *answer));
        }
        file += "] ";
        let (samples, tally) = load(&file, &RULES).unwrap();
        let found: Vec<_> = samples.iter().map(|s| (s.prompt_len, s.output_len)).collect();
        let expected: Vec<_> = lens.iter().map(|(prompt, answer, _)| (*prompt, *answer)).collect();
        prop_assert_eq!(found, expected, "{}", tally);
    }
}
