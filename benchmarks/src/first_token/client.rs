//! As much of an HTTP client as `first-token` needs: one request on each connection, to a server that
//! this program has started.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Sample;

/// Longest answer.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The body of a page.
pub(super) fn get(addr: &str, path: &str) -> Result<String> {
    let mut reader = send(addr, &format!("GET {path} HTTP/1.0"), "")?;
    let mut body = String::new();
    reader.read_to_string(&mut body)?;
    Ok(body)
}

/// Asks for a streamed completion and times its first token.
pub(super) fn stream(addr: &str, body: &Value) -> Result<Sample> {
    let start = Instant::now();
    let head = "POST /v1/completions HTTP/1.0\r\ncontent-type: application/json";
    let reader = send(addr, head, &body.to_string())?;
    let mut sample = Sample {
        ttft_ms: 0.0,
        cloud_bytes: 0,
        kv_source: String::new(),
        text: String::new(),
    };
    let mut is_whole = false;
    for line in reader.lines() {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ") else {
            continue;
        };
        if sample.ttft_ms == 0.0 {
            sample.ttft_ms = start.elapsed().as_secs_f64() * 1e3;
        }
        if data == "[DONE]" {
            is_whole = true;
            break;
        }
        let event: Value = serde_json::from_str(data).context("an event is JSON")?;
        ensure!(event.get("error").is_none(), "the edge failed: {data}");
        sample.text += event["choices"][0]["text"].as_str().unwrap_or_default();
        if let Some(source) = event["timings"]["kv_source"].as_str() {
            sample.kv_source = source.to_owned();
        }
    }
    ensure!(is_whole, "the edge's answer broke off");
    Ok(sample)
}

/// Sends a request and reads the answer's head. HTTP/1.0 gives bodies without chunks.
fn send(addr: &str, head: &str, body: &str) -> Result<impl BufRead + use<>> {
    let mut socket = TcpStream::connect(addr)?;
    socket.set_nodelay(true)?;
    let length = body.len();
    write!(
        socket,
        "{head}\r\nhost: {addr}\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    let mut reader = BufReader::new(socket.take(ANSWER_BYTES_MAX));
    let mut status = String::new();
    reader.read_line(&mut status)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
    }
    if !status.contains(" 200 ") {
        let mut body = String::new();
        reader.read_to_string(&mut body)?;
        anyhow::bail!("{}: {body}", status.trim());
    }
    Ok(reader)
}
