//! Who leaves when, with how much context, and what things cost.

use thiserror::Error;

use super::kv_size::KvTokenBits;
use super::link_rate::LinkRate;
use super::number::{InvalidNumber, not_negative};
use super::prefill::PrefillModel;

/// Most users that are planned together: ten times what one cell serves.
pub const USERS_MAX: usize = 100_000;

/// One user's session, as far as a plan needs it. Times count from the scenario's time 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct User {
    /// τ: when the source stops and the target must go on.
    pub leaves_at_s: f64,
    /// When it is known that the user will leave: work may begin. At the latest at τ.
    pub known_at_s: f64,
    /// C: tokens of the private context at τ.
    pub context_len: u32,
    /// Tokens before them that the target has already: the cloud prompt.
    pub past_len: u32,
    /// How fast the source decodes from `known_at_s` to τ; those tokens are part of C.
    pub decode_tokens_per_s: f64,
}

impl User {
    /// A user of whom nothing is known before it leaves.
    pub const fn leaving(leaves_at_s: f64, context_len: u32) -> Self {
        Self {
            leaves_at_s,
            known_at_s: leaves_at_s,
            context_len,
            past_len: 0,
            decode_tokens_per_s: 0.0,
        }
    }
}

/// What it takes to bring a session to the target.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// Of a token's keys and values on the link.
    pub kv: KvTokenBits,
    /// Of a prefill at the target.
    pub prefill: PrefillModel,
    /// The link from source to target.
    pub link: LinkRate,
}

/// How source and target work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rhythm {
    /// T_c: a batch begins at a multiple of this; 0 for at once.
    pub cycle_s: f64,
    /// Tokens whose keys and values are sent together while the source still decodes.
    pub block_len: u32,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self {
            cycle_s: 0.0,
            block_len: 16,
        }
    }
}

/// What is wrong with a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum ScenarioError {
    /// A number.
    #[error(transparent)]
    Number(#[from] InvalidNumber),
    /// No users, or too many.
    #[error("1 to {USERS_MAX} users are planned together, and these are {0}")]
    UserCount(usize),
    /// A user about whom is known too late.
    #[error(
        "user {0} leaves before it is known that it will: known_at_s must not be after leaves_at_s"
    )]
    KnownTooLate(usize),
    /// Blocks of no tokens.
    #[error("a block must have at least one token")]
    EmptyBlock,
}

/// Users that leave together, and what that costs. Its numbers are checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    users: Vec<User>,
    by_leaving: Vec<usize>,
    costs: Costs,
    rhythm: Rhythm,
}

impl Scenario {
    /// Of users in any order.
    ///
    /// # Errors
    /// If there are none or too many, or a number is none that can be meant.
    pub fn new(users: Vec<User>, costs: Costs, rhythm: Rhythm) -> Result<Self, ScenarioError> {
        if users.is_empty() || users.len() > USERS_MAX {
            return Err(ScenarioError::UserCount(users.len()));
        }
        for (index, user) in users.iter().enumerate() {
            not_negative("leaving time of a user in s", user.leaves_at_s)?;
            not_negative("time in s when a user's leaving is known", user.known_at_s)?;
            not_negative("tokens per second of a user", user.decode_tokens_per_s)?;
            if user.known_at_s > user.leaves_at_s {
                return Err(ScenarioError::KnownTooLate(index));
            }
        }
        not_negative("cycle in s", rhythm.cycle_s)?;
        if rhythm.block_len == 0 {
            return Err(ScenarioError::EmptyBlock);
        }
        let mut by_leaving: Vec<usize> = (0..users.len()).collect();
        by_leaving.sort_by(|a, b| users[*a].leaves_at_s.total_cmp(&users[*b].leaves_at_s));
        Ok(Self {
            users,
            by_leaving,
            costs,
            rhythm,
        })
    }

    /// The users as they were given.
    pub fn users(&self) -> &[User] {
        &self.users
    }

    /// What things cost.
    pub const fn costs(&self) -> &Costs {
        &self.costs
    }

    /// How source and target work.
    pub const fn rhythm(&self) -> Rhythm {
        self.rhythm
    }

    /// Indices of the users in the order in which they leave.
    pub fn by_leaving(&self) -> &[usize] {
        &self.by_leaving
    }

    /// The users in the order in which they leave.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = &User> {
        self.by_leaving.iter().map(|index| &self.users[*index])
    }

    /// t_s: when a batch of all begins, the first cycle after the last one has left.
    pub fn batch_starts_at_s(&self) -> f64 {
        let last = self.by_leaving[self.by_leaving.len() - 1];
        let last_s = self.users[last].leaves_at_s;
        match self.rhythm.cycle_s {
            cycle if cycle <= 0.0 => last_s,
            // Never before τ, whatever rounding does.
            cycle => ((last_s / cycle).ceil() * cycle).max(last_s),
        }
    }

    /// C_max: tokens of the longest context.
    pub fn context_len_max(&self) -> u32 {
        let lens = self.users.iter().map(|user| user.context_len);
        lens.max().unwrap_or_default()
    }
}
