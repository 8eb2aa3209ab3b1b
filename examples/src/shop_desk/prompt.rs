//! The texts: cloud prompt, private prompt and the right answer. What they say is decided elsewhere.

use std::fmt::{self, Display, Formatter};

/// What can be known about a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aspect {
    /// Its price in coins.
    Cost,
    /// How many days it lasts.
    Duration,
}

impl Aspect {
    /// Both aspects.
    pub const ALL: [Self; 2] = [Self::Cost, Self::Duration];

    /// The verb that introduces the number, in facts and in answers alike.
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Cost => "costs",
            Self::Duration => "lasts",
        }
    }

    /// What the number counts.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Cost => "coins",
            Self::Duration => "days",
        }
    }

    /// How guests ask for it, the plainest question first.
    pub const fn questions(self) -> &'static [&'static str] {
        match self {
            Self::Cost => &[
                "How much does it cost?",
                "How much is it?",
                "What does it cost?",
                "What is the price?",
            ],
            Self::Duration => &[
                "How long does it last?",
                "How long is it good for?",
                "How many days do I get?",
                "How many days does it last?",
            ],
        }
    }
}

/// How a guest gives a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// `My name is Ada.`
    MyNameIs,
    /// `I am Ada.`
    IAm,
}

/// How a guest gives a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanClause {
    /// `I have the jade plan.`
    Have,
    /// `I am on the jade plan.`
    AmOn,
}

/// One line of the shop's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The plan it is about.
    pub plan: &'static str,
    /// What it says about the plan.
    pub aspect: Aspect,
    /// How many coins or days.
    pub number: u32,
}

impl Display for Fact {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            plan,
            aspect,
            number,
        } = self;
        let (verb, unit) = (aspect.verb(), aspect.unit());
        write!(f, "the {plan} plan {verb} {number} {unit}.")
    }
}

/// How a private prompt ends: people press return, programs may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With the question mark.
    QuestionMark,
    /// With a line break after it.
    LineBreak,
}

/// The public half: how to greet, and what the shop knows.
///
/// As text it ends in a line break, which is a token of its own: whatever private prompt follows,
/// the tokens of the whole are the tokens of the halves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudPrompt {
    /// The word every answer begins with.
    pub greeting: &'static str,
    /// The list, in the order it is written.
    pub facts: Vec<Fact>,
}

impl Display for CloudPrompt {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let greeting = self.greeting;
        writeln!(
            f,
            "You work at the shop desk. Begin every answer with \"{greeting}\"."
        )?;
        self.facts
            .iter()
            .try_for_each(|fact| writeln!(f, "{}", capitalised(&fact.to_string())))
    }
}

/// The private half: who asks, about which plan, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivatePrompt {
    /// The guest's name.
    pub name: String,
    /// The guest's plan.
    pub plan: &'static str,
    /// How the guest gives the name.
    pub opening: Opening,
    /// How the guest gives the plan.
    pub plan_clause: PlanClause,
    /// How the guest asks.
    pub question: &'static str,
    /// How the text ends.
    pub ending: Ending,
}

impl PrivatePrompt {
    /// The plainest wording, and a line break:
    /// `My name is Ada. I have the jade plan. How much does it cost?`
    pub fn plain(name: &str, plan: &'static str, aspect: Aspect) -> Self {
        Self {
            name: name.to_owned(),
            plan,
            opening: Opening::MyNameIs,
            plan_clause: PlanClause::Have,
            question: aspect.questions()[0],
            ending: Ending::LineBreak,
        }
    }
}

impl Display for PrivatePrompt {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let opening = match self.opening {
            Opening::MyNameIs => "My name is",
            Opening::IAm => "I am",
        };
        let clause = match self.plan_clause {
            PlanClause::Have => "I have",
            PlanClause::AmOn => "I am on",
        };
        let Self {
            name,
            plan,
            question,
            ..
        } = self;
        write!(f, "{opening} {name}. {clause} the {plan} plan. {question}")?;
        match self.ending {
            Ending::QuestionMark => Ok(()),
            Ending::LineBreak => writeln!(f),
        }
    }
}

/// The sentence `text` with a capital first letter.
fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}
