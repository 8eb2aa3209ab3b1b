//! What the messages of several sessions say about their private prompts. Pure.

use edgeprompt_protocol::frame::{self, FrameProgress};
use edgeprompt_protocol::{CloudRequest, PromptRef, PublicPrompt, codec};

use crate::audit::canary::{Canary, Trace};
use crate::model_question;

/// One session: what it sent, and what must not be in it. Deliberately not `Debug`.
pub struct Session {
    /// Tokens of its private prompt.
    pub private_len: usize,
    /// What its private prompt can be told by.
    pub canary: Canary,
    /// The messages it sent, in plaintext, each with its length prefix.
    pub frames: Vec<Vec<u8>>,
    /// Messages that were sent and not kept.
    pub omitted_count: usize,
    /// Bytes of all its datagrams: handshake, messages and acknowledgements, encrypted.
    pub datagram_bytes: u64,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// There is nothing to judge by.
    #[error("no session sent anything")]
    Nothing,
    /// A session sent other bytes than the first one.
    #[error("session {session} sent other bytes than session 1, from byte {at} on")]
    Differs {
        /// The session, counted from 1.
        session: usize,
        /// The first byte that differs.
        at: usize,
    },
    /// A message holds a canary.
    #[error("message {message} of session {session} holds the canary of session {canary}: {trace}")]
    Canary {
        /// The session that sent it, counted from 1.
        session: usize,
        /// The message, counted from 1.
        message: usize,
        /// The session whose private prompt it is of.
        canary: usize,
        /// In which form.
        trace: Trace,
    },
    /// A message is not one of the protocol's.
    #[error("message {message} of session {session} is not a request of the protocol")]
    Unreadable {
        /// The session, counted from 1.
        session: usize,
        /// The message, counted from 1.
        message: usize,
    },
    /// Some messages were not kept, so nothing can be said of them.
    #[error("session {session} sent {count} more messages than the record holds")]
    Omitted {
        /// The session, counted from 1.
        session: usize,
        /// How many.
        count: usize,
    },
}

/// Everything that is wrong with what `sessions` sent; nothing if they are clean.
pub fn findings(sessions: &[Session]) -> Vec<Finding> {
    let sent: Vec<Vec<u8>> = sessions.iter().map(|s| s.frames.concat()).collect();
    let mut found = Vec::new();
    if sent.first().is_none_or(Vec::is_empty) {
        found.push(Finding::Nothing);
    }
    for ((session, of), bytes) in (1..).zip(sessions).zip(&sent) {
        if let Some(at) = first_difference(&sent[0], bytes) {
            found.push(Finding::Differs { session, at });
        }
        if of.omitted_count > 0 {
            let count = of.omitted_count;
            found.push(Finding::Omitted { session, count });
        }
        for (message, frame) in (1..).zip(&of.frames) {
            if request_of(frame).is_none() {
                found.push(Finding::Unreadable { session, message });
            }
            let canaries = (1..).zip(sessions);
            found.extend(canaries.filter_map(|(canary, owner)| {
                let trace = owner.canary.found_in(frame)?;
                Some(Finding::Canary {
                    session,
                    message,
                    canary,
                    trace,
                })
            }));
        }
    }
    found
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    (common < a.len().max(b.len())).then_some(common)
}

/// The request that a frame holds, if it holds exactly one.
pub fn request_of(frame: &[u8]) -> Option<CloudRequest> {
    match frame::parse(frame) {
        Ok(FrameProgress::Whole { body, rest: [] }) => codec::decode_request(body).ok(),
        Ok(FrameProgress::Whole { .. } | FrameProgress::Needs(_)) | Err(_) => None,
    }
}

