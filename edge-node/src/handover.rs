//! `edge-node handover`: lists the sessions of a serving edge node and moves them to another one, over
//! its HTTP side.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::{ArgGroup, Args};
use edgeprompt_launch::{Exit, Failure, say};
use edgeprompt_transport::{TlsConnector, Trust};
use edgeprompt_ue_client::{
    Access, Edge, EdgeUrl, Handover, HttpError, NotMoved, Scheme, SessionEntry, Tried,
};

/// Largest key file, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;

/// Characters of what a server says that are shown in a column, and at a line's end.
const WORD_LEN_MAX: usize = 64;
const REASON_LEN_MAX: usize = 512;

/// Arguments of `edge-node handover`.
#[derive(Args)]
#[command(group = ArgGroup::new("which").required(true).args(["session", "all", "list"]))]
pub struct HandoverArgs {
    /// URL of the edge node that serves the sessions
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8000")]
    url: EdgeUrl,
    /// Move this session: the header x-edgeprompt-session of its answer
    #[arg(long, value_name = "ID", requires = "target")]
    session: Option<String>,
    /// Move all sessions that are generated there: those of the key, or everybody's for a key of the
    /// server's --operator-key-file, and where no key is needed
    #[arg(long, requires = "target")]
    all: bool,
    /// List the sessions
    #[arg(long, conflicts_with = "target")]
    list: bool,
    /// Where to: another edge node's --handover-listen
    #[arg(long, value_name = "ADDR")]
    target: Option<String>,
    /// File whose first line is an API key; the server's own will do
    #[arg(long, value_name = "FILE", env = "EDGE_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// Environment variable that has the API key
    #[arg(long, value_name = "VARIABLE", conflicts_with = "api_key_file")]
    api_key_env: Option<String>,
    /// PEM file of the authorities whose word is taken for the server's certificate, in place of
    /// those that browsers trust
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
}

/// Lists or moves sessions, and prints what became of them.
///
/// # Errors
/// [`Failure`]; [`Exit::PeerUnreachable`] also if the target cannot be reached from the server.
pub fn run(args: &HandoverArgs) -> Result<(), Failure> {
    let edge = Edge::new(args.url.clone(), args.access()?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::of(Exit::Usage))?;
    match (&args.target, &args.session) {
        (None, _) => {
            let sessions = runtime.block_on(edge.sessions()).map_err(failure)?;
            say(listed(&sessions))
        }
        (Some(target), Some(session)) => {
            let moved = runtime.block_on(edge.hand_over(session, target));
            say(moves(&[Tried::Moved(moved.map_err(failure)?)]))
        }
        (Some(target), None) => {
            let tried = runtime
                .block_on(edge.hand_over_all(target))
                .map_err(failure)?;
            say(moves(&tried))?;
            all_moved(&tried)
        }
    }
}

impl HandoverArgs {
    fn access(&self) -> Result<Access, Failure> {
        let mut access = Access::default();
        let key = match (&self.api_key_env, &self.api_key_file) {
            (Some(variable), _) => {
                let key = std::env::var(variable).ok().filter(|key| !key.is_empty());
                let missing = || anyhow!("--api-key-env {variable}: that variable is not set");
                Some(key.ok_or_else(missing).map_err(Failure::of(Exit::Usage))?)
            }
            (None, Some(file)) => Some(first_key(file).map_err(Failure::of(Exit::Usage))?),
            (None, None) => None,
        };
        if let Some(key) = key {
            let with_key = access.with_key(&key);
            // The error must not repeat the key.
            access = with_key.map_err(|_| Failure {
                exit: Exit::Usage,
                error: anyhow!("the API key has characters that no header can have"),
            })?;
        }
        if self.url.scheme() == Scheme::Https {
            let trust = self.ca_cert.as_deref().map_or(Trust::Browsers, Trust::File);
            let tls = TlsConnector::new(trust).context("--ca-cert");
            access = access.with_tls(tls.map_err(Failure::of(Exit::Usage))?);
        }
        Ok(access)
    }
}

/// The first key of a file as `serve --api-key-file` reads it.
fn first_key(file: &Path) -> anyhow::Result<String> {
    let named = || format!("--api-key-file {}", file.display());
    let mut text = String::new();
    let mut reader = File::open(file)
        .with_context(named)?
        .take(KEY_FILE_BYTES_MAX);
    reader.read_to_string(&mut text).with_context(named)?;
    let mut lines = text.lines().map(str::trim);
    let key = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    key.map(str::to_owned)
        .ok_or_else(|| anyhow!("there is no key in it"))
        .with_context(named)
}

fn listed(sessions: &[SessionEntry]) -> String {
    let mut page = format!("{:<32}  {:>6}  {:<6}  NODE\n", "SESSION", "TOKENS", "STATE");
    for session in sessions {
        let (id, state) = (shown(&session.id), shown(&session.state));
        let node = session
            .node
            .as_deref()
            .map_or_else(|| "-".to_owned(), shown);
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "{id:<32}  {:>6}  {state:<6}  {node}",
            session.token_count
        );
    }
    page
}

