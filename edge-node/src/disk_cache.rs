//! The keys and values of cloud prompts on this edge's disk. A disk that fails costs a fetch, never an
//! answer: every failure is counted, and the first one of writing is a warning.

use std::fmt::Display;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use clap::Args;
use edgeprompt_engine::{CloudSegment, layer_from_view};
use edgeprompt_kv::{LayerIndex, LayerKv, PromptId};
use edgeprompt_launch::xdg_dir;
use edgeprompt_segment_store::{
    OpenError, ReadError, SegmentFolder, SegmentInfo, SegmentReader, SegmentStore, WriteError,
};
use edgeprompt_telemetry::names;
use edgeprompt_transport::EdgeIdentity;

use crate::planner::ReadSpeed;
use crate::uplink::is_fresh;

/// Where keys and values are kept, and how many.
#[derive(Args, Clone, Debug)]
pub struct CacheFolderArgs {
    /// Folder where the keys and values of cloud prompts are kept [default: the XDG cache folder]
    #[arg(long, value_name = "DIR", env = "EDGE_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// Disk for the keys and values of cloud prompts, in MiB; the ones unused for longest go first,
    /// and 0 keeps none
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 4096,
        env = "EDGE_CACHE_MIB"
    )]
    cache_mib: u32,
}

/// Whether and where they are kept.
#[derive(Args, Clone, Debug)]
pub struct CacheArgs {
    #[command(flatten)]
    folder: CacheFolderArgs,
    /// Keep no keys and values on disk, and use none
    #[arg(long, env = "EDGE_NO_DISK_CACHE")]
    no_disk_cache: bool,
}

impl CacheFolderArgs {
    /// The folder, unless this machine has none.
    pub(crate) fn folder(&self) -> Option<SegmentFolder> {
        let given = self.cache_dir.clone();
        let root = given.or_else(default_dir)?;
        Some(SegmentFolder::new(root.join("segments")))
    }

    /// Bytes of all segments together.
    pub(crate) fn bytes_max(&self) -> u64 {
        u64::from(self.cache_mib) << 20
    }
}

impl CacheArgs {
    /// The folder and the bytes of all segments together, if any are to be kept.
    pub(crate) fn folder(&self) -> Option<(SegmentFolder, u64)> {
        let keeps = !self.no_disk_cache && self.folder.cache_mib > 0;
        let folder = keeps.then(|| self.folder.folder()).flatten()?;
        Some((folder, self.folder.bytes_max()))
    }

    /// The cache of an edge; `None` if it is to keep nothing, or has no folder to keep it in.
    pub fn open(&self, identity: &EdgeIdentity) -> Option<DiskCache> {
        let (folder, bytes_max) = self.folder()?;
        let domain = identity.trust_domain();
        Some(DiskCache::new(&folder, &domain, bytes_max))
    }
}

/// The folder for what is kept unless told otherwise: the XDG cache folder.
pub(crate) fn default_dir() -> Option<PathBuf> {
    xdg_dir("XDG_CACHE_HOME", ".cache")
}

/// Why a segment was not read or written: the label of a metric.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failed {
    Damaged,
    Unreadable,
    Unwritable,
    NoRoom,
}

impl Failed {
    /// Every reason there is.
    pub(crate) const ALL: [Self; 4] = [
        Self::Damaged,
        Self::Unreadable,
        Self::Unwritable,
        Self::NoRoom,
    ];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Unreadable => "unreadable",
            Self::Unwritable => "unwritable",
            Self::NoRoom => "no_room",
        }
    }

    fn count(self) {
        metrics::counter!(names::EDGE_KV_DISK_FAILED_TOTAL, names::REASON => self.label())
            .increment(1);
    }
}

/// The segments of one trust domain on disk.
#[derive(Debug)]
pub struct DiskCache {
    store: SegmentStore,
    root: PathBuf,
    warned: AtomicBool,
    /// How fast the last segment was read, and when that was.
    read: Mutex<Option<(ReadSpeed, Instant)>>,
}

impl DiskCache {
    /// The segments of `domain` under a folder, which is tidied up.
    pub fn new(folder: &SegmentFolder, domain: &str, bytes_max: u64) -> Self {
        folder.tidy_up(SystemTime::now());
        Self {
            store: folder.domain(domain, bytes_max),
            root: folder.root().to_owned(),
            warned: AtomicBool::new(false),
            read: Mutex::default(),
        }
    }

