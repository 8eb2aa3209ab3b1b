//! Servers that break off, lie or never end: the session ends with a clear error or goes on elsewhere, and
//! nothing is said twice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use edgeprompt_ue_client::{
    Access, BeginError, EdgeUrl, Event, FinishReason, HttpError, Lost, Question, Session,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longer than any of these servers can keep a client that gives up.
const PATIENCE: Duration = Duration::from_secs(60);

const PROMPT: &str = "a private prompt";
const TICKET: &str = "11112222333344445555666677778888aaaabbbbccccddddeeeeffff00001111";
const ID: &str = "0123456789abcdef0123456789abcdef";

/// Answers with what a script says, and remembers what it was asked.
struct Server {
    url: EdgeUrl,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    /// The answer to the request of each number, the first being 0.
    async fn start(answer: impl Fn(usize) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let heard = Arc::clone(&asked);
        tokio::spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                let request = read(&mut stream).await;
                heard.lock().unwrap().push(request);
                // A client that has had enough closes the connection.
                let _ = stream.get_mut().write_all(answer(number).as_bytes()).await;
            }
        });
        Self {
            url: url.parse().unwrap(),
            asked,
        }
    }

    fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().unwrap().clone()
    }
}

/// The path and the body of a request.
async fn read(stream: &mut BufReader<TcpStream>) -> (String, Value) {
    let (mut path, mut len) = (String::new(), 0);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("POST ") {
            path = rest.split(' ').next().unwrap().to_owned();
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
            len = value.parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.unwrap();
    (path, serde_json::from_slice(&body).unwrap())
}

/// An answer that goes on until the connection ends.
fn stream(events: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-edgeprompt-session: {ID}\r\n\
         x-edgeprompt-ticket: {TICKET}\r\nx-edgeprompt-seed: 7\r\n\
         x-edgeprompt-cloud-prompt: desk\r\n\r\n{events}"
    )
}

fn piece(text: &str, token_ids: &[u32]) -> String {
    let choice = json!({ "text": text, "token_ids": token_ids, "finish_reason": null });
    format!("data: {}\n\n", json!({ "choices": [choice] }))
}

const END: &str =
    "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

fn moved(url: &EdgeUrl, hop: usize) -> String {
    let body = json!({ "url": url.to_string(), "epoch": [0, hop], "next_token": 0 });
    format!("event: handover\ndata: {body}\n\n")
}

async fn begin(question: Question, server: &Server) -> Result<Session, BeginError> {
    Session::begin(
        question,
        std::slice::from_ref(&server.url),
        Access::default(),
    )
    .await
}

async fn session(server: &Server) -> Session {
    begin(Question::completion(PROMPT), server).await.unwrap()
}

/// The text, and how it ended.
async fn whole(session: Session) -> (String, Result<FinishReason, Box<Lost>>) {
    let whole = timeout(PATIENCE, read_on(session)).await;
    whole.expect("a session ends, whatever servers do")
}

async fn read_on(mut session: Session) -> (String, Result<FinishReason, Box<Lost>>) {
    let mut text = String::new();
    loop {
        match session.next().await.expect("an end comes first") {
            Event::Text(piece) => text += &piece.text,
            Event::Moved(_) => {}
            Event::Ended(reason) => return (text, Ok(reason)),
            Event::Failed(lost) => return (text, Err(lost)),
        }
    }
}

fn check_lost(lost: &Lost, text: &str, cause: &str) {
    assert_eq!(lost.text(), text);
    let message = lost.to_string();
    assert!(message.contains(cause), "{message}");
    let printed = format!("{message} {lost:?}");
    assert!(
        !printed.contains(PROMPT) && !printed.contains("secret"),
        "{printed}"
    );
}

/// How often a node that fails each time is asked: fewer times where each takes long.
const TRIES: std::ops::RangeInclusive<usize> = 2..=4;

#[tokio::test]
async fn a_line_that_never_ends_is_not_collected() {
    let server = Server::start(|number| {
        let first = match number {
            0 => piece("a", &[1]),
            _ => String::new(),
        };
        stream(&(first + "data: " + &"x".repeat(2 << 20)))
    });
    let server = server.await;
    let (text, ended) = whole(session(&server).await).await;
    assert_eq!(text, "a");
    check_lost(
        &ended.unwrap_err(),
        &text,
        "does not answer as an edge node does",
    );
    assert!(TRIES.contains(&server.asked().len()));
}

