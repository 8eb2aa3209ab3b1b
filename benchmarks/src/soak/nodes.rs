//! The two processes of a soak, the emulated link between them, and what is done to all three.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use edgeprompt_launch::ModelArgs;
use edgeprompt_testkit::emulator::EmulatorHandle;
use edgeprompt_transport::{CloudIdentity, EdgeIdentity};

use super::disk::SmallDisk;
use super::questions::CloudText;
use super::schedule::Disturbance;
use crate::http::Server;
use crate::pipeline::plan::model_arguments;
use crate::serving::{Node, NodeSpec, ServingNode};
use crate::transfer::link_args::LinkSpec;

/// Memory for cloud prompts on the edge, in MiB: few of a soak's prompts fit, so that they are looked
/// up, read and fetched all the time. On disk there is room for about twice as many, not for all.
const CLOUD_KV_MIB: &str = "2";
const CACHE_MIB: &str = "4";

/// Between two looks at what names mean, in seconds.
const REVALIDATE_S: &str = "1";

/// Between two times that the files on the disk are damaged.
const DAMAGE_PERIOD: Duration = Duration::from_secs(1);

/// What the nodes are to be.
pub(super) struct Setting<'a> {
    /// The model of both.
    pub(super) model: &'a ModelArgs,
    /// What the cloud serves; the first is the edge's default.
    pub(super) cloud: &'a [CloudText],
    /// Users at a time.
    pub(super) user_count: usize,
    /// The link between them, and what its chance follows from.
    pub(super) link: (LinkSpec, u64),
    /// Where the logs go.
    pub(super) log_dir: &'a Path,
}

/// Both nodes.
pub(super) struct Nodes {
    cloud: Option<ServingNode>,
    cloud_spec: NodeSpec,
    link: EmulatorHandle,
    edge: ServingNode,
    disk: SmallDisk,
    disk_is_full: bool,
    damage: Option<Damage>,
    _dir: tempfile::TempDir,
}

/// The disk being damaged.
#[derive(Default)]
struct Damage {
    last: Option<Instant>,
    file_count: usize,
}

impl Nodes {
    /// Starts both, joined.
    pub(super) fn start(setting: &Setting<'_>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let identity = dir.path().join("cloud");
        let (_, token) = CloudIdentity::init(&identity)?;
        EdgeIdentity::join(&token)?.save(&dir.path().join("edge"))?;
        let prompts = dir.path().join("prompts");
        std::fs::create_dir(&prompts)?;
        for CloudText { name, text } in setting.cloud {
            std::fs::write(prompts.join(format!("{name}.txt")), text)?;
        }
        let mut cloud_spec = NodeSpec {
            node: Node::Cloud,
            args: model_arguments(setting.model)
                .into_iter()
                .map(Into::into)
                .collect(),
            log: Some(new_log(setting.log_dir, "soak-cloud.log")?),
            threads: None,
        };
        cloud_spec
            .args
            .extend(["--identity".into(), identity.into()]);
        cloud_spec.args.extend(["--prompts".into(), prompts.into()]);
        cloud_spec.args.push("--listen".into());
        let cloud = {
            cloud_spec.args.push("127.0.0.1:0".into());
            let cloud = ServingNode::start(&cloud_spec)?;
            cloud_spec.args.pop();
            cloud
        };
        let addr: SocketAddr = cloud.addr().parse().context("a cloud says its address")?;
        cloud_spec.args.push(addr.to_string().into());
        let (link, seed) = setting.link;
        let link = link.emulate(addr, seed)?;
        let disk = SmallDisk::open(&dir.path().join("disk"))?;
        let edge = ServingNode::start(&NodeSpec {
            node: Node::Edge,
            args: edge_arguments(setting, &link, (dir.path(), disk.path())),
            log: Some(new_log(setting.log_dir, "soak-edge.log")?),
            threads: None,
        })?;
        Ok(Self {
            cloud: Some(cloud),
            cloud_spec,
            link,
            edge,
            disk,
            disk_is_full: false,
            damage: None,
            _dir: dir,
        })
    }

