//! Server-sent events out of bytes that come in any pieces. Only their data is kept: OpenAI's
//! streams use nothing else.

/// Most bytes of one event: a token's log-probabilities have some thousand.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// An event is longer than any that is expected.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent an event of more than 1 MiB")]
pub(crate) struct EventTooLong;

/// Puts events together.
#[derive(Default)]
pub(crate) struct SseParser {
    /// The line that has begun.
    line: Vec<u8>,
    /// The data lines of the event that has begun.
    data: Option<Vec<u8>>,
    /// The last byte was a carriage return, which a line feed may belong to.
    after_return: bool,
}

impl SseParser {
    /// Takes in bytes and gives the data of the events that they complete.
    ///
    /// # Errors
    /// [`EventTooLong`], after which nothing more should be given.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, EventTooLong> {
        let mut events = Vec::new();
        for &byte in bytes {
            let is_second_half = byte == b'\n' && self.after_return;
            self.after_return = byte == b'\r';
            match byte {
                b'\n' if is_second_half => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => {
                    let held = self.line.len() + self.data.as_ref().map_or(0, Vec::len);
                    if held >= EVENT_BYTES_MAX {
                        return Err(EventTooLong);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(events)
    }

    /// The event that the stream ended in. The standard drops it; servers that forget the last
    /// empty line mean it.
    pub(crate) fn finish(mut self) -> Option<String> {
        let ended = (!self.line.is_empty()).then(|| self.end_line()).flatten();
        ended.or_else(|| self.dispatch())
    }

    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.dispatch();
        }
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line);
        let value = match line.strip_prefix(b"data") {
            Some([]) => &[],
            Some([b':', b' ', value @ ..] | [b':', value @ ..]) => value,
            // A comment, or a field that nobody reads.
            Some(_) | None => return None,
        };
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => self.data = Some(value.to_vec()),
        }
        None
    }

    fn dispatch(&mut self) -> Option<String> {
        let data = self.data.take()?;
        Some(String::from_utf8_lossy(&data).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        for piece in pieces {
            events.extend(parser.push(piece).unwrap());
        }
        events.extend(parser.finish());
        events
    }

    #[test]
    fn events_end_with_an_empty_line_of_any_kind() {
        let stream = "data: one\n\n: ping\n\nevent: x\r\ndata:two\r\n\r\ndata: a\rdata: b\r\r\
            id: 7\n\ndata\n\ndata: c\r\ndata: d\r\n\r\ndata: [DONE]";
        let events = parsed([stream.as_bytes()]);
        assert_eq!(events, ["one", "two", "a\nb", "", "c\nd", "[DONE]"]);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = SseParser::default();
        let piece = vec![b'x'; 1 << 16];
        let mut pieces = std::iter::repeat_n(&piece, 17).map(|piece| parser.push(piece));
        assert!(pieces.any(|pushed| pushed == Err(EventTooLong)));
        let mut parser = SseParser::default();
        let line = [b"data: ".as_slice(), &piece, b"\n"].concat();
        let mut pieces = std::iter::repeat_n(&line, 17).map(|piece| parser.push(piece));
        assert!(pieces.any(|pushed| pushed == Err(EventTooLong)));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_a_stream_is_cut(
            texts in prop::collection::vec("[a-zé🦀 :\"{}]{0,12}", 1..6),
            end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let stream: String = texts.iter().map(|text| format!("data: {text}{end}{end}")).collect();
            let bytes = stream.as_bytes();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
            cuts.sort_unstable();
            let begins = std::iter::once(0).chain(cuts.iter().copied());
            let ends = cuts.iter().copied().chain([bytes.len()]);
            let pieces = begins.zip(ends).map(|(begin, end)| &bytes[begin..end]);
            prop_assert_eq!(parsed(pieces), texts.clone());
            prop_assert_eq!(parsed(bytes.chunks(1)), texts);
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            parsed([bytes.as_slice()]);
        }
    }
}
