//! What the users of a soak ask: the shop desk's cloud prompts, and private prompts on top of them of
//! every kind that a server meets. Pure: a seed in, requests out.

use edgeprompt_examples::shop_desk::{CaseSampler, CloudPrompt, NameStyle, Split};
use rand::RngExt;
use serde_json::{Value, json};

/// Facts of short cloud prompts, which are as long as those of the demo, and of long ones, which an edge
/// rather has from the cloud than computes.
const SHORT_FACTS: std::ops::RangeInclusive<usize> = 4..=9;
const LONG_FACTS: std::ops::RangeInclusive<usize> = 20..=32;

/// Every so many cloud prompts, one is short.
const SHORT_EVERY: usize = 4;

/// Guests that a long private prompt tells of before the one who asks.
const OTHER_GUESTS: usize = 3;

/// Most tokens of an answer that goes on after its end.
const ENDLESS_LEN: std::ops::RangeInclusive<usize> = 24..=72;
/// And of one that ends by itself.
const ANSWER_LEN: usize = 40;

/// A cloud prompt as the cloud serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CloudText {
    /// Its name.
    pub(super) name: String,
    /// What it says.
    pub(super) text: String,
}

/// How the tokens of an answer are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The likeliest each time.
    Greedy,
    /// By chance, from a seed.
    Seeded,
}

/// A request whose answer is the same whenever it is asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    /// Where to.
    pub(super) path: &'static str,
    /// What.
    pub(super) body: Value,
    /// How its answer is chosen.
    pub(super) choice: Choice,
}

/// Everything that is asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Questions {
    /// The cloud prompts; the first is the server's default.
    pub(super) cloud: Vec<CloudText>,
    /// The requests.
    pub(super) questions: Vec<Question>,
}

impl Questions {
    /// `count` questions on `cloud_count` cloud prompts. Every kind comes up among few of them.
    pub(super) fn new(cloud_count: usize, count: usize, seed: u64) -> Self {
        let mut sampler = CaseSampler::new(Split::Training, seed, 0);
        let desks: Vec<_> = (0..cloud_count)
            .map(|index| desk(&mut sampler, index))
            .collect();
        let questions = (0..count).map(|index| question(&mut sampler, &desks, index));
        Self {
            questions: questions.collect(),
            cloud: desks
                .iter()
                .enumerate()
                .map(|(index, desk)| CloudText {
                    name: name(index),
                    text: desk.to_string(),
                })
                .collect(),
        }
    }
}

fn name(index: usize) -> String {
    format!("desk-{index}")
}

fn desk(sampler: &mut CaseSampler, index: usize) -> CloudPrompt {
    let facts = match index % SHORT_EVERY {
        0 => SHORT_FACTS,
        _ => LONG_FACTS,
    };
    let fact_count = sampler.rng().random_range(facts);
    sampler.cloud(fact_count)
}

/// The kinds come in turns of lengths without a common divisor, so that all their combinations do.
fn question(sampler: &mut CaseSampler, desks: &[CloudPrompt], index: usize) -> Question {
    let on = sampler.rng().random_range(0..desks.len());
    // Every eleventh names none and gets the server's default.
    let on = if index % 11 == 9 { 0 } else { on };
    let mut text = String::new();
    if index % 5 == 4 {
        for _ in 0..OTHER_GUESTS {
            text += &guest(sampler, &desks[on]);
            text.push('\n');
        }
    }
    text += &guest(sampler, &desks[on]);
    let mut body = json!({ "stream": true, "return_token_ids": true, "max_tokens": ANSWER_LEN });
    match index % 11 {
        9 => {}
        10 => body["cloud_prompt"] = false.into(),
        _ => body["cloud_prompt"] = name(on).into(),
    }
    if index % 3 == 2 {
        body["ignore_eos"] = true.into();
        body["max_tokens"] = sampler.rng().random_range(ENDLESS_LEN).into();
    }
    let choice = choose(sampler, &mut body, index);
    let path = match index % 2 {
        0 => {
            body["prompt"] = text.into();
            "/v1/completions"
        }
        _ => {
            body["messages"] = json!([{ "role": "user", "content": text }]);
            "/v1/chat/completions"
        }
    };
    Question { path, body, choice }
}

fn choose(sampler: &mut CaseSampler, body: &mut Value, index: usize) -> Choice {
    if index % 7 < 5 {
        body["temperature"] = 0.into();
        return Choice::Greedy;
    }
    body["temperature"] = 0.9.into();
    body["seed"] = sampler.rng().random_range(0..1_u64 << 53).into();
    if index % 7 == 6 {
        body["top_p"] = 0.9.into();
        body["repetition_penalty"] = 1.1.into();
    }
    Choice::Seeded
}

/// What a guest says who asks for one of the facts of `desk`.
fn guest(sampler: &mut CaseSampler, desk: &CloudPrompt) -> String {
    loop {
        let fact = desk.facts[sampler.rng().random_range(0..desk.facts.len())];
        let style = match sampler.rng().random_bool(0.5) {
            true => NameStyle::Listed,
            false => NameStyle::Spelled,
        };
        if let Some(guest) = sampler.guest(&fact, style) {
            return guest.to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_asks_the_same() {
        assert_eq!(Questions::new(4, 30, 3), Questions::new(4, 30, 3));
        assert_ne!(Questions::new(4, 30, 3), Questions::new(4, 30, 4));
    }

    #[test]
    fn few_questions_are_of_every_kind() {
        let asked = Questions::new(4, 48, 0);
        let count = |is: fn(&Question) -> bool| asked.questions.iter().filter(|it| is(it)).count();
        assert!(count(|it| it.choice == Choice::Seeded) >= 8);
        assert!(count(|it| it.body["ignore_eos"] == true) >= 8);
        assert!(count(|it| it.path == "/v1/chat/completions") >= 8);
        assert!(count(|it| it.body["cloud_prompt"] == false) >= 2);
        assert!(count(|it| it.body.get("cloud_prompt").is_none()) >= 2);
    }

    #[test]
    fn whoever_samples_says_the_seed() {
        for question in Questions::new(4, 48, 0).questions {
            let is_greedy = question.body["temperature"] == 0;
            assert_eq!(is_greedy, question.choice == Choice::Greedy);
            assert!(is_greedy || question.body["seed"].is_u64());
        }
    }
}