/// A request in words. Everything an edge can ask has its words here, down to the last field.
pub fn in_words(request: &CloudRequest) -> String {
    let fetch = match request {
        CloudRequest::ListPrompts => return "which prompts do you serve by name?".to_owned(),
        CloudRequest::Fetch(fetch) => fetch,
    };
    if model_question::is_asked_by(fetch) {
        return format!("fetch {}: do you run model {}?", fetch.fetch.0, fetch.model);
    }
    let prompt = match &fetch.prompt {
        PromptRef::Named(name) => format!("the prompt that you call {name}"),
        PromptRef::Id(id) => format!("the prompt {id}"),
        PromptRef::Public(PublicPrompt::Text(text)) => {
            format!("this public text of {} bytes", text.len())
        }
        PromptRef::Public(PublicPrompt::Tokens(tokens)) => {
            format!("these {} public tokens", tokens.len())
        }
    };
    let layers = fetch.layers.map_or_else(
        || "all layers".to_owned(),
        |layers| format!("layers {:?}", layers.bounds()),
    );
    format!(
        "fetch {}: send the keys and values of {prompt}, {layers}, as {:?}, for model {}",
        fetch.fetch.0, fetch.dtype, fetch.model
    )
}

#[cfg(test)]
mod tests {
    use edgeprompt_kv::{KvDtype, LayerRange, ModelDigest, TokenId};
    use edgeprompt_protocol::{Fetch, FetchId};

    use super::*;

    fn fetch(prompt: PromptRef, layers: Option<LayerRange>) -> Vec<u8> {
        let fetch = Fetch {
            fetch: FetchId(0),
            model: ModelDigest::new([1; 32]),
            prompt,
            layers,
            dtype: KvDtype::F32,
        };
        let request = CloudRequest::Fetch(fetch);
        codec::encode_to_cloud(&request).unwrap().to_vec()
    }

    fn named() -> Vec<u8> {
        fetch(PromptRef::Named("desk".parse().unwrap()), None)
    }

    fn session(word: &str, first: u32, frames: Vec<Vec<u8>>) -> Session {
        let tokens: Vec<TokenId> = (first..first + 6).map(TokenId).collect();
        Session {
            private_len: 9,
            canary: Canary::new(word.to_owned(), &tokens),
            frames,
            omitted_count: 0,
            datagram_bytes: 4_000,
        }
    }

    #[test]
    fn equal_requests_without_a_canary_are_clean() {
        let sessions = [
            session("canaryone", 10, vec![named()]),
            session("canarytwo", 90, vec![named()]),
        ];
        assert_eq!(findings(&sessions), []);
    }

    #[test]
    fn a_private_prompt_in_a_request_is_found_in_every_way() {
        let leak = PublicPrompt::Text("the word is canarytwo".to_owned());
        let leaking = fetch(PromptRef::Public(leak), None);
        let sessions = [
            session("canaryone", 10, vec![named()]),
            session("canarytwo", 90, vec![leaking]),
        ];
        let [differs, canary] = findings(&sessions).try_into().unwrap();
        assert!(matches!(differs, Finding::Differs { session: 2, .. }));
        let trace = Trace::Word;
        let expected = Finding::Canary {
            session: 2,
            message: 1,
            canary: 2,
            trace,
        };
        assert_eq!(canary, expected);
    }

    #[test]
    fn a_length_that_depends_on_the_private_prompt_is_found() {
        let longer = fetch(
            PromptRef::Named("desk".parse().unwrap()),
            LayerRange::new(0, 2),
        );
        for frames in [vec![named(), named()], vec![longer]] {
            let sessions = [
                session("canaryone", 10, vec![named()]),
                session("canarytwo", 90, frames),
            ];
            let [only] = findings(&sessions).try_into().unwrap();
            assert!(matches!(only, Finding::Differs { session: 2, .. }));
        }
    }

    #[test]
    fn what_cannot_be_judged_is_not_clean() {
        assert_eq!(findings(&[]), [Finding::Nothing]);
        let silent = session("canaryone", 10, Vec::new());
        assert_eq!(findings(&[silent]), [Finding::Nothing]);
        let mut full = session("canaryone", 10, vec![named()]);
        full.omitted_count = 2;
        let omitted = Finding::Omitted {
            session: 1,
            count: 2,
        };
        assert_eq!(findings(&[full]), [omitted]);
        let garbage = session("canaryone", 10, vec![vec![1, 0, 0, 0, 255]]);
        let unreadable = Finding::Unreadable {
            session: 1,
            message: 1,
        };
        assert_eq!(findings(&[garbage]), [unreadable]);
    }

    #[test]
    fn words_tell_every_field() {
        let words = in_words(&request_of(&named()).unwrap());
        for part in ["fetch 0", "call desk", "all layers", "F32", "0101"] {
            assert!(words.contains(part), "{part} in {words}");
        }
    }
}
