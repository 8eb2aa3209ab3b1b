//! A serving edge node: the program starts again as one, with the demo model and no cloud. It
//! ends when its input does.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub(crate) struct Edge {
    pub(crate) base_url: String,
    process: Child,
}

impl Edge {
    pub(crate) fn start() -> Self {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/model/demo");
        let mut process = Command::new(env!("CARGO_BIN_EXE_benchmarks"))
            .args(["edge-node-serve", "--local", "--port", "0", "--model"])
            .arg(model)
            .args(["--no-remembered", "--no-disk-cache", "-q"])
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
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