fn moves(tried: &[Tried]) -> String {
    let mut page = format!(
        "{:<32}  {:<8} {:>13} {:>10} {:>9} {:>8} {:>6} {:>10}  TARGET\n",
        "SESSION", "STRATEGY", "PREDICTED MS", "SWITCH MS", "TOOK MS", "PREFILL", "SENT", "BYTES"
    );
    for tried in tried {
        // Writing to a string cannot fail.
        let _ = match tried {
            Tried::Moved(moved) => writeln!(page, "{}", row(moved)),
            Tried::NotMoved(NotMoved { id, error, .. }) => {
                let reason = harmless(error, REASON_LEN_MAX);
                writeln!(page, "{:<32}  stays: {reason}", shown(id))
            }
        };
    }
    page
}

fn row(moved: &Handover) -> String {
    let Handover {
        predicted_ms,
        switch_ms,
        took_ms,
        tokens_prefilled,
        tokens_sent,
        bytes,
        ..
    } = moved;
    let (id, strategy) = (shown(&moved.id), shown(&moved.strategy));
    format!(
        "{id:<32}  {strategy:<8} {predicted_ms:>13.1} {switch_ms:>10.1} {took_ms:>9.1} {tokens_prefilled:>8} {tokens_sent:>6} {bytes:>10}  {}",
        shown(&moved.target)
    )
}

fn shown(text: &str) -> String {
    harmless(text, WORD_LEN_MAX)
}

/// What a server says, without what would do something to a terminal.
fn harmless(text: &str, len_max: usize) -> String {
    let harmless = |char: char| match char.is_control() {
        true => '?',
        false => char,
    };
    text.chars().take(len_max).map(harmless).collect()
}

/// A session that ended before it could move is no failure.
fn all_moved(tried: &[Tried]) -> Result<(), Failure> {
    let kept = tried.iter().filter_map(|tried| match tried {
        Tried::Moved(_) => None,
        Tried::NotMoved(kept) => Some(kept.code.as_deref().unwrap_or_default()),
    });
    let kept: Vec<_> = kept.filter(|code| *code != "session_ended").collect();
    let exit = match kept.first() {
        None => return Ok(()),
        Some(_) if kept.contains(&"handover_failed") => Exit::PeerUnreachable,
        Some(_) => Exit::Usage,
    };
    let (kept, all) = (kept.len(), tried.len());
    Err(Failure {
        exit,
        error: anyhow!("{kept} of {all} sessions stay where they are; the table says why"),
    })
}

fn failure(error: HttpError) -> Failure {
    let (exit, next) = match &error {
        HttpError::Refused { code, status, .. } => match (code.as_str(), status) {
            ("session_not_found", _) => (
                Exit::Usage,
                "edge-node handover --list names those that are there",
            ),
            ("session_ended", _) => (Exit::Usage, "there is nothing left to move"),
            ("session_busy", _) => (Exit::Usage, "it has not begun or moves already: try again"),
            ("target_is_source", _) => (
                Exit::Usage,
                "--target is that edge itself: name another edge's --handover-listen",
            ),
            ("target_unknown", _) => (
                Exit::Usage,
                "give --target as that edge's --handover-target has it, or where that is * an address like 10.0.0.7:4435",
            ),
            ("handover_disabled", _) => (
                Exit::Usage,
                "start it with --handover-listen or --handover-target",
            ),
            ("handover_failed", _) => (Exit::PeerUnreachable, "the session stays where it is"),
            (_, 401) => (Exit::Usage, "give --api-key-file or --api-key-env"),
            _ => (Exit::Usage, "the server's log says why"),
        },
        HttpError::Nonsense { .. } => (Exit::Usage, "is it an edge node?"),
        _ => (Exit::PeerUnreachable, "is edge-node serve running there?"),
    };
    let said = match &error {
        HttpError::Refused { message, .. } if !message.is_empty() => format!(": {message}"),
        _ => String::new(),
    };
    Failure {
        exit,
        error: anyhow!("{error}{said}; {next}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(code: &str) -> Tried {
        Tried::NotMoved(NotMoved {
            id: "a".repeat(32),
            error: "no\u{1b}[2J".to_owned(),
            code: Some(code.to_owned()),
        })
    }

    #[test]
    fn the_exit_code_says_why_sessions_stay() {
        let exit = |codes: &[&str]| {
            let tried: Vec<_> = codes.iter().map(|code| kept(code)).collect();
            all_moved(&tried).err().map(|failure| failure.exit)
        };
        assert_eq!(exit(&[]), None);
        assert_eq!(exit(&["session_ended"]), None);
        assert_eq!(exit(&["session_ended", "session_busy"]), Some(Exit::Usage));
        let unreachable = exit(&["session_busy", "handover_failed"]);
        assert_eq!(unreachable, Some(Exit::PeerUnreachable));
    }

    #[test]
    fn what_a_server_says_does_nothing_to_a_terminal() {
        let page = moves(&[kept("session_busy")]);
        assert!(page.contains("stays: no?[2J"), "{page}");
    }
}
