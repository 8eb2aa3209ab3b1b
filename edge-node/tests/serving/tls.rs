//! HTTP over TLS, as a client that trusts the server's certificate and nothing else.

use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::cluster;
use crate::edge::{Edge, demo_model};
use crate::http::send_on;
use crate::support::{edge_node, run, stderr};

const NAME: &str = "edge.example";

/// A TLS stream to `addr` that accepts only `trusted`.
fn tls(addr: &str, trusted: &CertificateDer<'static>) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(NAME).unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(client, TcpStream::connect(addr).unwrap())
}

#[test]
fn a_server_shows_its_certificate_and_speaks_only_tls() {
    let cluster = cluster();
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let path = |name: &str| cluster.dir.path().join(name);
    std::fs::write(path("tls.pem"), made.cert.pem()).unwrap();
    std::fs::write(path("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (path("tls.pem"), path("tls.key"));
    let args = [
        "--tls-cert",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ];
    let edge = Edge::start(&cluster, "tls", &args);
    let ask = |trusted| {
        let stream = Box::new(tls(&edge.addr, trusted));
        send_on(stream, &edge.addr, ("GET /health HTTP/1.1", "")).whole()
    };
    assert_eq!(ask(made.cert.der()).status, 200);
    let other = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let mut untrusting = tls(&edge.addr, other.cert.der());
    let refused = untrusting.conn.complete_io(&mut untrusting.sock);
    assert!(refused.is_err());
    let mut clear = TcpStream::connect(&edge.addr).unwrap();
    let mut answer = Vec::new();
    std::io::Write::write_all(&mut clear, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    // The connection is closed or reset; either way no HTTP comes.
    let _ = std::io::Read::read_to_end(&mut clear, &mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");

    let half = run(Command::new(edge_node())
        .args(["serve", "--port", "0", "--tls-cert"])
        .arg(&certificate)
        .arg("--model")
        .arg(demo_model()));
    assert_eq!(half.status.code(), Some(2));
    assert!(stderr(&half).contains("--tls-key"), "{}", stderr(&half));
}
