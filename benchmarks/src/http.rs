//! As much of an HTTP client as the harness needs: one request on each connection, to a server that
//! it has started.

use std::io::{BufRead, BufReader, Read, Take, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Longest answer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// How long a page may take, and every piece of an answer unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where to ask, and how long each piece of an answer may take.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// Host and port.
    pub(crate) addr: String,
    /// The longest silence.
    pub(crate) patience: Duration,
}

/// A streamed answer: its events until `[DONE]`. An error of the server and an answer that breaks
/// off are errors, after which there is no more.
pub(crate) struct Events {
    lines: Reader,
    head: Vec<String>,
    is_over: bool,
}

type Reader = BufReader<Take<TcpStream>>;

impl Server {
    /// The server at `addr`.
    pub(crate) fn at(addr: &str) -> Self {
        Self {
            addr: addr.to_owned(),
            patience: PATIENCE,
        }
    }

    /// The body of a page.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        let (mut reader, _) = answer(self.send(&format!("GET {path} HTTP/1.0"), "")?)?;
        let mut body = String::new();
        reader.read_to_string(&mut body)?;
        Ok(body)
    }

    /// The body of a page in JSON.
    pub(crate) fn get_json(&self, path: &str) -> Result<Value> {
        let body = self.get(path)?;
        serde_json::from_str(&body).with_context(|| format!("{path} is no JSON"))
    }

    /// Asks for an answer in JSON.
    pub(crate) fn post_json(&self, path: &str, body: &Value) -> Result<Value> {
        let (mut reader, _) = answer(self.post(path, body)?)?;
        let mut body = String::new();
        reader.read_to_string(&mut body)?;
        serde_json::from_str(&body).with_context(|| format!("{path} is no JSON"))
    }

    /// Asks for a streamed answer.
    pub(crate) fn stream(&self, path: &str, body: &Value) -> Result<Events> {
        let (lines, head) = answer(self.post(path, body)?)?;
        Ok(Events {
            lines,
            head,
            is_over: false,
        })
    }

    /// Asks, and leaves without looking at the answer.
    pub(crate) fn ask_and_leave(&self, path: &str, body: &Value) -> Result<()> {
        self.post(path, body).map(drop)
    }

    fn post(&self, path: &str, body: &Value) -> Result<TcpStream> {
        let head = format!("POST {path} HTTP/1.0\r\ncontent-type: application/json");
        self.send(&head, &body.to_string())
    }

    /// Sends a request. HTTP/1.0 gives bodies without chunks.
    fn send(&self, head: &str, body: &str) -> Result<TcpStream> {
        let mut socket = TcpStream::connect(&self.addr)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(self.patience))?;
        let (addr, length) = (&self.addr, body.len());
        write!(
            socket,
            "{head}\r\nhost: {addr}\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        Ok(socket)
    }
}

impl Events {
    /// A header of the answer, named in small letters.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.iter().filter_map(|line| line.split_once(':'));
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }
}

/// Reads an answer's head: its lines after the first.
fn answer(socket: TcpStream) -> Result<(Reader, Vec<String>)> {
    let mut reader = BufReader::new(socket.take(ANSWER_BYTES_MAX));
    let mut status = String::new();
    reader.read_line(&mut status).context("no answer came")?;
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        head.push(line);
    }
    if !status.contains(" 200 ") {
        let mut body = String::new();
        reader.read_to_string(&mut body)?;
        bail!("{}: {body}", status.trim());
    }
    Ok((reader, head))
}

impl Iterator for Events {
    type Item = Result<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let event = read_event(&mut self.lines);
        self.is_over = !matches!(event, Ok(Some(_)));
        event.transpose()
    }
}

/// The next event; `None` at the end of a whole answer.
fn read_event(lines: &mut impl BufRead) -> Result<Option<Value>> {
    loop {
        let mut line = String::new();
        let read = lines.read_line(&mut line);
        if read.context("the answer goes silent")? == 0 {
            bail!("the answer broke off");
        }
        let Some(data) = line.trim_end().strip_prefix("data: ") else {
            continue;
        };
        if data == "[DONE]" {
            return Ok(None);
        }
        let event: Value = serde_json::from_str(data).context("an event is no JSON")?;
        if event.get("error").is_some() {
            bail!("the server failed: {data}");
        }
        return Ok(Some(event));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(mut lines: &[u8]) -> (usize, Result<()>) {
        let mut count = 0;
        loop {
            match read_event(&mut lines) {
                Ok(Some(_)) => count += 1,
                Ok(None) => return (count, Ok(())),
                Err(error) => return (count, Err(error)),
            }
        }
    }

    #[test]
    fn an_answer_is_whole_only_with_its_end() {
        let (count, end) = events(b"data: {}\n\n: ping\n\ndata: {}\n\ndata: [DONE]\n\n");
        assert!((count, end.is_ok()) == (2, true));
        let (count, end) = events(b"data: {}\n\n");
        assert!((count, end.is_err()) == (1, true));
    }

    #[test]
    fn an_error_is_no_event() {
        let (count, end) = events(b"data: {\"error\":{\"message\":\"no\"}}\n\ndata: [DONE]\n\n");
        assert_eq!(count, 0);
        assert!(end.unwrap_err().to_string().contains("no"));
    }
}
