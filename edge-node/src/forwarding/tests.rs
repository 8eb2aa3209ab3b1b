//! What the disk does not give, and why.

use std::io::{Cursor, ErrorKind, SeekFrom};
use std::sync::mpsc::sync_channel;
use std::time::SystemTime;

use edgeprompt_kv::{KvDtype, KvGeometry, LayerKv, ModelDigest, TokenId};
use edgeprompt_protocol::{FetchId, KvSource};
use edgeprompt_segment_store::{SegmentFolder, SegmentInfo};

use super::*;

/// A file that the system does not give from some byte on.
struct Failing {
    bytes: Cursor<Vec<u8>>,
    from: u64,
}

impl Read for Failing {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.bytes.position() >= self.from {
            return Err(ErrorKind::StaleNetworkFileHandle.into());
        }
        self.bytes.read(into)
    }
}

impl Seek for Failing {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.bytes.seek(to)
    }
}

/// A segment of two layers, and the cache that it is kept in.
struct Kept {
    disk: Arc<DiskCache>,
    folder: SegmentFolder,
    info: SegmentInfo,
    bytes: Vec<u8>,
    _dir: tempfile::TempDir,
}

fn kept() -> Kept {
    let dir = tempfile::tempdir().unwrap();
    let folder = SegmentFolder::new(dir.path());
    let info = SegmentInfo {
        model: ModelDigest::new([1; 32]),
        geometry: KvGeometry::new(2, 1, 4).unwrap(),
        dtype: KvDtype::F32,
        tokens: vec![TokenId(1), TokenId(2)].into(),
        text: None,
    };
    let now = SystemTime::now();
    let mut new = folder
        .domain("here", 1 << 20)
        .begin(info.clone(), now)
        .unwrap();
    for _ in 0..2 {
        let payload = vec![0; info.layer_bytes()].into();
        let layer = LayerKv::new(payload, &info.geometry, 2, info.dtype);
        new.layer(&layer.unwrap()).unwrap();
    }
    new.commit(now).unwrap();
    let path = folder.list().unwrap().remove(0).path;
    Kept {
        disk: Arc::new(DiskCache::new(&folder, "here", 1 << 20)),
        bytes: std::fs::read(path).unwrap(),
        folder,
        info,
        _dir: dir,
    }
}

/// Why the second layer of a segment does not come, and whether its file stays.
async fn second_layer(kept: &Kept, file: Failing) -> (LossReason, bool) {
    let manifest = Manifest {
        fetch: FetchId(0),
        prompt: kept.info.id(),
        model: kept.info.model,
        geometry: kept.info.geometry,
        dtype: kept.info.dtype,
        layers: LayerRange::first(2),
        tokens: kept.info.tokens.to_vec(),
        text: None,
        source: KvSource::Stored,
    };
    let fetch = Fetch {
        fetch: manifest.fetch,
        model: manifest.model,
        prompt: PromptRef::Id(manifest.prompt),
        layers: None,
        dtype: manifest.dtype,
    };
    let (sender, arrivals) = sync_channel(arrivals_max(&manifest, 0));
    let forwarding = Forwarding::new(VecDeque::new(), (fetch, &manifest), sender);
    let reader = SegmentReader::open(file).unwrap();
    forwarding
        .run_from_disk(Arc::clone(&kept.disk), reader)
        .await;
    let first = arrivals.recv().unwrap();
    assert!(matches!(first, Arrival::Layer { .. }), "{first:?}");
    let Arrival::Lost(loss) = arrivals.recv().unwrap() else {
        panic!("the second layer cannot come")
    };
    (loss.reason, !kept.folder.list().unwrap().is_empty())
}

#[tokio::test]
async fn a_file_that_the_system_does_not_give_is_not_taken_for_a_damaged_one() {
    let kept = kept();
    let layer_bytes = (kept.info.layer_bytes() + 32) as u64;
    let second = kept.bytes.len() as u64 - layer_bytes;
    let file = |bytes: Vec<u8>, from| Failing {
        bytes: Cursor::new(bytes),
        from,
    };
    let unreadable = second_layer(&kept, file(kept.bytes.clone(), second)).await;
    assert_eq!(unreadable, (LossReason::Unreadable, true));
    let mut bytes = kept.bytes.clone();
    *bytes.last_mut().unwrap() ^= 1;
    let damaged = second_layer(&kept, file(bytes, u64::MAX)).await;
    assert_eq!(damaged, (LossReason::Corrupt, false));
}