#[tokio::test]
async fn a_node_that_agrees_and_then_fails_is_not_asked_for_ever() {
    let server = Server::start(|_| stream("data: {\"error\":{\"message\":\"secret\"}}\n\n")).await;
    let (text, ended) = whole(session(&server).await).await;
    check_lost(&ended.unwrap_err(), &text, "ended before the answer did");
    assert!(TRIES.contains(&server.asked().len()));
}

#[tokio::test]
async fn a_session_that_is_sent_round_and_round_fails() {
    let urls = Arc::<Mutex<Option<EdgeUrl>>>::default();
    let own = Arc::clone(&urls);
    let server = Server::start(move |number| {
        let url = own.lock().unwrap().clone().unwrap();
        stream(&moved(&url, number + 1))
    });
    let server = server.await;
    *urls.lock().unwrap() = Some(server.url.clone());
    let (text, ended) = whole(session(&server).await).await;
    check_lost(&ended.unwrap_err(), &text, "where it is not followed to");
    let count = server.asked().len();
    assert!((32..48).contains(&count), "{count} requests");
}

#[tokio::test]
async fn who_goes_on_is_brought_everything_and_says_nothing_twice() {
    // Says half a word without a token, and breaks off; then says it again.
    let target = Server::start(|number| match number {
        0 => stream(&(piece("b", &[2]) + &piece("c", &[]))),
        _ => stream(&(piece("c", &[3]) + END)),
    });
    let target = target.await;
    let to = target.url.clone();
    let refusal =
        json!({ "error": { "message": "secret", "code": "session_not_found" } }).to_string();
    let refusal = format!(
        "HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{refusal}",
        refusal.len()
    );
    let source = Server::start(move |number| match number {
        0 => stream(&(piece("a", &[1]) + &moved(&to, 1))),
        _ => refusal.clone(),
    });
    let source = source.await;
    let (text, ended) = whole(session(&source).await).await;
    assert_eq!(
        (text.as_str(), ended.ok()),
        ("abc", Some(FinishReason::Stop))
    );
    let (asked_source, asked) = (source.asked(), target.asked());
    let path = format!("/v1/sessions/{ID}/read");
    assert!(asked.iter().all(|(asked, _)| *asked == path));
    let (first, last) = (&asked[0].1, &asked.last().unwrap().1);
    let request = json!({ "prompt": PROMPT, "stream": true, "handover": "follow", "seed": 7,
        "cloud_prompt": "desk" });
    let expected = json!({ "ticket": TICKET, "epoch": [0, 1], "claim": "attach", "token_ids": [1],
        "endpoint": "/v1/completions", "request": request });
    assert_eq!(*first, expected);
    // The source was asked in between, under a right of its own, and did not want it.
    assert_eq!(asked_source[1].1["epoch"], json!([1, 0]));
    assert_eq!(asked_source[1].1["claim"], "take");
    assert_eq!(last["epoch"], json!([2, 0]));
    assert_eq!(last["token_ids"], json!([1, 2]));
}

#[tokio::test]
async fn an_answer_of_which_only_the_last_word_is_missing_has_ended() {
    let server = Server::start(|_| stream(&(piece("a", &[1]) + &piece("b", &[2])))).await;
    let question = Question::completion(PROMPT).with("max_tokens", 2);
    let (text, ended) = whole(begin(question, &server).await.unwrap()).await;
    assert_eq!(
        (text.as_str(), ended.ok()),
        ("ab", Some(FinishReason::Length))
    );
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn a_server_that_moves_nothing_or_lies_about_names_is_told_apart() {
    let plain = Server::start(|_| "HTTP/1.1 200 OK\r\n\r\n".to_owned()).await;
    let begun = begin(Question::completion(PROMPT), &plain).await;
    assert!(matches!(begun.err(), Some(BeginError::NoSessions(_))));
    let liar = Server::start(|_| stream("").replace(ID, "../../../../v1/status/0000000000"));
    let begun = begin(Question::completion(PROMPT), &liar.await).await;
    assert!(matches!(begun.err(), Some(BeginError::NoSessions(_))));
    let other = Server::start(|_| "220 mail.example ESMTP\r\n".to_owned()).await;
    let error = begin(Question::completion(PROMPT), &other)
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, BeginError::Http(HttpError::BrokeOff { .. })),
        "{error}"
    );
    let none = Session::begin(Question::completion(PROMPT), &[], Access::default()).await;
    assert!(matches!(none.err(), Some(BeginError::NoUrl)));
}
