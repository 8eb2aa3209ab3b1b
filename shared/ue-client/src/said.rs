//! What an edge node's events say. Pure.

use edgeprompt_handover::session::Epoch;
use serde_json::Value;

use crate::edge_url::EdgeUrl;
use crate::event::{FinishReason, Piece};
use crate::server_sent::Decoded;

/// Most tokens of one event; a server tells each as it comes.
const TOKENS_MAX: usize = 65_536;

/// One event in words. Deliberately not `Debug`.
#[derive(PartialEq, Eq)]
pub(crate) enum Said {
    /// Somebody is there.
    Alive,
    /// The answer goes on.
    Piece(Piece),
    /// And ends with it.
    Last(Piece, FinishReason),
    /// It goes on elsewhere.
    Moved {
        /// `None` if the node does not know where its users reach the other one.
        url: Option<EdgeUrl>,
        epoch: Epoch,
    },
    /// There will be no more here.
    Failed,
    /// The stream is complete.
    Done,
}

/// An event that no edge node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nonsense;

/// Understands an event.
///
/// # Errors
/// [`Nonsense`].
pub(crate) fn said(decoded: &Decoded) -> Result<Said, Nonsense> {
    let Decoded::Event { name, data } = decoded else {
        return Ok(Said::Alive);
    };
    match (name.as_str(), data.as_str()) {
        ("", "[DONE]") => Ok(Said::Done),
        ("", data) => serde_json::from_str(data)
            .map_err(|_| Nonsense)
            .and_then(|data| chunk(&data)),
        ("handover", data) => {
            let data: Value = serde_json::from_str(data).map_err(|_| Nonsense)?;
            moved(&data).ok_or(Nonsense)
        }
        // What may be said some day.
        _ => Ok(Said::Alive),
    }
}

fn moved(data: &Value) -> Option<Said> {
    let part = |index: usize| u32::try_from(data["epoch"].get(index)?.as_u64()?).ok();
    let epoch = Epoch {
        claim: part(0)?,
        hop: part(1)?,
    };
    let url = match &data["url"] {
        Value::Null => None,
        url => Some(url.as_str()?.parse().ok()?),
    };
    Some(Said::Moved { url, epoch })
}

fn chunk(data: &Value) -> Result<Said, Nonsense> {
    if !data["error"].is_null() {
        return Ok(Said::Failed);
    }
    let Some(choice) = data["choices"].get(0) else {
        // The usage.
        return Ok(Said::Alive);
    };
    let text = choice["text"]
        .as_str()
        .or_else(|| choice["delta"]["content"].as_str());
    let piece = Piece {
        text: text.unwrap_or_default().to_owned(),
        token_ids: token_ids(&choice["token_ids"]).ok_or(Nonsense)?,
    };
    match &choice["finish_reason"] {
        Value::Null => Ok(Said::Piece(piece)),
        reason => match reason.as_str() {
            Some("stop") => Ok(Said::Last(piece, FinishReason::Stop)),
            Some("length") => Ok(Said::Last(piece, FinishReason::Length)),
            _ => Err(Nonsense),
        },
    }
}

fn token_ids(value: &Value) -> Option<Vec<u32>> {
    if value.is_null() {
        return Some(Vec::new());
    }
    let ids = value.as_array().filter(|ids| ids.len() <= TOKENS_MAX)?;
    let id = |id: &Value| u32::try_from(id.as_u64()?).ok();
    ids.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn understood(name: &str, data: &str) -> Result<Said, Nonsense> {
        said(&Decoded::Event {
            name: name.to_owned(),
            data: data.to_owned(),
        })
    }

    fn piece(text: &str, token_ids: &[u32]) -> Piece {
        Piece {
            text: text.to_owned(),
            token_ids: token_ids.to_vec(),
        }
    }

    fn check(name: &str, data: &str, expected: Result<Said, Nonsense>) {
        assert!(understood(name, data) == expected, "{name} {data}");
    }

    #[test]
    fn chunks_of_both_endpoints_are_understood() {
        let text = r#"{"choices":[{"finish_reason":null,"text":"a","token_ids":[5]}]}"#;
        check("", text, Ok(Said::Piece(piece("a", &[5]))));
        let chat =
            r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null,"token_ids":[5]}]}"#;
        check("", chat, Ok(Said::Piece(piece("a", &[5]))));
        let last = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
        check("", last, Ok(Said::Last(piece("", &[]), FinishReason::Stop)));
        check("", r#"{"choices":[],"usage":{}}"#, Ok(Said::Alive));
        check("", r#"{"error":{"message":"x"}}"#, Ok(Said::Failed));
        check("", "[DONE]", Ok(Said::Done));
    }

    #[test]
    fn a_move_has_an_epoch_and_perhaps_a_url() {
        let epoch = Epoch { claim: 1, hop: 2 };
        let url = "http://b:1".parse().ok();
        check(
            "handover",
            r#"{"url":"http://b:1","epoch":[1,2]}"#,
            Ok(Said::Moved { url, epoch }),
        );
        let url = None;
        check(
            "handover",
            r#"{"url":null,"epoch":[1,2]}"#,
            Ok(Said::Moved { url, epoch }),
        );
        for bad in [
            r#"{"url":7,"epoch":[1,2]}"#,
            r#"{"url":null,"epoch":[1]}"#,
            r#"{"epoch":[-1,2]}"#,
            "7",
        ] {
            check("handover", bad, Err(Nonsense));
        }
        check("news", "whatever", Ok(Said::Alive));
    }

    #[test]
    fn what_no_edge_says_is_nonsense() {
        for bad in [
            "",
            "{",
            r#"{"choices":[{"token_ids":[-1]}]}"#,
            r#"{"choices":[{"token_ids":[4294967296]}]}"#,
            r#"{"choices":[{"token_ids":"x"}]}"#,
            r#"{"choices":[{"finish_reason":7}]}"#,
        ] {
            check("", bad, Err(Nonsense));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(name in "(handover)?", data in ".*") {
            let _ = understood(&name, &data);
        }
    }
}
