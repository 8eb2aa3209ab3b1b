//! A server as there are others: it counts tokens as llama.cpp's does, a word each, and answers
//! completions as it is told to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

/// How completions are answered.
#[derive(Clone, Copy)]
pub(crate) enum Answering {
    /// As they should be.
    Well,
    /// The first one as it should be, then in turn: refused, failing after a word, breaking off,
    /// and as it should be.
    SometimesNot,
    /// The first one only; the others are refused.
    Once,
    /// Refused.
    Never,
    /// As they should be, once the model is loaded: the first three requests of any kind come before.
    AfterLoading,
    /// Three of them; the fourth never ends.
    ThreeTimesThenHang,
}

/// What was asked: the head and the body of each completion's request.
type Asked = Vec<(String, Value)>;

pub(crate) struct Other {
    pub(crate) base_url: String,
    asked: Arc<Mutex<Asked>>,
    hanging: Receiver<()>,
}

#[derive(Clone)]
struct Desk {
    answering: Answering,
    asked: Arc<Mutex<Asked>>,
    hangs: Sender<()>,
    /// Requests of any kind.
    count: Arc<AtomicUsize>,
}

impl Other {
    pub(crate) fn start(answering: Answering) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        let (hangs, hanging) = channel();
        let asked = Arc::default();
        let desk = Desk {
            answering,
            asked: Arc::clone(&asked),
            hangs,
            count: Arc::default(),
        };
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (desk, stream) = (desk.clone(), stream.unwrap());
                thread::spawn(move || desk.talk(stream));
            }
        });
        Self {
            base_url,
            asked,
            hanging,
        }
    }

    /// The requests for completions so far.
    pub(crate) fn asked(&self) -> Asked {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn wait_until_it_hangs(&self) {
        self.hanging.recv().unwrap();
    }
}

impl Desk {
    /// Answers the requests of a connection until it ends.
    fn talk(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some((head, body)) = request(&mut reader) {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            let is_loading = matches!(self.answering, Answering::AfterLoading)
                && self.count.fetch_add(1, Ordering::Relaxed) < 3;
            match path.as_str() {
                _ if is_loading => refuse(&mut stream),
                "/v1/models" => whole(&mut stream, "200 OK", &json!({"data": [{"id": "x/m"}]})),
                "/tokenize" => {
                    // Nothing for vLLM's fields, as llama.cpp's server.
                    let words = body["content"].as_str().unwrap_or_default();
                    let tokens: Vec<_> = words.split_whitespace().map(|_| 1).collect();
                    whole(&mut stream, "200 OK", &json!({ "tokens": tokens }));
                }
                "/v1/completions" if self.complete(&mut stream, (head, body)) => {}
                _ => return,
            }
        }
    }

    /// Answers a completion; false if the connection has to end.
    fn complete(&self, stream: &mut TcpStream, request: (String, Value)) -> bool {
        let index = {
            let mut asked = self.asked.lock().unwrap();
            asked.push(request);
            asked.len() - 1
        };
        match (self.answering, index) {
            (Answering::Never, _) | (Answering::Once, 1..) => {
                refuse(stream);
                true
            }
            (Answering::ThreeTimesThenHang, 3..) => {
                begin(stream);
                chunk(stream, TOKEN);
                self.hangs.send(()).unwrap();
                // Until the client leaves.
                let _ = stream.read(&mut [0]);
                false
            }
            (Answering::SometimesNot, 1..) => match index % 4 {
                1 => {
                    refuse(stream);
                    true
                }
                2 => {
                    begin(stream);
                    chunk(
                        stream,
                        "data: {\"error\":{\"message\":\"out of blocks\"}}\n\n",
                    );
                    false
                }
                3 => {
                    begin(stream);
                    chunk(stream, TOKEN);
                    false
                }
                _ => well(stream),
            },
            _ => well(stream),
        }
    }
}

const TOKEN: &str = "data: {\"choices\":[{\"text\":\"w \",\"finish_reason\":null}]}\n\n";

fn well(stream: &mut TcpStream) -> bool {
    begin(stream);
    chunk(stream, TOKEN);
    // An event in two pieces.
    let (one, two) = TOKEN.split_at(17);
    chunk(stream, one);
    chunk(stream, two);
    chunk(
        stream,
        "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}],\
            \"timings\":{\"kv_source\":\"memory\",\"kv_codec\":\"int8\",\"kv_wait_ms\":1.5}}\n\n\
         data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n\
         data: [DONE]\n\n",
    );
    write(stream, "0\r\n\r\n");
    true
}

fn refuse(stream: &mut TcpStream) {
    let body = json!({"error": {"message": "busy"}});
    whole(stream, "503 Service Unavailable", &body);
}

fn begin(stream: &mut TcpStream) {
    write(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    );
}

fn chunk(stream: &mut TcpStream, text: &str) {
    write(stream, &format!("{:x}\r\n{text}\r\n", text.len()));
}

fn whole(stream: &mut TcpStream, status: &str, body: &Value) {
    let body = body.to_string();
    let len = body.len();
    write(
        stream,
        &format!("HTTP/1.1 {status}\r\ncontent-length: {len}\r\n\r\n{body}"),
    );
}

/// To a client that may have left.
fn write(stream: &mut TcpStream, text: &str) {
    let _ = stream.write_all(text.as_bytes());
}

fn request(reader: &mut impl BufRead) -> Option<(String, Value)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_lowercase();
    let len = lower
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; len.map_or(0, |len| len.parse().unwrap())];
    reader.read_exact(&mut body).ok()?;
    Some((head, serde_json::from_slice(&body).unwrap_or_default()))
}
