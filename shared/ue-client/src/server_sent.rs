//! Server-sent events from bytes as they come. Pure.

/// Longest line and longest event; a token's event has a few hundred bytes, and log-probabilities add
/// some thousand.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// One event. Deliberately not `Debug`: it has private text in it.
#[derive(PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A comment: somebody is there.
    Comment,
    /// Data under a name.
    Event {
        /// Empty for none.
        name: String,
        data: String,
    },
}

/// The server says more in one go than anybody should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// What has come of the event that is under way.
#[derive(Default)]
pub(crate) struct Decoder {
    line: Vec<u8>,
    name: String,
    data: String,
    has_data: bool,
}

impl Decoder {
    /// The events that these bytes complete.
    ///
    /// # Errors
    /// [`TooLong`].
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Decoded>, TooLong> {
        let mut decoded = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + self.data.len() + part.len() > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                // Half a character comes no better than none: what is said in it is JSON.
                let line = String::from_utf8_lossy(&line);
                decoded.extend(self.end_line(line.trim_end_matches(['\r', '\n'])));
            }
        }
        Ok(decoded)
    }

    fn end_line(&mut self, line: &str) -> Option<Decoded> {
        if line.is_empty() {
            let name = std::mem::take(&mut self.name);
            let data = std::mem::take(&mut self.data);
            let had_data = std::mem::take(&mut self.has_data);
            return had_data.then_some(Decoded::Event { name, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => return Some(Decoded::Comment),
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data += value;
            }
            // `id`, `retry` and what may come.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(name: &str, data: &str) -> Decoded {
        Decoded::Event {
            name: name.to_owned(),
            data: data.to_owned(),
        }
    }

    const STREAM: &str = "data: {\"a\":\"é\"}\n\n: ping\n\nevent: handover\r\ndata: 1\r\ndata: 2\r\n\r\nid: 7\n\ndata:x\n\n";

    fn expected() -> [Decoded; 4] {
        [
            event("", "{\"a\":\"é\"}"),
            Decoded::Comment,
            event("handover", "1\n2"),
            event("", "x"),
        ]
    }

    #[test]
    fn events_are_the_same_wherever_the_network_cuts_them() {
        for piece_len in 1..STREAM.len() {
            let mut decoder = Decoder::default();
            let pieces = STREAM.as_bytes().chunks(piece_len);
            let decoded: Vec<_> = pieces
                .flat_map(|piece| decoder.push(piece).unwrap())
                .collect();
            assert!(decoded == expected(), "pieces of {piece_len}");
        }
    }

    #[test]
    fn what_never_ends_is_refused() {
        let mut decoder = Decoder::default();
        let kilobyte = [b'x'; 1024];
        let refused = (0..2048).find(|_| decoder.push(&kilobyte).is_err());
        assert_eq!(refused, Some(1024));
        let mut decoder = Decoder::default();
        let line = [b"data: ", &kilobyte[..], b"\n"].concat();
        let refused = (0..2048).any(|_| decoder.push(&line).is_err());
        assert!(refused);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_much(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut decoder = Decoder::default();
            prop_assert!(decoder.push(&bytes).is_ok());
        }
    }
}
