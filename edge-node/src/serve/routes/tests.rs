//! What a client gets that is not served, over real HTTP.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::time::Instant;

use axum::http::HeaderMap;
use burn::tensor::Device;
use edgeprompt_engine::{Generation, Sampler, SamplingParams};
use edgeprompt_kv::TokenId;
use edgeprompt_model::{Model, ModelShape};
use edgeprompt_telemetry::exporter::{self, MetricsHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::prefill_speed::PrefillSpeed;
use crate::serve::access::{Callers, RequestIds};
use crate::serve::connections::{ClientPatience, Connections};
use crate::serve::filling::Filler;
use crate::serve::generator::Generator;
use crate::serve::listening::{self, Security};
use crate::serve::origins::Origins;
use crate::serve::prompting::Seam;
use crate::serve::segments::CloudPrompts;
use crate::serve::server::{Capacity, CapacityConfig};
use crate::serve::sources::Sources;
use crate::serve::timelines::Timelines;

/// A process has one recorder.
static METRICS: OnceLock<MetricsHandle> = OnceLock::new();

fn app() -> Arc<App> {
    app_for(&[])
}

/// An app that pages of these origins may use.
fn app_for(origins: &[&str]) -> Arc<App> {
    let origins = origins.iter().map(|origin| origin.parse().unwrap());
    Arc::new(App {
        origins: Origins::new(origins.collect()),
        callers: Callers::anybody(1),
        ids: RequestIds::default(),
        metrics: METRICS.get_or_init(|| exporter::install().unwrap()).clone(),
        server: OnceLock::new(),
    })
}

fn loaded_server() -> Server {
    let model = Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()));
    let some = NonZeroUsize::new(4).unwrap();
    let config = CapacityConfig {
        kv_cache_bytes: 1 << 20,
        max_num_seqs: some,
        max_model_len: None,
    };
    let capacity = Capacity::new(&model, config);
    let generator =
        Generator::start(Arc::clone(&model), capacity.engine_limits(some, some)).unwrap();
    let speed = PrefillSpeed::new(Duration::from_millis(1), 1);
    let filler = Filler::new(Arc::clone(&model), generator.clone(), speed);
    Server {
        model,
        name: "tiny".to_owned(),
        root: "tiny".to_owned(),
        created: 0,
        began_at: Instant::now(),
        capacity,
        generator,
        prompts: CloudPrompts::new(Sources::default(), filler, 1 << 20),
        uplink: None,
        workers: None,
        timelines: Timelines::default(),
        prefetched: Vec::new(),
        sessions: None,
        seam: Seam::ComputeHere,
        was_ready: OnceLock::new(),
    }
}

async fn listening(app: Arc<App>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connections = Connections::new(listener, 4, ClientPatience::default());
    let addr = connections.local_addr().unwrap();
    tokio::spawn(listening::serve(
        connections,
        Security::Clear,
        router(app),
        std::future::pending(),
    ));
    addr
}

/// The head and the body of an answer.
async fn answer(addr: SocketAddr, line: &str, body: &str) -> (String, Value) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let len = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}"
    );
    // A server that refuses early may not read on.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), serde_json::from_str(body).unwrap())
}

/// The status, the kind and the code of an answer that must be an error.
async fn refused(addr: SocketAddr, line: &str, body: &str) -> (u16, String, Value) {
    let (head, body) = answer(addr, line, body).await;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let error = &body["error"];
    assert!(error["message"].is_string(), "{body}");
    assert_eq!(
        head.contains("retry-after: 1"),
        [429, 503].contains(&status),
        "{head}"
    );
    let kind = error["type"].as_str().unwrap().to_owned();
    (status, kind, error["code"].clone())
}

const ASK: &str = "POST /v1/completions";
const ONE_TOKEN: &str = r#"{"prompt": [1], "max_tokens": 1}"#;

/// The head of the answer to a request without a body.
async fn head(addr: SocketAddr, line: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, _) = text.split_once("\r\n\r\n").unwrap();
    head.to_lowercase()
}

#[tokio::test]
async fn pages_of_allowed_origins_and_no_others_may_use_the_server() {
    const OURS: &str = "origin: https://ours.example\r\n";
    const THEIRS: &str = "origin: https://theirs.example\r\n";
    let first = |origin: &str| {
        format!(
            "{origin}access-control-request-method: POST\r\naccess-control-request-headers: authorization\r\n"
        )
    };
    let addr = listening(app_for(&["https://ours.example", "http://localhost:3000"])).await;
    let preflight = "OPTIONS /v1/chat/completions";
    let allowed = head(addr, preflight, &first(OURS)).await;
    for part in [
        "http/1.1 204",
        "access-control-allow-origin: https://ours.example",
        "access-control-allow-methods: get, post",
        "access-control-allow-headers: authorization, content-type",
        "vary: origin",
        "x-request-id: ",
    ] {
        assert!(allowed.contains(part), "{part} in {allowed}");
    }
    // Errors too: a page must be able to read them.
    let answered = head(addr, "GET /v1/models", OURS).await;
    assert!(answered.starts_with("http/1.1 503"), "{answered}");
    assert!(answered.contains("access-control-allow-origin: https://ours.example"));
    assert!(answered.contains("access-control-expose-headers: x-request-id"));
    let refused = head(addr, preflight, &first(THEIRS)).await;
    assert!(refused.starts_with("http/1.1 405"), "{refused}");
    for headers in [THEIRS, ""] {
        let answered = head(addr, "GET /version", headers).await;
        assert!(answered.starts_with("http/1.1 200"), "{answered}");
        assert!(!answered.contains("access-control"), "{answered}");
        assert!(answered.contains("vary: origin"), "{answered}");
    }
    let everybody = listening(app_for(&["*"])).await;
    let answered = head(everybody, "GET /version", THEIRS).await;
    assert!(
        answered.contains("access-control-allow-origin: *"),
        "{answered}"
    );
    assert!(!answered.contains("allow-credentials"), "{answered}");
    let nobody = listening(app()).await;
    for (line, headers) in [(preflight, first(OURS)), ("GET /version", OURS.to_owned())] {
        let answered = head(nobody, line, &headers).await;
        assert!(!answered.contains("access-control"), "{answered}");
    }
}

