//! What the demo prints. A reader who has never seen it should come away knowing what stayed
//! private, what crossed the network, and that the answer is exact.

use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::time::Duration;

use edgeprompt_kv::TokenId;
use edgeprompt_launch::{Failure, say};
use edgeprompt_model::Model;
use edgeprompt_protocol::codec::decode_request;
use edgeprompt_protocol::frame::FRAME_PREFIX_BYTES;
use edgeprompt_protocol::{CloudRequest, PromptRef};
use edgeprompt_telemetry::gantt::{self, GanttStyle};

use super::{CLOUD_PROMPT_NAME, CLOUD_TEXT, Demo, Local, Round};
use crate::private::{PrivateText, PrivateTokens};

const WIDTH: usize = 80;

/// A part of the page, printed in one piece.
#[derive(Default)]
struct Part(String);

impl Part {
    fn line(&mut self, text: impl Display) {
        // A string takes everything.
        let _ = writeln!(self.0, "{text}");
    }

    fn heading(&mut self, text: &str) {
        self.line(text);
        self.line("-".repeat(text.chars().count()));
    }

    fn quote(&mut self, text: &str) {
        for line in text.trim_end().lines() {
            self.line(format_args!("  {line}"));
        }
        self.line("");
    }

    fn row(&mut self, name: &str, text: impl Display) {
        self.line(format_args!("{name:<22} {text}"));
    }

    fn print(self) -> Result<(), Failure> {
        say(self.0)
    }
}

pub(super) fn title(rtt: Duration) -> Result<(), Failure> {
    let mut part = Part::default();
    part.line("edgeprompt demo: a cloud node and an edge node on this machine, linked by QUIC");
    part.line(format_args!(
        "(mutually authenticated, round trip {}); the built-in model knows one trade:",
        ms(rtt)
    ));
    part.line("it answers a guest's question from the facts in the cloud prompt.\n");
    part.print()
}

pub(super) fn prompts(
    model: &Model,
    cloud: &[TokenId],
    (text, private): (&PrivateText, &PrivateTokens),
) -> Result<(), Failure> {
    let mut part = Part::default();
    part.heading(&format!(
        "PUBLIC: cloud prompt \"{CLOUD_PROMPT_NAME}\", {} tokens",
        cloud.len()
    ));
    part.quote(CLOUD_TEXT);
    let token = |token: Option<&TokenId>| {
        let text = token.and_then(|token| model.tokenizer().ok()?.token_text(*token));
        format!("{:?}", text.unwrap_or_default())
    };
    let cut = format!(
        "cut after token {}: {} | {}",
        cloud.len(),
        token(cloud.last()),
        token(private.for_engine().first())
    );
    part.line(format_args!("{cut:~^WIDTH$}"));
    part.heading(&format!(
        "PRIVATE: edge prompt, {} tokens; it never leaves the edge",
        private.len()
    ));
    part.quote(text.for_tokenizer());
    part.heading("ANSWER, generated on the edge");
    part.0.push_str("  ");
    part.print()
}

/// Standard output for an answer that has its place on the page.
pub(super) struct Indented<W>(pub(super) W);

