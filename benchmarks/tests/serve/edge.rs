//! Serving edge nodes: the program starts again as one, with the demo model and with or without a
//! cloud. It ends when its input does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use cloud_node::compute::PromptComputer;
use cloud_node::library::PromptLibrary;
use cloud_node::running::RunningCloud;
use cloud_node::service::{CloudService, PublicPrompts};
use edgeprompt_model::{ComputeDevice, Model};
use edgeprompt_transport::{CloudIdentity, EdgeIdentity, INVITATION_LIFETIME, LinkConfig};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) struct Edge {
    pub(crate) base_url: String,
    process: Child,
    _cloud: Option<Cloud>,
}

/// A cloud in this process, and what an edge knows of it.
struct Cloud {
    running: RunningCloud,
    identity: TempDir,
    /// What it runs on.
    _runtime: Runtime,
}

fn model_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/model/demo")
}

impl Cloud {
    /// Serves one prompt.
    fn serving(name: &str, text: &str) -> Self {
        let device = ComputeDevice::default().open().unwrap();
        let model = Arc::new(Model::demo(&device).unwrap());
        let mut library = PromptLibrary::default();
        library.add(name.parse().unwrap(), text, &model).unwrap();
        let service = CloudService {
            computer: PromptComputer::start(Arc::clone(&model), 64 << 20),
            library: library.into(),
            public_prompts: PublicPrompts::Refused,
        };
        let (identity, dir) = (
            CloudIdentity::in_memory().unwrap(),
            tempfile::tempdir().unwrap(),
        );
        let invitation = identity.invite(INVITATION_LIFETIME).unwrap();
        let joined = EdgeIdentity::join(&invitation).unwrap();
        joined.save(&dir.path().join("identity")).unwrap();
        let runtime = Runtime::new().unwrap();
        let running = runtime.block_on(async {
            let loopback = (Ipv4Addr::LOCALHOST, 0).into();
            service.start(loopback, &identity, LinkConfig::default())
        });
        Self {
            running: running.unwrap(),
            identity: dir,
            _runtime: runtime,
        }
    }
}

impl Edge {
    /// One without a cloud.
    pub(crate) fn start() -> Self {
        Self::with_arguments(&["--local".to_owned()])
    }

    /// One whose cloud serves one prompt.
    pub(crate) fn with_cloud_prompt(name: &str, text: &str) -> Self {
        let cloud = Cloud::serving(name, text);
        let identity = cloud.identity.path().join("identity");
        let mut edge = Self::with_arguments(&[
            "--cloud".to_owned(),
            cloud.running.addr().to_string(),
            "--identity".to_owned(),
            identity.display().to_string(),
        ]);
        edge._cloud = Some(cloud);
        edge
    }

    fn with_arguments(arguments: &[String]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_benchmarks"))
            .args(["edge-node-serve", "--port", "0", "--model"])
            .arg(model_path())
            .args(["--no-remembered", "--no-disk-cache", "-q"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut lines = lines.map(Result::unwrap);
        let base_url = lines.find_map(|line| Some(line.strip_prefix("listening on ")?.to_owned()));
        Self {
            base_url: base_url.expect("the edge's log is above"),
            process,
            _cloud: None,
        }
    }

    /// The whole answer to a completion, as it is on the wire.
    pub(crate) fn complete(&self, body: &Value) -> Value {
        let host = self.base_url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host.trim_end_matches('/')).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "POST /v1/completions HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
