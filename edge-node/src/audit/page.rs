//! What an audit prints: every message in words and in bytes, every session, and the verdict.

use edgeprompt_protocol::PromptName;

use super::findings::{Finding, Session, in_words, request_of};

/// Bytes of a line of a dump.
const LINE_BYTES: usize = 16;
/// Bytes of a message that are printed; a longer one holds public text, and its length is told.
const DUMP_BYTES_MAX: usize = 1024;

pub(super) fn title(cases: u64, prompt: &PromptName, cloud: &str) -> String {
    format!(
        "PRIVACY AUDIT\n\
         {cases} sessions ask the cloud at {cloud} for its prompt {prompt}, each with another\n\
         private prompt, of another length, with a canary: a word that occurs nowhere else.\n\n"
    )
}

pub(super) fn report(sessions: &[Session], found: &[Finding]) -> String {
    let mut page = "WHAT WAS SENT TO THE CLOUD, before encryption\n".to_owned();
    for (number, session) in (1..).zip(sessions) {
        if number == 1 || session.frames != sessions[0].frames {
            page += &messages(number, session);
        }
    }
    page += "\nSESSIONS\n";
    page +=
        "session  private tokens  messages  bytes  same bytes as session 1  bytes of datagrams\n";
    for (number, session) in (1..).zip(sessions) {
        let bytes: usize = session.frames.iter().map(Vec::len).sum();
        let same = match session.frames == sessions[0].frames {
            true => "yes",
            false => "NO",
        };
        let (tokens, messages) = (session.private_len, session.frames.len());
        let datagrams = session.datagram_bytes;
        page += &format!(
            "{number:>7}  {tokens:>14}  {messages:>8}  {bytes:>5}  {same:>23}  {datagrams:>18}\n"
        );
    }
    page += "\nDatagrams also carry the handshake and acknowledgements, so their bytes vary with timing.\n";
    page + &verdict(sessions.len(), found)
}

/// What one session sent, in words and in bytes.
fn messages(number: usize, session: &Session) -> String {
    let mut text = String::new();
    for (message, frame) in (1..).zip(&session.frames) {
        let words = request_of(frame).map_or_else(
            || "NOT A REQUEST OF THE PROTOCOL".to_owned(),
            |request| in_words(&request),
        );
        let bytes = frame.len();
        text += &format!("\nsession {number}, message {message}, {bytes} bytes: \"{words}\"\n");
        text += &dump(frame);
    }
    text
}

/// Offset, hexadecimal digits and printable characters of a message.
fn dump(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(DUMP_BYTES_MAX)];
    let mut text = String::new();
    for (line, chunk) in shown.chunks(LINE_BYTES).enumerate() {
        let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let printable = |byte: &u8| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '.',
        };
        let characters: String = chunk.iter().map(printable).collect();
        let at = line * LINE_BYTES;
        text += &format!("  {at:06x}  {:<47}  {characters}\n", hex.join(" "));
    }
    if shown.len() < bytes.len() {
        text += &format!("  and {} more bytes\n", bytes.len() - shown.len());
    }
    text
}

fn verdict(session_count: usize, found: &[Finding]) -> String {
    if found.is_empty() {
        return format!(
            "\nVERDICT\n\
             CLEAN. All {session_count} sessions sent the same bytes, and no canary was in them.\n\
             What was sent does not depend on the private prompt. What a cloud can still see is when\n\
             this edge asks, for which prompt and layers, with which model, and how fast it reads.\n"
        );
    }
    let mut text = "\nVERDICT\nNOT CLEAN.\n".to_owned();
    for finding in found {
        text += &format!("- {finding}\n");
    }
    let is_different = |finding: &Finding| matches!(finding, Finding::Differs { .. });
    if found.iter().any(is_different) {
        text += "A link that is lost on the way makes an edge ask again for what is missing, and then\n";
        text += "the bytes differ too: if the messages above show that, repeat the audit.\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_shows_places_digits_and_characters() {
        let dump = dump(b"0123456789abcdef\x00z");
        let lines: Vec<_> = dump.lines().collect();
        assert_eq!(
            lines[0],
            "  000000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef"
        );
        assert!(lines[1].starts_with("  000010  00 7a  "));
        assert!(lines[1].ends_with("  .z"));
    }

    #[test]
    fn a_long_message_is_cut_and_its_length_told() {
        let dump = dump(&[7; DUMP_BYTES_MAX + 5]);
        assert_eq!(dump.lines().count(), DUMP_BYTES_MAX / LINE_BYTES + 1);
        assert!(dump.ends_with("and 5 more bytes\n"));
    }
}
