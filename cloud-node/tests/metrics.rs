//! The metrics of a cloud that served one prompt, read over HTTP. A program has one recorder, so
//! this program has one test.

// All of it is test code, so a panic is a failed test.
#![cfg(test)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use burn::tensor::Device;
use cloud_node::compute::PromptComputer;
use cloud_node::library::ServedLibrary;
use cloud_node::metrics_listener::{MetricsListener, REQUEST_BYTES_MAX};
use cloud_node::service::{CloudService, PublicPrompts};
use edgeprompt_kv::{KvDtype, ModelDigest, TokenId};
use edgeprompt_model::Model;
use edgeprompt_protocol::{Fetch, PromptRef, PublicPrompt};
use edgeprompt_telemetry::exporter;
use edgeprompt_transport::{
    CloudEndpoint, CloudIdentity, CloudLink, EdgeEndpoint, EdgeIdentity, INVITATION_LIFETIME,
    LinkConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

const LOOPBACK: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

async fn answer(addr: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(addr: SocketAddr, path: &str) -> String {
    answer(
        addr,
        format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes(),
    )
    .await
}

fn fetch(link: &CloudLink, model: ModelDigest) -> Fetch {
    let tokens = (1..21).map(TokenId).collect();
    Fetch {
        fetch: link.next_fetch_id(),
        model,
        prompt: PromptRef::Public(PublicPrompt::Tokens(tokens)),
        layers: None,
        dtype: KvDtype::F32,
    }
}

/// Fetches a prompt twice, is refused once; gives the layers and the bytes of keys and values that
/// arrived.
async fn use_a_cloud(model: Arc<Model>) -> (usize, usize) {
    let computer = PromptComputer::start(Arc::clone(&model), 1 << 24);
    let service = Arc::new(CloudService {
        computer,
        library: ServedLibrary::default(),
        public_prompts: PublicPrompts::Accepted,
    });
    let identity = CloudIdentity::in_memory().unwrap();
    let endpoint = CloudEndpoint::bind(LOOPBACK.into(), &identity, LinkConfig::default()).unwrap();
    let addr = endpoint.local_addr().unwrap();
    let (stop, stopping) = watch::channel(false);
    let running = tokio::spawn(service.run(endpoint, stopping));

    let joined = EdgeIdentity::join(&identity.invite(INVITATION_LIFETIME).unwrap()).unwrap();
    let edge = EdgeEndpoint::bind(LOOPBACK.into(), &joined, LinkConfig::default()).unwrap();
    let link = edge.connect(addr).await.unwrap();
    let (mut layer_count, mut bytes) = (0, 0);
    for _ in 0..2 {
        let mut layers = link.fetch(fetch(&link, model.digest)).await.unwrap();
        while let Some(layer) = layers.next_layer().await.unwrap() {
            layer_count += 1;
            bytes += layer.kv.payload().len();
        }
    }
    let other_model = fetch(&link, ModelDigest::new([0; 32]));
    assert!(link.fetch(other_model).await.is_err());
    stop.send_replace(true);
    running.await.unwrap();
    (layer_count, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_say_over_http_what_their_descriptions_promise() {
    let metrics = exporter::install().unwrap();
    let listener = MetricsListener::bind(LOOPBACK.into(), metrics)
        .await
        .unwrap();
    let addr = listener.local_addr();
    tokio::spawn(listener.run());
    let model = Arc::new(Model::demo(&Device::flex()).unwrap());
    let (layer_count, bytes) = use_a_cloud(Arc::clone(&model)).await;
    assert_eq!(layer_count, 2 * model.config.layer_count);

    let text = get(addr, "/metrics?all").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
    for line in [
        "cloud_prompts_computed_total 1".to_owned(),
        format!("cloud_layers_sent_total {layer_count}"),
        format!("cloud_kv_bytes_transferred_total {bytes}"),
        format!("cloud_layer_compute_seconds_count {}", layer_count / 2),
        "cloud_refusals_total{reason=\"model_mismatch\"} 1".to_owned(),
        "cloud_edges_connected 0".to_owned(),
    ] {
        assert!(body.lines().any(|there| there == line), "{line} in {body}");
    }

    assert!(get(addr, "/health").await.ends_with("\r\n\r\n200 OK\n"));
    for request in ["GET / HTTP/1.1", "POST /metrics HTTP/1.1", "GET", ""] {
        let missing = answer(addr, format!("{request}\r\n\r\n").as_bytes()).await;
        assert!(missing.starts_with("HTTP/1.1 404 "), "{request}: {missing}");
    }
    let endless = answer(addr, &[b'a'; REQUEST_BYTES_MAX]).await;
    assert!(endless.starts_with("HTTP/1.1 431 "), "{endless}");
    // A connection that says nothing holds up no other.
    let _silent = TcpStream::connect(addr).await.unwrap();
    assert!(get(addr, "/health").await.starts_with("HTTP/1.1 200 "));
}
