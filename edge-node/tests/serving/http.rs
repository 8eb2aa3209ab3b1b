//! An HTTP client by hand: one request on each connection, as little as a test needs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// A header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.head.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// An answer that is being read.
pub(crate) struct Reading {
    status: u16,
    head: Vec<(String, String)>,
    reader: BufReader<Box<dyn Stream>>,
}

/// What HTTP is spoken on.
pub(crate) trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Sends a request and reads the answer's head.
pub(crate) fn send(addr: &str, head: &str, body: &str) -> Reading {
    let stream = TcpStream::connect(addr).unwrap();
    send_on(Box::new(stream), addr, (head, body))
}

/// As [`send`], on a stream to the server at `addr`.
pub(crate) fn send_on(
    mut stream: Box<dyn Stream>,
    addr: &str,
    (head, body): (&str, &str),
) -> Reading {
    let len = body.len();
    let request = format!(
        "{head}\r\nhost: {addr}\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}"
    );
    // A server that refuses early may not read on.
    let _ = stream.write_all(request.as_bytes());
    let mut reader = BufReader::new(stream);
    let status = line(&mut reader);
    let status = status.split(' ').nth(1).unwrap().parse().unwrap();
    let mut head = Vec::new();
    loop {
        let line = line(&mut reader);
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap();
        head.push((name.to_lowercase(), value.to_owned()));
    }
    Reading {
        status,
        head,
        reader,
    }
}

fn line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

impl Reading {
    /// Reads the rest.
    pub(crate) fn whole(mut self) -> Answer {
        let body = match self.is_chunked() {
            true => std::iter::from_fn(|| self.chunk()).collect(),
            false => {
                let mut body = String::new();
                self.reader.read_to_string(&mut body).unwrap();
                body
            }
        };
        Answer {
            status: self.status,
            head: self.head,
            body,
        }
    }

    /// A header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.head.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    fn is_chunked(&self) -> bool {
        self.head
            .contains(&("transfer-encoding".to_owned(), "chunked".to_owned()))
    }

    /// The next chunk of a chunked body.
    pub(crate) fn chunk(&mut self) -> Option<String> {
        let len = usize::from_str_radix(&line(&mut self.reader), 16).unwrap();
        let mut chunk = vec![0; len];
        self.reader.read_exact(&mut chunk).unwrap();
        line(&mut self.reader);
        (len > 0).then(|| String::from_utf8(chunk).expect("no character is split"))
    }
}

/// The data of server-sent events, and whether the stream came to its end.
pub(crate) fn events(body: &str) -> (Vec<Value>, bool) {
    let data = body.lines().filter_map(|line| line.strip_prefix("data: "));
    let done = body.ends_with("data: [DONE]\n\n");
    let events = data.filter(|data| *data != "[DONE]");
    (
        events
            .map(|data| serde_json::from_str(data).unwrap())
            .collect(),
        done,
    )
}