    /// The edge as its users reach it.
    pub(super) fn server(&self) -> Server {
        Server::at(self.edge.addr())
    }

    /// The number of the edge's process.
    pub(super) fn edge_process(&self) -> u32 {
        self.edge.process_id()
    }

    /// How the disk is filled.
    pub(super) fn disk_how(&self) -> String {
        self.disk.how()
    }

    /// Packets that the edge has sent towards its cloud.
    pub(super) fn sent_packets(&self) -> u64 {
        self.link.stats().up.received_packet_count
    }

    /// Lets something go wrong.
    pub(super) fn begin(&mut self, what: Disturbance) -> Result<()> {
        match what {
            Disturbance::CloudKilled => self.cloud = None,
            Disturbance::LinkCut => self.link.cut(),
            Disturbance::DiskCorrupted => self.damage = Some(Damage::default()),
            Disturbance::DiskFull => self.disk_is_full = true,
        }
        self.go_on()
    }

    /// What has begun goes on: what the edge gives up on a full disk would be room, and what it writes
    /// meanwhile undamaged.
    pub(super) fn go_on(&mut self) -> Result<()> {
        if self.disk_is_full {
            self.disk.fill(self.edge.process_id())?;
        }
        if let Some(damage) = &mut self.damage
            && damage
                .last
                .is_none_or(|last| last.elapsed() >= DAMAGE_PERIOD)
        {
            damage.last = Some(Instant::now());
            damage.file_count += self.disk.corrupt()?;
        }
        Ok(())
    }

    /// Puts it right again. Says what it was if there is more to it than its name.
    pub(super) fn end(&mut self, what: Disturbance) -> Result<Option<String>> {
        match what {
            Disturbance::CloudKilled => self.cloud = Some(ServingNode::start(&self.cloud_spec)?),
            Disturbance::LinkCut => self.link.resume(),
            Disturbance::DiskFull => {
                self.disk_is_full = false;
                self.disk.free(self.edge.process_id())?;
            }
            // What is damaged stays so until somebody reads it.
            Disturbance::DiskCorrupted => {
                let damage = self.damage.take().unwrap_or_default();
                return Ok(Some(format!("{} damaged", damage.file_count)));
            }
        }
        Ok(None)
    }
}

/// An empty file.
fn new_log(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    std::fs::write(&path, "").with_context(|| format!("{} cannot be made", path.display()))?;
    Ok(path)
}

fn edge_arguments(
    setting: &Setting<'_>,
    link: &EmulatorHandle,
    (dir, disk): (&Path, &Path),
) -> Vec<OsString> {
    // A quarter of the users waits for its turn, and those that compute have room for about 64 tokens
    // each: some step back.
    let seq_count = (setting.user_count * 3 / 4).max(1);
    let kv_mib = setting.user_count.div_ceil(8).max(1);
    let mut args: Vec<OsString> = vec!["--port".into(), "0".into(), "--cloud".into()];
    args.push(link.addr().to_string().into());
    let paths = [
        ("--identity", dir.join("edge")),
        ("--cache-dir", disk.join("cache")),
        ("--remembered", disk.join("names")),
    ];
    args.extend(
        paths
            .into_iter()
            .flat_map(|(flag, path)| [flag.into(), path.into()]),
    );
    let values = [
        ("--cloud-kv-mib", CLOUD_KV_MIB.to_owned()),
        ("--cache-mib", CACHE_MIB.to_owned()),
        ("--revalidate-s", REVALIDATE_S.to_owned()),
        ("--max-num-seqs", seq_count.to_string()),
        ("--kv-cache-mib", kv_mib.to_string()),
        // Some users come again before the server knows that they have left.
        (
            "--max-concurrency-per-key",
            (setting.user_count * 4).to_string(),
        ),
    ];
    args.extend(
        values
            .into_iter()
            .flat_map(|(flag, value)| [flag.into(), value.into()]),
    );
    let default = setting.cloud.first().map(|cloud| cloud.name.as_str());
    args.extend(["--cloud-prompt".into(), default.unwrap_or_default().into()]);
    args.extend(model_arguments(setting.model).into_iter().map(Into::into));
    args
}
