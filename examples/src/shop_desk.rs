//! The shop desk: a language task whose right answer needs the public *and* the private prompt.
//!
//! The cloud prompt sets the greeting and lists facts about plans; the private prompt names a
//! guest, the guest's plan and a question. `Howdy Ada, the jade plan costs 42 coins.` takes the
//! greeting and the number from the cloud, the name and the plan from the edge.
//!
//! Everything here is generated from a seed; nothing here knows tensors.

mod case;
mod prompt;
mod split;
mod tokenizer;
mod vocabulary;

pub use case::{Case, CaseSampler, FactRange, NameStyle, held_out_cases};
pub use prompt::{Aspect, CloudPrompt, Ending, Fact, Opening, PlanClause, PrivatePrompt};
pub use split::Split;
pub use tokenizer::{
    BOS, EOS, TokenizerBuildError, build_tokenizer, tokenizer_config_json, tokenizer_json,
};
pub use vocabulary::{GREETINGS, NAMES, NUMBERS, PLANS};
