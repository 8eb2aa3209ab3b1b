//! Ends an answer at a stop string, wherever tokens cut it, and never shows a part of one.

/// Watches an answer's text for stop strings. Deliberately not `Debug`: it holds back text.
#[derive(Clone, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

/// Text that can be shown, and whether the answer ends there.
#[derive(Clone, PartialEq, Eq)]
pub struct Matched {
    /// The text.
    pub text: String,
    /// Whether a stop string came after it.
    pub stopped: bool,
}

impl StopMatcher {
    /// Ends at the first of `stops`; empty ones are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|stop| !stop.is_empty());
        Self {
            stops: stops.collect(),
            held: String::new(),
        }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, text: &str) -> Matched {
        self.held.push_str(text);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop))
            .min();
        if let Some(at) = first {
            let text = self.held[..at].to_owned();
            self.held.clear();
            return Matched {
                text,
                stopped: true,
            };
        }
        let longest = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max();
        let keep = self.held.len() - longest.unwrap_or(0);
        let rest = self.held.split_off(keep);
        Matched {
            text: std::mem::replace(&mut self.held, rest),
            stopped: false,
        }
    }

    /// The text held back, once nothing follows.
    pub fn finish(self) -> String {
        self.held
    }
}

/// Bytes of the longest end of `text` that `stop` begins with.
fn overlap(text: &str, stop: &str) -> usize {
    let lens = (1..stop.len().min(text.len() + 1)).rev();
    let fits = |len: &usize| stop.is_char_boundary(*len) && text.ends_with(&stop[..*len]);
    lens.into_iter().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut shown = String::new();
        for piece in pieces {
            let matched = matcher.push(piece);
            shown += &matched.text;
            if matched.stopped {
                return (shown, true);
            }
        }
        (shown + &matcher.finish(), false)
    }

    #[test]
    fn a_stop_string_across_pieces_ends_the_answer() {
        assert_eq!(
            run(&["END"], &["say E", "N", "D more"]),
            ("say ".to_owned(), true)
        );
        assert_eq!(
            run(&["END"], &["say E", "N", "OUGH"]),
            ("say ENOUGH".to_owned(), false)
        );
        assert_eq!(run(&["b", "ab"], &["xab"]), ("x".to_owned(), true));
        assert_eq!(run(&[], &["a", "b"]), ("ab".to_owned(), false));
    }

    #[test]
    fn nothing_is_held_back_that_cannot_be_a_stop() {
        let mut matcher = StopMatcher::new(vec!["\n\n".to_owned()]);
        assert!(matcher.push("line").text == "line");
        assert!(matcher.push("\n").text.is_empty());
        assert!(matcher.push("next").text == "\nnext");
    }

    proptest! {
        #[test]
        fn pieces_give_what_the_whole_gives(
            pieces in proptest::collection::vec("[abä]{0,4}", 0..10),
            stops in proptest::collection::vec("[abä]{0,3}", 0..3),
        ) {
            let whole = pieces.concat();
            let found = stops.iter().filter(|stop| !stop.is_empty());
            // The first stop string that is complete ends the answer, so no stop string is shown.
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (shown, stopped) = run(&stops, &pieces);
            let first = found.clone().filter_map(|stop| whole.find(stop.as_str())).min();
            prop_assert_eq!(stopped, first.is_some());
            prop_assert!(whole.starts_with(&shown));
            for stop in found {
                prop_assert!(!shown.contains(stop.as_str()));
            }
            if !stopped {
                prop_assert_eq!(shown, whole);
            }
        }
    }
}
