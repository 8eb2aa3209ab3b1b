//! Which combinations training may see. A combination is reserved by its hash, so that no list of
//! reserved ones has to travel with the model.

use super::prompt::Fact;

/// One combination in this many is reserved.
const RESERVED_EVERY: u64 = 8;

/// Where a combination may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Seen in training.
    Training,
    /// Never seen in training.
    HeldOut,
}

impl Split {
    /// Where the combination of a plan, an aspect and a number belongs.
    pub fn of_fact(fact: &Fact) -> Self {
        Self::of(&format!(
            "{} {} {}",
            fact.plan,
            fact.aspect.verb(),
            fact.number
        ))
    }

    /// Where the combination of a guest and a plan belongs.
    pub fn of_guest(name: &str, plan: &str) -> Self {
        Self::of(&format!("{name} {plan}"))
    }

    fn of(combination: &str) -> Self {
        if fnv1a(combination).is_multiple_of(RESERVED_EVERY) {
            Self::HeldOut
        } else {
            Self::Training
        }
    }
}

/// FNV-1a, 64 bits, with a final mix: the low bits of plain FNV hardly depend on the first bytes.
fn fnv1a(text: &str) -> u64 {
    let folded = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (folded ^ (folded >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop_desk::{Aspect, NAMES, NUMBERS, PLANS};

    #[test]
    fn every_plan_and_every_name_has_both_kinds_of_combination() {
        for plan in PLANS {
            for aspect in Aspect::ALL {
                let reserved = NUMBERS
                    .filter(|&number| {
                        let fact = Fact {
                            plan,
                            aspect,
                            number,
                        };
                        Split::of_fact(&fact) == Split::HeldOut
                    })
                    .count();
                assert!((1..45).contains(&reserved), "{plan} {aspect:?}: {reserved}");
            }
        }
        for name in NAMES {
            let reserved = PLANS
                .iter()
                .filter(|plan| Split::of_guest(name, plan) == Split::HeldOut)
                .count();
            assert!(reserved < 20, "{name}: {reserved}");
        }
    }
}
