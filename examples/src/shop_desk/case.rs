//! Cases: a cloud prompt, a guest's private prompt and the one right answer, drawn from a seed.

use std::ops::RangeInclusive;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::prompt::{Aspect, CloudPrompt, Ending, Fact, Opening, PlanClause, PrivatePrompt};
use super::split::Split;
use super::vocabulary::{GREETINGS, NAMES, NUMBERS, PLANS};

/// One question to the shop desk, with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The public half of the prompt.
    pub cloud_text: String,
    /// The private half of the prompt.
    pub edge_text: String,
    /// The whole right answer, up to and with its full stop.
    pub answer: String,
}

/// How many facts a cloud prompt may list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactRange(RangeInclusive<usize>);

impl FactRange {
    /// From two to nine facts can be asked for.
    ///
    /// # Panics
    /// If the range is empty or leaves those bounds.
    pub fn new(range: RangeInclusive<usize>) -> Self {
        assert!(!range.is_empty(), "a shop desk needs facts");
        assert!(
            *range.start() >= 2 && *range.end() <= 9,
            "two to nine facts"
        );
        Self(range)
    }

    /// The range that the finished model serves.
    pub fn full() -> Self {
        Self::new(3..=8)
    }
}

/// What names guests have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameStyle {
    /// One of [`NAMES`].
    Listed,
    /// Letters at random, so several tokens: stands for any name a visitor may type.
    Spelled,
}

/// Draws prompts; the same seed and stream give the same prompts.
#[derive(Clone, Debug)]
pub struct CaseSampler {
    rng: ChaCha8Rng,
    split: Split,
}

impl CaseSampler {
    /// A sampler of its own stream, so that step 700 can be drawn without steps 0 to 699.
    pub fn new(split: Split, seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self { rng, split }
    }

    /// The source of randomness, for choices that are not the shop desk's.
    pub fn rng(&mut self) -> &mut impl Rng {
        &mut self.rng
    }

    /// A number of facts from `range`.
    pub fn fact_count(&mut self, range: &FactRange) -> usize {
        self.rng.random_range(range.0.clone())
    }

    /// A cloud prompt of exactly `fact_count` facts.
    pub fn cloud(&mut self, fact_count: usize) -> CloudPrompt {
        let greeting = *choose(&GREETINGS, &mut self.rng);
        CloudPrompt {
            greeting,
            facts: self.facts(fact_count),
        }
    }

    /// Facts about as few plans as their number allows: each plan but at most one has both, so that
    /// neither the plan nor the verb alone finds a number. They are in random order.
    fn facts(&mut self, fact_count: usize) -> Vec<Fact> {
        let plans: Vec<_> = PLANS
            .sample(&mut self.rng, fact_count.div_ceil(2))
            .collect();
        let mut facts = Vec::with_capacity(fact_count + 1);
        for &plan in plans {
            for aspect in Aspect::ALL {
                let number = self.number(plan, aspect);
                facts.push(Fact {
                    plan,
                    aspect,
                    number,
                });
            }
        }
        // An odd number of facts drops one of the last plan's two.
        if fact_count < facts.len() {
            facts.remove(facts.len() - self.rng.random_range(1..=2));
        }
        facts.shuffle(&mut self.rng);
        facts
    }

    fn number(&mut self, plan: &'static str, aspect: Aspect) -> u32 {
        loop {
            let number = self.rng.random_range(NUMBERS);
            let fact = Fact {
                plan,
                aspect,
                number,
            };
            // Held-out prompts may contain anything: what is asked is checked separately.
            if self.split == Split::HeldOut || Split::of_fact(&fact) == Split::Training {
                return number;
            }
        }
    }

