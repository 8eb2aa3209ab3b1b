//! What the demo prints. A reader who has never seen it should come away knowing what stayed
//! private, what crossed the network, and that the answer is exact.

#![allow(clippy::print_stdout, reason = "a demo is for reading")]

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use edgeprompt_kv::TokenId;
use edgeprompt_model::Model;
use edgeprompt_protocol::codec::decode_request;
use edgeprompt_protocol::frame::FRAME_PREFIX_BYTES;
use edgeprompt_protocol::{CloudRequest, PromptRef};
use edgeprompt_telemetry::gantt::{self, ColourMode, GanttStyle};

use super::{CLOUD_PROMPT_NAME, CLOUD_TEXT, Demo, Local, Round};
use crate::private::{PrivateText, PrivateTokens};

const WIDTH: usize = 80;

pub(super) fn title(rtt: Duration) {
    println!("edgeprompt demo: a cloud node and an edge node on this machine, linked by QUIC");
    println!("(mutually authenticated, round trip {})\n", ms(rtt));
}

pub(super) fn prompts(
    model: &Model,
    cloud: &[TokenId],
    (text, private): (&PrivateText, &PrivateTokens),
) {
    heading(&format!(
        "PUBLIC: cloud prompt \"{CLOUD_PROMPT_NAME}\", {} tokens",
        cloud.len()
    ));
    quote(CLOUD_TEXT);
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
    println!("{cut:~^WIDTH$}");
    heading(&format!(
        "PRIVATE: edge prompt, {} tokens; it never leaves the edge",
        private.len()
    ));
    quote(text.for_tokenizer());
    heading("ANSWER, generated on the edge");
    print!("  ");
    flush();
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

pub(super) fn results(demo: &Demo, round: &Round, local: &Local, text: &PrivateText) {
    let colour = match std::io::stdout().is_terminal() {
        true => ColourMode::Ansi,
        false => ColourMode::Plain,
    };
    print!(
        "{}",
        gantt::render(
            &round.answered.timeline,
            GanttStyle {
                colour,
                ..GanttStyle::default()
            }
        )
    );
    println!();
    heading("WHAT HAPPENED");
    times(round, local);
    bytes(demo, round);
    seen(demo, round, text);
    let (same, count) = (local.tokens == round.answered.tokens, local.tokens.len());
    match same {
        true => row(
            "single machine",
            &format!("the same {count} tokens: the split is exact"),
        ),
        false => row("single machine", "DIFFERENT tokens: this is a defect"),
    }
    if let Some(recomputed) = &round.answered.recomputed {
        let text = format!(
            "{} layers: {}",
            recomputed.layer_count, recomputed.loss.detail
        );
        row("computed here instead", &text);
    }
}

fn times(round: &Round, local: &Local) {
    let timeline = &round.answered.timeline;
    let pipeline = timeline.pipeline();
    let ttft = timeline.ttft.unwrap_or_default();
    row("time to first token", &ms(ttft));
    let predicted = format!("{} from the measured stages", ms(pipeline.flow_shop()));
    row("  flow-shop model", &predicted);
    row(
        "  all on the edge",
        &format!("{} (prefill of both prompts here)", ms(local.ttft)),
    );
    row("pipeline", &pipeline.regime().to_string());
}

fn bytes(demo: &Demo, round: &Round) {
    let stats = demo.link.stats();
    let messages = demo.uplink.sent().frames();
    let request_bytes: usize = messages.iter().map(|frame| frame.len()).sum();
    let up = format!(
        "{} on the wire, of which the request {request_bytes}",
        stats.sent_bytes
    );
    row("bytes edge to cloud", &up);
    let down = format!(
        "{} on the wire, of which keys and values {}",
        stats.received_bytes, round.answered.received_bytes
    );
    row("bytes cloud to edge", &down);
}

/// What the cloud was sent, and whether anything private is in it: searched, not assumed.
fn seen(demo: &Demo, round: &Round, text: &PrivateText) {
    let sent = demo.uplink.sent();
    for frame in sent.frames() {
        let seen = frame
            .get(FRAME_PREFIX_BYTES..)
            .and_then(|body| decode_request(body).ok());
        row(
            "what the cloud saw",
            &seen.map_or_else(String::new, |request| described(&request)),
        );
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
        0 => row(
            "  anything private?",
            "no: its words and token ids are not among those bytes",
        ),
        count => row(
            "  anything private?",
            &format!("YES, {count} times: this is a defect"),
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

pub(super) fn interactive_help() {
    println!();
    heading("YOUR TURN: private prompts, one a line; an empty line ends");
    println!("Try: I am Grace. I am on the ruby plan. How long does it last?\n");
}

pub(super) fn interactive_result(ttft: Option<Duration>) {
    let ttft = ms(ttft.unwrap_or_default());
    println!("  (first token after {ttft}; the cloud prompt was here already, nothing was sent)\n");
}

fn heading(text: &str) {
    println!("{text}");
    println!("{}", "-".repeat(text.chars().count()));
}

fn quote(text: &str) {
    for line in text.trim_end().lines() {
        println!("  {line}");
    }
    println!();
}

fn row(name: &str, text: &str) {
    println!("{name:<22} {text}");
}

fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// A terminal that is gone shows nothing more; the demo ends by itself.
fn flush() {
    let _ = std::io::stdout().flush();
}
