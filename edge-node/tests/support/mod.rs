//! Two real processes on loopback: a cloud node with an identity, an edge node that joined it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

/// The file of everything that the cloud logs.
const CLOUD_LOG: &str = "cloud.log";

/// A cloud node that is listening, and the folder where both nodes keep what they need.
pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) addr: String,
    pub(crate) token: String,
    model: Vec<String>,
    cloud: Child,
}

impl Cluster {
    /// Starts a cloud on the model that `model_args` name, with `(name, text)` cloud prompts.
    pub(crate) fn start(model_args: &[&str], prompts: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let prompts_dir = dir.path().join("prompts");
        std::fs::create_dir(&prompts_dir).unwrap();
        for (name, text) in prompts {
            std::fs::write(prompts_dir.join(format!("{name}.txt")), text).unwrap();
        }
        let init = run(Command::new(cloud_node())
            .arg("init")
            .arg("--identity")
            .arg(dir.path().join("cloud")));
        let token = stdout(&init).split_whitespace().last().unwrap().to_owned();
        let (cloud, addr) = serve(dir.path(), model_args, "127.0.0.1:0");
        let model = model_args.iter().map(|arg| (*arg).to_owned()).collect();
        let cluster = Self {
            dir,
            addr,
            token,
            model,
            cloud,
        };
        let joined = run(&mut cluster.join("edge"));
        assert!(joined.status.success(), "{}", stderr(&joined));
        cluster
    }

    /// `edge-node join` with the cloud's first token.
    pub(crate) fn join(&self, identity: &str) -> Command {
        let mut command = Command::new(edge_node());
        command
            .args(["join", &self.token, "--identity"])
            .arg(self.dir.path().join(identity));
        command
    }

    /// One more edge, invited for itself.
    #[allow(dead_code, reason = "not every test program needs more edges")]
    pub(crate) fn invite(&self, identity: &str) {
        let invited = run(Command::new(cloud_node())
            .args(["invite", "--identity"])
            .arg(self.dir.path().join("cloud")));
        let joined = run(Command::new(edge_node())
            .args([
                "join",
                stdout(&invited).split_whitespace().last().unwrap(),
                "--identity",
            ])
            .arg(self.dir.path().join(identity)));
        assert!(joined.status.success(), "{}", stderr(&joined));
    }

    /// `edge-node ask` of the edge that joined.
    pub(crate) fn ask(&self, args: &[&str]) -> Output {
        self.asking("edge", &self.addr, args)
    }

    /// `edge-node ask` with another identity folder.
    pub(crate) fn ask_as(&self, identity: &str, args: &[&str]) -> Output {
        self.asking(identity, &self.addr, args)
    }

    /// `edge-node ask` with another cloud.
    pub(crate) fn ask_elsewhere(&self, addr: &str, args: &[&str]) -> Output {
        self.asking("edge", addr, args)
    }

    fn asking(&self, identity: &str, addr: &str, args: &[&str]) -> Output {
        let mut command = Command::new(edge_node());
        command
            .arg("ask")
            .args(&self.model)
            .args(["--cloud", addr, "--identity"])
            .arg(self.dir.path().join(identity))
            .env("EDGE_REMEMBERED", self.remembered());
        run(command.args(args))
    }

    /// `edge-node audit` of the edge that joined, which logs everything.
    pub(crate) fn audit(&self, args: &[&str]) -> Output {
        let mut command = Command::new(edge_node());
        command
            .arg("audit")
            .args(&self.model)
            .args(["--cloud", &self.addr, "--identity"])
            .arg(self.dir.path().join("edge"))
            .env("RUST_LOG", "trace");
        run(command.args(args))
    }

    /// `edge-node prompts` of the edge that joined.
    pub(crate) fn prompts(&self) -> Output {
        let mut command = Command::new(edge_node());
        command.args(["prompts", "--cloud", &self.addr, "--identity"]);
        run(command.arg(self.dir.path().join("edge")))
    }

    /// Where the edges remember prompts.
    pub(crate) fn remembered(&self) -> PathBuf {
        self.dir.path().join("remembered")
    }

    /// Everything that the cloud has logged.
    pub(crate) fn cloud_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join(CLOUD_LOG)).unwrap()
    }

    /// Starts the cloud again where it was.
    pub(crate) fn restart_cloud(&mut self) {
        let model: Vec<_> = self.model.iter().map(String::as_str).collect();
        let (cloud, addr) = serve(self.dir.path(), &model, &self.addr);
        assert_eq!(addr, self.addr);
        self.cloud = cloud;
    }

    /// Writes a cloud prompt into the cloud's folder.
    pub(crate) fn write_prompt(&self, name: &str, text: &[u8]) {
        let file = self.dir.path().join("prompts").join(format!("{name}.txt"));
        std::fs::write(file, text).unwrap();
    }

    /// Tells the cloud to read its prompts again.
    pub(crate) fn hang_up(&self) {
        let pid = self.cloud.id().to_string();
        let told = Command::new("kill").args(["-HUP", &pid]).status();
        assert!(told.unwrap().success());
    }

    /// Kills the cloud.
    pub(crate) fn kill_cloud(&mut self) {
        self.cloud.kill().unwrap();
        self.cloud.wait().unwrap();
    }
}

/// A cloud with the identity and the prompts in `dir`, and where it listens.
fn serve(dir: &Path, model_args: &[&str], listen: &str) -> (Child, String) {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join(CLOUD_LOG));
    let mut cloud = Command::new(cloud_node())
        .arg("serve")
        .args(model_args)
        .arg("--identity")
        .arg(dir.join("cloud"))
        .arg("--prompts")
        .arg(dir.join("prompts"))
        .args(["--listen", listen])
        .env("RUST_LOG", "trace")
        .stdout(Stdio::piped())
        .stderr(log.unwrap())
        .spawn()
        .unwrap();
    let lines = BufReader::new(cloud.stdout.take().unwrap()).lines();
    let addr = lines
        .map(Result::unwrap)
        .find_map(|line| line.strip_prefix("listening on ").map(str::to_owned))
        .expect("the cloud node says where it listens");
    (cloud, addr)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.cloud.kill();
        let _ = self.cloud.wait();
    }
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) fn edge_node() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_edge-node"))
}

/// The other program lies beside this one when the workspace is built.
pub(crate) fn cloud_node() -> PathBuf {
    let name = format!("cloud-node{}", std::env::consts::EXE_SUFFIX);
    let path = edge_node().parent().map(Path::to_owned).unwrap().join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --release --workspace`",
        path.display()
    );
    path
}
