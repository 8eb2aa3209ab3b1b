//! Sending a workload: each request at its time, no more of them at once than allowed, until all
//! have ended or the user has had enough.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use indicatif::ProgressBar;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use super::answer::{Answer, Incoming, Stream};
use super::ask::Asking;
use super::data::Workload;
use super::http::{HttpClient, chain};
use super::server::Server;
use super::sse::SseParser;

/// Longest answer as text: event streams have some hundred bytes a token.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Longest time of one request, as vLLM's client has it.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(6 * 3600);

/// One request that has ended.
pub(crate) struct Outcome {
    /// When it was sent, after the beginning of the run.
    pub(crate) start: Duration,
    /// Which of the workload it was.
    pub(crate) index: usize,
    /// The answer, or why there is none.
    pub(crate) answer: Result<Answer, String>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All requests have ended.
    Complete,
    /// By the user; requests under way were dropped.
    Interrupted,
}

/// A run.
pub(crate) struct Run {
    /// Those that have ended, in the order of the workload.
    pub(crate) outcomes: Vec<Outcome>,
    /// From the first request to the end of the last.
    pub(crate) duration: Duration,
    /// How it ended.
    pub(crate) ending: Ending,
}

/// Asks for one answer and reads all of it.
///
/// # Errors
/// Why there is none, in a sentence.
pub(crate) async fn ask(client: &HttpClient, path: &str, body: Bytes) -> Result<Answer, String> {
    let start = Instant::now();
    match tokio::time::timeout(REQUEST_TIME_MAX, read(client, (path, body), start)).await {
        Ok(answer) => answer,
        Err(_) => Err("no end of the answer after six hours".to_owned()),
    }
}

async fn read(
    client: &HttpClient,
    (path, body): (&str, Bytes),
    start: Instant,
) -> Result<Answer, String> {
    let answer = client.post(path, body).await.map_err(|e| e.to_string())?;
    let mut body = answer.into_body();
    let (mut parser, mut incoming) = (SseParser::default(), Incoming::default());
    let mut byte_count = 0;
    while let Some(frame) = body.frame().await {
        let at = start.elapsed();
        let frame = frame.map_err(|e| format!("the answer broke off: {}", chain(&e)))?;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        byte_count += bytes.len();
        if byte_count > ANSWER_BYTES_MAX {
            return Err("the answer has no end: more than 1 GiB".to_owned());
        }
        for event in parser.push(&bytes).map_err(|e| e.to_string())? {
            let taken = incoming.take(&event, at).map_err(|e| e.to_string())?;
            if taken == Stream::Done {
                return whole(body, incoming).await;
            }
        }
    }
    if let Some(event) = parser.finish() {
        let taken = incoming.take(&event, start.elapsed());
        taken.map_err(|e| e.to_string())?;
    }
    incoming.finish().map_err(|e| e.to_string())
}

/// Reads what stands behind the end, so that the connection serves the next request.
async fn whole(mut body: hyper::body::Incoming, incoming: Incoming) -> Result<Answer, String> {
    if let Some(Err(error)) = body.frame().await {
        return Err(format!("the answer broke off: {}", chain(&error)));
    }
    incoming.finish().map_err(|e| e.to_string())
}

/// What all requests of a run need.
struct Shared {
    client: HttpClient,
    path: String,
    asking: Arc<Asking>,
    slots: Option<Semaphore>,
    began: Instant,
}

/// Sends a workload; Ctrl-C ends it early. `bar` counts what has ended.
pub(crate) async fn send(
    server: &Server,
    asking: &Arc<Asking>,
    workload: &Workload,
    max_concurrency: Option<usize>,
    bar: &ProgressBar,
) -> Run {
    let began = Instant::now();
    let shared = Arc::new(Shared {
        client: server.client.clone(),
        path: server.path.clone(),
        asking: Arc::clone(asking),
        slots: max_concurrency.map(Semaphore::new),
        began,
    });
    let mut interrupt = pin!(interrupted());
    let mut requests = JoinSet::new();
    let mut waiting = (0..workload.samples.len()).peekable();
    let mut outcomes = Vec::new();
    let ending = loop {
        let next = waiting.peek().map(|index| workload.arrivals[*index]);
        if next.is_none() && requests.is_empty() {
            break Ending::Complete;
        }
        let due = began + next.unwrap_or_default();
        tokio::select! {
            // Requests that are due go first: they must not wait for what others have to say.
            biased;
            () = &mut interrupt => break Ending::Interrupted,
            () = tokio::time::sleep_until(due.into()), if next.is_some() => {
                if let Some(index) = waiting.next() {
                    let sample = workload.samples[index].clone();
                    let shared = Arc::clone(&shared);
                    requests.spawn(async move {
                        let body = shared.asking.body(&sample);
                        shared.outcome(index, body).await
                    });
                }
            }
            Some(ended) = requests.join_next(), if !requests.is_empty() => {
                bar.inc(1);
                match ended.map_err(JoinError::try_into_panic) {
                    Ok(outcome) => outcomes.push(outcome),
                    Err(Ok(panic)) => std::panic::resume_unwind(panic),
                    // Cancelled, which nobody does before the end.
                    Err(Err(_)) => {}
                }
            }
        }
    };
    let duration = began.elapsed();
    outcomes.sort_by_key(|outcome: &Outcome| outcome.index);
    Run {
        outcomes,
        duration,
        ending,
    }
}

/// Returns when the user presses Ctrl-C; never where that cannot be heard.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Shared {
    async fn outcome(&self, index: usize, body: Bytes) -> Outcome {
        // The semaphore is never closed, so this is a slot or there are no slots.
        let slot = match &self.slots {
            Some(slots) => slots.acquire().await.ok(),
            None => None,
        };
        let client = match self.asking.request_id(index) {
            Some(id) => self.client.with_header("x-request-id", id),
            None => self.client.clone(),
        };
        let start = self.began.elapsed();
        let answer = ask(&client, &self.path, body).await;
        drop(slot);
        Outcome {
            start,
            index,
            answer,
        }
    }
}