    /// Notes how fast a segment was read.
    pub(crate) fn note_speed(&self, speed: ReadSpeed, now: Instant) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some((speed, now));
    }

    /// How fast the disk is, if something was read lately: what is older is to be measured again.
    pub(crate) fn fresh_speed(&self, now: Instant) -> Option<ReadSpeed> {
        let (speed, noted_at) = (*self.read.lock().unwrap_or_else(PoisonError::into_inner))?;
        is_fresh(now.saturating_duration_since(noted_at)).then_some(speed)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The segment of a prompt, its layers still to be verified. A damaged file is put aside.
    pub fn open(&self, id: &PromptId) -> Option<SegmentReader<File>> {
        match self.store.open(id, SystemTime::now()) {
            Ok(found) => found,
            Err(error @ OpenError::Damaged { .. }) => {
                self.put_aside(id, &error);
                None
            }
            Err(error @ OpenError::Io { .. }) => {
                self.warn_once(Failed::Unreadable, &error);
                None
            }
        }
    }

    /// Says that a segment was not read. The file is put aside if it is damaged, and stays if only
    /// the system did not give it: it may give it next time.
    pub fn not_read(&self, id: &PromptId, error: &ReadError) {
        match error {
            ReadError::Damaged(problem) => self.put_aside(id, problem),
            ReadError::Io(_) => self.warn_once(Failed::Unreadable, error),
        }
    }

    /// Whether a file of a prompt is there now: another process may have removed it.
    pub(crate) fn has(&self, id: &PromptId) -> bool {
        self.store.has(id)
    }

    /// Makes a segment the last one to go, if it is kept: what is in memory is not read from here.
    pub(crate) fn mark_used(&self, id: &PromptId) {
        self.store.mark_used(id, SystemTime::now());
    }

    /// Puts a damaged file aside and says so.
    pub fn put_aside(&self, id: &PromptId, problem: &dyn Display) {
        Failed::Damaged.count();
        let prompt = id.short();
        tracing::warn!(prompt, %problem, "a cloud prompt in the disk cache was put aside");
        self.store.quarantine(id);
    }

    /// Keeps a complete segment; layers that came `encoded` in the number format of the segment as
    /// they came. Says whether it is kept now.
    pub fn keep(
        &self,
        info: SegmentInfo,
        (segment, encoded): (&CloudSegment, &[Option<LayerKv>]),
    ) -> bool {
        match self.write(info, segment, encoded) {
            Ok(()) => true,
            Err(error @ WriteError::NoRoom { .. }) => {
                self.warn_once(Failed::NoRoom, &error);
                false
            }
            Err(error @ (WriteError::Io { .. } | WriteError::Encode(_))) => {
                self.warn_once(Failed::Unwritable, &error);
                false
            }
        }
    }

    fn write(
        &self,
        info: SegmentInfo,
        segment: &CloudSegment,
        encoded: &[Option<LayerKv>],
    ) -> Result<(), WriteError> {
        let (geometry, dtype) = (info.geometry, info.dtype);
        let mut new = self.store.begin(info, SystemTime::now())?;
        for layer in (0..geometry.layer_count()).map(LayerIndex) {
            let as_it_came = encoded.get(layer.as_usize()).and_then(Option::as_ref);
            if let Some(kv) = as_it_came.filter(|kv| kv.dtype() == dtype) {
                new.layer(kv)?;
                continue;
            }
            // A layer that is missing or of another shape leaves the segment incomplete, which
            // `commit` refuses.
            let Some(view) = segment.layers.get(layer) else {
                break;
            };
            let Ok(kv) = layer_from_view(view, &geometry, dtype) else {
                break;
            };
            new.layer(&kv)?;
        }
        new.commit(SystemTime::now())
    }

    /// A full or unwritable disk stays so for a while: one warning is enough.
    fn warn_once(&self, failed: Failed, error: &dyn Display) {
        failed.count();
        match self.warned.swap(true, Ordering::Relaxed) {
            false => tracing::warn!(
                %error,
                "the disk cache fails; cloud prompts are fetched again after a restart"
            ),
            true => tracing::debug!(%error, "the disk cache fails"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::time::Duration;

    use edgeprompt_kv::{KvDtype, KvGeometry, TokenId};
    use edgeprompt_segment_store::SegmentProblem;

    use super::*;

    #[test]
    fn what_was_read_long_ago_says_nothing_of_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskCache::new(&SegmentFolder::new(dir.path()), "here", 1 << 20);
        let now = Instant::now();
        assert_eq!(disk.fresh_speed(now), None);
        let speed = ReadSpeed {
            bytes: 8,
            time: Duration::from_millis(1),
        };
        disk.note_speed(speed, now);
        assert_eq!(disk.fresh_speed(now), Some(speed));
        assert_eq!(disk.fresh_speed(now + Duration::from_secs(3600)), None);
    }

    #[test]
    fn what_the_system_does_not_give_stays_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let folder = SegmentFolder::new(dir.path());
        let disk = DiskCache::new(&folder, "here", 1 << 20);
        let info = SegmentInfo {
            model: edgeprompt_kv::ModelDigest::new([1; 32]),
            geometry: KvGeometry::new(1, 1, 4).unwrap(),
            dtype: KvDtype::F32,
            tokens: vec![TokenId(1)].into(),
            text: None,
        };
        let id = info.id();
        let payload = vec![0; info.layer_bytes()].into();
        let kv = LayerKv::new(payload, &info.geometry, 1, info.dtype).unwrap();
        let now = SystemTime::now();
        let mut new = disk.store.begin(info, now).unwrap();
        new.layer(&kv).unwrap();
        new.commit(now).unwrap();
        disk.not_read(
            &id,
            &ReadError::Io(ErrorKind::StaleNetworkFileHandle.into()),
        );
        assert!(disk.open(&id).is_some());
        disk.not_read(&id, &SegmentProblem::LayerDigest(0).into());
        assert!(disk.open(&id).is_none());
    }
}