    /// A guest who asks for `fact`, or nothing if this split has no such guest.
    pub fn guest(&mut self, fact: &Fact, style: NameStyle) -> Option<PrivatePrompt> {
        let rng = &mut self.rng;
        let name = match style {
            NameStyle::Listed => (*choose(&NAMES, rng)).to_owned(),
            NameStyle::Spelled => spelled_name(rng),
        };
        let wanted = self.split;
        let known = Split::of_fact(fact) == wanted && Split::of_guest(&name, fact.plan) == wanted;
        known.then(|| PrivatePrompt {
            name,
            plan: fact.plan,
            opening: *choose(&[Opening::MyNameIs, Opening::IAm], rng),
            plan_clause: *choose(&[PlanClause::Have, PlanClause::AmOn], rng),
            question: choose::<&'static str>(fact.aspect.questions(), rng),
            ending: *choose(&[Ending::QuestionMark, Ending::LineBreak], rng),
        })
    }

    /// A whole case: cloud prompt, guest and answer.
    pub fn case(&mut self, facts: &FactRange, style: NameStyle) -> Case {
        loop {
            let count = self.fact_count(facts);
            let cloud = self.cloud(count);
            let fact = *choose(&cloud.facts, &mut self.rng);
            if let Some(guest) = self.guest(&fact, style) {
                return Case {
                    answer: cloud.answer(&guest.name, &fact),
                    cloud_text: cloud.to_string(),
                    edge_text: guest.to_string(),
                };
            }
        }
    }
}

impl CloudPrompt {
    /// What the desk says to `name` who asked for `fact`.
    pub fn answer(&self, name: &str, fact: &Fact) -> String {
        format!("{} {name}, {fact}", self.greeting)
    }
}

/// Cases whose asked fact and whose pairing of guest and plan training never saw.
///
/// The names are from [`NAMES`] and the cloud prompts have three to eight facts.
pub fn held_out_cases(seed: u64, count: usize) -> Vec<Case> {
    let mut sampler = CaseSampler::new(Split::HeldOut, seed, 0);
    let facts = FactRange::full();
    (0..count)
        .map(|_| sampler.case(&facts, NameStyle::Listed))
        .collect()
}

/// A capital and two to seven small letters; a listed name may come out, which does no harm.
fn spelled_name(rng: &mut impl Rng) -> String {
    let len = rng.random_range(2..=7);
    let first = char::from(rng.random_range(b'A'..=b'Z'));
    let rest = (0..len).map(|_| char::from(rng.random_range(b'a'..=b'z')));
    std::iter::once(first).chain(rest).collect()
}

fn choose<'a, T>(list: &'a [T], rng: &mut impl Rng) -> &'a T {
    list.choose(rng).expect("the lists are not empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_cases() {
        assert_eq!(held_out_cases(3, 50), held_out_cases(3, 50));
        assert_ne!(held_out_cases(3, 50), held_out_cases(4, 50));
    }

    #[test]
    fn training_prompts_hold_no_reserved_fact_or_guest() {
        let mut sampler = CaseSampler::new(Split::Training, 1, 0);
        for _ in 0..500 {
            let count = sampler.fact_count(&FactRange::full());
            let cloud = sampler.cloud(count);
            assert_eq!(cloud.facts.len(), count);
            for fact in &cloud.facts {
                assert_eq!(Split::of_fact(fact), Split::Training);
                if let Some(guest) = sampler.guest(fact, NameStyle::Listed) {
                    assert_eq!(Split::of_guest(&guest.name, guest.plan), Split::Training);
                }
            }
        }
    }

    #[test]
    fn the_answer_needs_both_halves() {
        for case in held_out_cases(7, 200) {
            let words: Vec<_> = case.answer.split([' ', ',']).collect();
            let [greeting, name, _, _, plan, _, verb, number, _] = words[..] else {
                panic!("unexpected answer: {}", case.answer);
            };
            assert!(case.cloud_text.contains(&format!("\"{greeting}\"")));
            let fact = format!("{plan} plan {verb} {number} ");
            assert_eq!(case.cloud_text.matches(&fact).count(), 1);
            assert!(!case.edge_text.contains(number));
            assert!(case.edge_text.contains(&format!("{name}.")));
            assert!(!case.cloud_text.contains(name));
        }
    }
}
