//! Which of the kept prompts a word on the command line means: an id, a name, or the beginning of an
//! id. Pure.

use edgeprompt_kv::PromptId;
use edgeprompt_protocol::PromptName;

/// Shortest beginning of an id: fewer digits are a slip.
const DIGITS_MIN: usize = 4;

/// Most prompts that an error lists.
const LISTED_MAX: usize = 8;

/// Why a word means no prompt.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotMeant {
    /// Nothing that is kept.
    #[error("{0} is not in the disk cache: `edge-node kv ls` lists what is")]
    Unknown(String),
    /// Several things.
    #[error("{word} means {count} prompts: give more of the id of one of {listed}")]
    Several {
        /// The word.
        word: String,
        /// How many.
        count: usize,
        /// The first of them.
        listed: String,
    },
}

/// What `word` means among the prompts that are `kept`, which have these names.
///
/// # Errors
/// [`NotMeant`].
pub(crate) fn meant(
    word: &str,
    kept: &[PromptId],
    names: &[(PromptName, PromptId)],
) -> Result<PromptId, NotMeant> {
    let mut ids = by_id(word, kept);
    if ids.is_empty() {
        ids = by_name(word, kept, names);
    }
    if ids.is_empty() {
        ids = by_beginning(word, kept);
    }
    ids.sort();
    ids.dedup();
    match ids[..] {
        [] => Err(NotMeant::Unknown(word.to_owned())),
        [id] => Ok(id),
        _ => Err(NotMeant::Several {
            word: word.to_owned(),
            count: ids.len(),
            listed: listed(&ids, names),
        }),
    }
}

fn by_id(word: &str, kept: &[PromptId]) -> Vec<PromptId> {
    let Ok(id) = word.parse() else {
        return Vec::new();
    };
    kept.iter().copied().filter(|kept| *kept == id).collect()
}

fn by_name(word: &str, kept: &[PromptId], names: &[(PromptName, PromptId)]) -> Vec<PromptId> {
    let named = names.iter().filter(|(name, _)| name.as_str() == word);
    let ids = named.map(|(_, id)| *id);
    ids.filter(|id| kept.contains(id)).collect()
}

fn by_beginning(word: &str, kept: &[PromptId]) -> Vec<PromptId> {
    if word.len() < DIGITS_MIN {
        return Vec::new();
    }
    let word = word.to_ascii_lowercase();
    let begins = |id: &PromptId| id.to_string().starts_with(&word);
    kept.iter().copied().filter(begins).collect()
}

fn listed(ids: &[PromptId], names: &[(PromptName, PromptId)]) -> String {
    let one = |id: &PromptId| {
        let names = names.iter().filter(|(_, other)| other == id);
        let mut names: Vec<_> = names.map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        match names.is_empty() {
            true => id.to_string(),
            false => format!("{id} ({})", names.join(", ")),
        }
    };
    let mut listed: Vec<_> = ids.iter().take(LISTED_MAX).map(one).collect();
    if let Some(more @ 1..) = ids.len().checked_sub(LISTED_MAX) {
        listed.push(format!("{more} more"));
    }
    listed.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> PromptId {
        format!("{text:0<64}").parse().unwrap()
    }

    #[test]
    fn a_word_is_an_id_a_name_or_the_one_beginning() {
        let (first, second, third) = (id("abcd1"), id("abcd2"), id("dead1"));
        let kept = [first, second, third];
        let name = |text: &str| text.parse::<PromptName>().unwrap();
        let names = [
            (name("desk"), first),
            (name("gone"), id("1")),
            // A name wins over the beginning of an id.
            (name("dead"), second),
            (name("both"), first),
            (name("both"), third),
        ];
        let meant = |word: &str| meant(word, &kept, &names);
        assert_eq!(meant(&first.to_string()), Ok(first));
        assert_eq!(meant("desk"), Ok(first));
        assert_eq!(meant("dead"), Ok(second));
        assert_eq!(meant("dead1"), Ok(third));
        assert_eq!(meant("ABCD2"), Ok(second));
        for unknown in ["gone", "abcd3", "dea", "", "zzzz"] {
            assert_eq!(meant(unknown), Err(NotMeant::Unknown(unknown.to_owned())));
        }
        for word in ["abcd", "both"] {
            let several = meant(word).unwrap_err().to_string();
            assert!(several.contains("means 2 prompts"), "{several}");
            assert!(several.contains(&format!("{first} (both, desk)")));
        }
    }

    #[test]
    fn an_error_lists_only_some() {
        let kept: Vec<_> = (10..20)
            .map(|number| id(&format!("abcd{number}")))
            .collect();
        let several = meant("abcd", &kept, &[]).unwrap_err().to_string();
        assert!(several.ends_with(", 2 more"), "{several}");
    }
}