#[tokio::test]
async fn while_the_model_is_being_loaded_it_is_503() {
    let app = app();
    let addr = listening(Arc::clone(&app)).await;
    let unavailable = || (503, "server_error".to_owned(), Value::Null);
    for line in ["GET /health", "GET /readyz", "GET /v1/models", ASK] {
        assert_eq!(
            refused(addr, line, ONE_TOKEN).await,
            unavailable(),
            "{line}"
        );
    }
    let _ = app.server.set(loaded_server());
    let (head, body) = answer(addr, "GET /health", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert_eq!(body, json!({ "status": "ok" }));
}

#[tokio::test]
async fn a_dead_engine_is_503_and_every_request_fails() {
    let app = app();
    let server = loaded_server();
    // No model has weights for this token.
    let deadly = Generation {
        prompt: vec![TokenId(1 << 20)],
        segment: None,
        session: None,
        sampler: Sampler::new(SamplingParams::greedy(), 0, &[]),
        max_tokens: 1,
        end_tokens: Vec::new(),
    };
    let mut tokens = server.generator.generate(deadly).await.unwrap();
    assert!(tokens.next().await.is_none());
    // The thread tells of its panic before it is gone.
    while server.generator.is_running() {
        tokio::task::yield_now().await;
    }
    let _ = app.server.set(server);
    let addr = listening(app).await;
    let failed = |status| (status, "server_error".to_owned(), Value::Null);
    assert_eq!(refused(addr, "GET /health", "").await, failed(503));
    assert_eq!(refused(addr, ASK, ONE_TOKEN).await, failed(500));
    let (head, body) = answer(addr, "GET /readyz", "").await;
    assert!(head.starts_with("http/1.1 503"), "{head}");
    assert_eq!(body["status"], "not ready");
}

#[test]
fn text_is_tokenised_off_the_async_threads() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let app = app();
        let _ = app.server.set(loaded_server());
        let addr = listening(app).await;
        // The one thread for what takes long is taken.
        let (release, held) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || held.recv());
        let text = r#"{"prompt": "How much is it?", "max_tokens": 1}"#;
        let asked: Vec<_> = ["POST /tokenize", ASK]
            .map(|line| tokio::spawn(answer(addr, line, text)))
            .into();
        for _ in 0..50 {
            let (head, _) = answer(addr, "GET /health", "").await;
            assert!(head.starts_with("http/1.1 200"), "{head}");
            assert!(asked.iter().all(|asked| !asked.is_finished()));
        }
        drop(release);
        let _ = busy.await.unwrap();
        for asked in asked {
            // This model has no tokenizer, and that is found out there.
            let (head, body) = asked.await.unwrap();
            assert!(head.starts_with("http/1.1 400"), "{head} {body}");
        }
    });
}

#[tokio::test]
async fn more_requests_than_a_key_has_places_are_429() {
    let app = app();
    let _ = app.server.set(loaded_server());
    let addr = listening(Arc::clone(&app)).await;
    let caller = app.callers.identify(&HeaderMap::new()).unwrap();
    let place = caller.place().unwrap();
    let limited = (
        429,
        "rate_limit_error".to_owned(),
        json!("rate_limit_exceeded"),
    );
    assert_eq!(refused(addr, ASK, ONE_TOKEN).await, limited);
    drop(place);
    let ask = r#"{"prompt": [1], "max_tokens": 1, "return_token_ids": true}"#;
    let (head, body) = answer(addr, ASK, ask).await;
    assert!(head.starts_with("http/1.1 200"), "{head} {body}");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_413() {
    let app = app();
    let _ = app.server.set(loaded_server());
    let addr = listening(app).await;
    let large = " ".repeat(BODY_BYTES_MAX + 1);
    let refusal = refused(addr, ASK, &large).await;
    assert_eq!(
        refusal,
        (413, "invalid_request_error".to_owned(), Value::Null)
    );
}

#[tokio::test]
async fn a_model_is_found_by_its_name() {
    let app = app();
    let _ = app.server.set(loaded_server());
    let addr = listening(app).await;
    let (_, body) = answer(addr, "GET /v1/models/tiny", "").await;
    assert_eq!(
        (&body["id"], &body["object"]),
        (&json!("tiny"), &json!("model"))
    );
    let (_, list) = answer(addr, "GET /v1/models", "").await;
    assert_eq!(list["data"], json!([body]));
    let refusal = refused(addr, "GET /v1/models/some/other", "").await;
    let unknown = (
        404,
        "invalid_request_error".to_owned(),
        json!("model_not_found"),
    );
    assert_eq!(refusal, unknown);
}
