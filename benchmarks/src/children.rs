//! Child processes of the harness: this program started again with another subcommand, spoken to in
//! lines of JSON. A request goes to the child's standard input, and one line comes back for each.
//!
//! A child ends when its input does, so none outlives the harness, however that ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest line: a timeline of the deepest model has some tens of kilobytes.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// What a child says to a request.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply<R> {
    Ok(R),
    Error(String),
}

/// What to start.
pub(crate) struct ChildSpec {
    /// What errors call it.
    pub(crate) name: &'static str,
    /// Its subcommand and arguments.
    pub(crate) args: Vec<String>,
    /// Threads that compute in it.
    pub(crate) threads: u32,
}

/// A running child; dropping it ends it.
pub(crate) struct ChildProcess {
    name: &'static str,
    child: Child,
    /// Taken only when dropped.
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl ChildProcess {
    /// Starts a child and waits until it says that it is ready.
    pub(crate) fn start<R: DeserializeOwned>(spec: &ChildSpec) -> Result<(Self, R)> {
        let program = std::env::current_exe().context("this program's own path is not known")?;
        let mut child = Command::new(program)
            .args(&spec.args)
            // Tensor operations run on rayon's global pool, which asks for this once.
            .env("RAYON_NUM_THREADS", spec.threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("the {} process does not start", spec.name))?;
        let requests = child.stdin.take();
        let replies = child.stdout.take().context("a child's output is piped")?;
        let mut process = Self {
            name: spec.name,
            child,
            requests,
            replies: BufReader::new(replies),
        };
        let ready = process.reply()?;
        Ok((process, ready))
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask<R: DeserializeOwned>(&mut self, request: &impl Serialize) -> Result<R> {
        let requests = self.requests.as_mut();
        let requests = requests.context("a child's input is piped")?;
        let written = write_line(requests, request);
        written.with_context(|| format!("the {} process does not listen", self.name))?;
        self.reply()
    }

    fn reply<R: DeserializeOwned>(&mut self) -> Result<R> {
        let line = read_line(&mut self.replies)?;
        let line = line.ok_or_else(|| anyhow!("the {} process has ended", self.name))?;
        let reply = serde_json::from_str(&line);
        match reply.with_context(|| format!("the {} process talks nonsense", self.name))? {
            Reply::Ok(answer) => Ok(answer),
            Reply::Error(error) => bail!("the {} process: {error}", self.name),
        }
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        drop(self.requests.take());
        // Fails if it has ended already; it has nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The child's side: says `ready`, then answers requests until there are no more.
pub(crate) fn serve<Q: DeserializeOwned, R: Serialize>(
    ready: impl Serialize,
    mut answer: impl FnMut(Q) -> Result<R>,
) -> Result<()> {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout());
    write_line(&mut output, &Reply::Ok(ready))?;
    while let Some(line) = read_line(&mut input)? {
        let answered = serde_json::from_str(&line).map_err(Into::into);
        let reply = match answered.and_then(&mut answer) {
            Ok(answer) => Reply::Ok(answer),
            Err(error) => Reply::Error(format!("{error:#}")),
        };
        write_line(&mut output, &reply)?;
    }
    Ok(())
}

fn write_line(to: &mut impl Write, value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)?;
    Ok(to.flush()?)
}

fn read_line(from: &mut impl BufRead) -> Result<Option<String>> {
    let mut line = String::new();
    let read = from.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
    match (read, line.ends_with('\n')) {
        (0, _) => Ok(None),
        (_, true) => Ok(Some(line)),
        (_, false) => bail!("a line is cut off or longer than {LINE_BYTES_MAX} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_whole_or_not_at_all() {
        let mut lines: &[u8] = b"1\n2\n3";
        assert_eq!(read_line(&mut lines).unwrap().as_deref(), Some("1\n"));
        assert_eq!(read_line(&mut lines).unwrap().as_deref(), Some("2\n"));
        assert!(read_line(&mut lines).is_err(), "the end of it is missing");
        assert!(read_line(&mut lines).unwrap().is_none());
    }

    #[test]
    fn a_reply_is_an_answer_or_a_reason() {
        let mut line = Vec::new();
        write_line(&mut line, &Reply::Ok(7)).unwrap();
        assert_eq!(line, b"{\"ok\":7}\n");
        let error: Reply<u8> = serde_json::from_str(r#"{"error":"no"}"#).unwrap();
        assert!(matches!(error, Reply::Error(reason) if reason == "no"));
    }
}