impl<W: Write> Write for Indented<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        // The model's own line breaks would leave the page's margin; the last one ends the answer.
        if text == b"\n" {
            self.0.write_all(b"\n\n")?;
            return Ok(text.len());
        }
        for line in text.split(|byte| *byte == b'\n') {
            self.0.write_all(line)?;
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

pub(super) fn results(
    demo: &Demo,
    round: &Round,
    local: &Local,
    text: &PrivateText,
) -> Result<(), Failure> {
    let mut part = Part::default();
    let style = GanttStyle::of(&io::stdout());
    part.line(gantt::render(&round.answered.timeline, style));
    part.heading("WHAT HAPPENED");
    times(&mut part, round, local);
    bytes(&mut part, demo, round);
    seen(&mut part, demo, round, text);
    let (same, count) = (local.tokens == round.answered.tokens, local.tokens.len());
    match same {
        true => part.row(
            "single machine",
            format_args!("the same {count} tokens: the split is exact"),
        ),
        false => part.row("single machine", "DIFFERENT tokens: this is a defect"),
    }
    if let Some(recomputed) = &round.answered.recomputed {
        let (count, detail) = (recomputed.layer_count, &recomputed.loss.detail);
        part.row(
            "computed here instead",
            format_args!("{count} layers: {detail}"),
        );
    }
    part.print()
}

fn times(part: &mut Part, round: &Round, local: &Local) {
    let timeline = &round.answered.timeline;
    let pipeline = timeline.pipeline();
    part.row("time to first token", ms(timeline.ttft.unwrap_or_default()));
    part.row(
        "  predicted",
        format_args!(
            "{} (cloud, link and edge in step: the flow-shop formula)",
            ms(pipeline.flow_shop())
        ),
    );
    part.row(
        "  without a cloud",
        format_args!("{} (both prompts computed here)", ms(local.ttft)),
    );
    part.row("pipeline", pipeline.regime());
}

fn bytes(part: &mut Part, demo: &Demo, round: &Round) {
    let stats = demo.link.stats();
    let messages = demo.uplink.sent().frames();
    let request_bytes: usize = messages.iter().map(|frame| frame.len()).sum();
    let (up, down, kv) = (
        stats.sent_bytes,
        stats.received_bytes,
        round.answered.received_bytes,
    );
    part.row(
        "bytes edge to cloud",
        format_args!("{up} on the wire, of which the request {request_bytes}"),
    );
    part.row(
        "bytes cloud to edge",
        format_args!("{down} on the wire, of which keys and values {kv}"),
    );
}

/// What the cloud was sent, and whether anything private is in it: searched, not assumed.
fn seen(part: &mut Part, demo: &Demo, round: &Round, text: &PrivateText) {
    let sent = demo.uplink.sent();
    for frame in sent.frames() {
        let seen = frame
            .get(FRAME_PREFIX_BYTES..)
            .and_then(|body| decode_request(body).ok());
        let seen = seen.map_or_else(String::new, |request| described(&request));
        part.row("what the cloud saw", seen);
    }
    let bytes = sent.bytes();
    let words = text
        .for_tokenizer()
        .split_whitespace()
        .filter(|word| word.len() > 2);
    let found = words
        .filter(|word| contains(&bytes, word.as_bytes()))
        .count();
    let ids = round.private.for_engine().windows(2).filter(|pair| {
        let little_endian: Vec<u8> = pair
            .iter()
            .flat_map(|token| token.0.to_le_bytes())
            .collect();
        contains(&bytes, &little_endian)
    });
    match found + ids.count() {
        0 => part.row(
            "  anything private?",
            "no: its words and token ids are not among those bytes",
        ),
        count => part.row(
            "  anything private?",
            format_args!("YES, {count} times: this is a defect"),
        ),
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// A request in words. Everything an edge can ask has a place here.
fn described(request: &CloudRequest) -> String {
    let fetch = match request {
        CloudRequest::ListPrompts => return "which prompts are there?".to_owned(),
        CloudRequest::Fetch(fetch) => fetch,
    };
    let mut text = String::from("send ");
    let prompt = match &fetch.prompt {
        PromptRef::Named(name) => format!("the prompt \"{name}\""),
        PromptRef::Id(id) => format!("the prompt {}", id.short()),
        PromptRef::Public(_) => "a prompt declared public".to_owned(),
    };
    let _ = write!(
        text,
        "{prompt} for model {}, all layers",
        fetch.model.short()
    );
    text
}

pub(super) fn interactive_help() -> Result<(), Failure> {
    let mut part = Part::default();
    part.line("");
    part.heading("YOUR TURN: private prompts, one a line; an empty line ends");
    part.line("Try: I am Grace. I am on the ruby plan. How long does it last?\n");
    part.print()
}

pub(super) fn interactive_result(ttft: Option<Duration>) -> Result<(), Failure> {
    let ttft = ms(ttft.unwrap_or_default());
    say(format_args!(
        "  (first token after {ttft}; the cloud prompt was here already, nothing was sent)\n\n"
    ))
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
