//! The disk of a soak's edge, which can be filled and whose files can be damaged.
//!
//! Where this process may, it is a file system of its own in memory, of a few MiB: full is full.
//! Elsewhere it is a folder, and "full" is a limit of the size of files that the system holds the edge's
//! process to, so that its writes fail as on a full disk, with another number.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// Bytes of the file system: several times what the edge is to keep on it.
const DISK_BYTES: u64 = 16 << 20;

/// The file that fills it, and how finely.
const BALLAST: &str = "ballast";
const BALLAST_STEP: usize = 4096;

/// Bytes that are changed in a row.
const DAMAGED_BYTES: usize = 8;

/// The disk.
pub(super) struct SmallDisk {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    /// A file system that is gone with this, its only reference.
    FileSystem(#[expect(dead_code, reason = "held, not used")] OwnedFd),
    /// A folder like others.
    Folder,
}

impl SmallDisk {
    /// An empty disk; `folder` is used where there can be no file system.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        if let Ok(mounted) = file_system() {
            // It is in no folder, so whoever wants to reach it goes through this process.
            let (process, number) = (std::process::id(), mounted.as_raw_fd());
            return Ok(Self {
                path: PathBuf::from(format!("/proc/{process}/fd/{number}")),
                kind: Kind::FileSystem(mounted),
            });
        }
        fs::create_dir_all(folder)?;
        Ok(Self {
            path: folder.to_owned(),
            kind: Kind::Folder,
        })
    }

    /// Where it is for this process and its children.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How it is made full.
    pub(super) fn how(&self) -> String {
        match self.kind {
            Kind::FileSystem(_) => {
                format!("a file system of {} MiB, filled", DISK_BYTES >> 20)
            }
            Kind::Folder => {
                "no write of the edge gets through (RLIMIT_FSIZE), as there can be no file system \
                 of its own without root"
                    .to_owned()
            }
        }
    }

    /// Leaves no room; again, if somebody has made some.
    pub(super) fn fill(&self, edge_process: u32) -> Result<()> {
        match self.kind {
            Kind::FileSystem(_) => fill_up(&self.path.join(BALLAST)),
            Kind::Folder => limit_files(edge_process, Some(0)),
        }
    }

    /// There is room again.
    pub(super) fn free(&self, edge_process: u32) -> Result<()> {
        match self.kind {
            Kind::FileSystem(_) => Ok(fs::remove_file(self.path.join(BALLAST))?),
            Kind::Folder => limit_files(edge_process, None),
        }
    }

    /// Changes bytes in all segments that are kept, the head of every third and keys and values of the
    /// others, and says how many there were.
    pub(super) fn corrupt(&self) -> Result<usize> {
        let mut files = Vec::new();
        segments(&self.path, &mut files)?;
        let mut count = 0;
        for (index, file) in files.iter().enumerate() {
            let share = if index % 3 == 0 { 0.0 } else { 0.6 };
            match damage(file, share) {
                Ok(()) => count += 1,
                // The edge has just given it up.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot damage {}", file.display()));
                }
            }
        }
        Ok(count)
    }
}

/// Needs the right to mount, and is not mounted anywhere.
fn file_system() -> rustix::io::Result<OwnedFd> {
    let made = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&made, "size", DISK_BYTES.to_string())?;
    fsconfig_create(&made)?;
    fsmount(
        &made,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}

fn fill_up(ballast: &Path) -> Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(ballast)?;
    loop {
        match file.write(&[0; BALLAST_STEP]) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error).context("the disk cannot be filled"),
        }
    }
}

fn limit_files(process: u32, bytes_max: Option<u64>) -> Result<()> {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw);
    let limit = Rlimit {
        current: bytes_max,
        maximum: None,
    };
    let process = Some(process.context("a process has a number")?);
    prlimit(process, Resource::Fsize, limit).context("the edge's files cannot be limited")?;
    Ok(())
}

/// Collects the segments in a folder and those below, but what was put aside.
fn segments(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "quarantine") {
                segments(&path, files)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "segment") {
            files.push(path);
        }
    }
    Ok(())
}

/// Changes some bytes at a share of a file's length.
fn damage(path: &Path, share: f64) -> std::io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let len = file.metadata()?.len();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a place in a file, no matter which"
    )]
    let place = ((len as f64 * share) as u64).min(len.saturating_sub(DAMAGED_BYTES as u64));
    let mut bytes = [0; DAMAGED_BYTES];
    file.seek(SeekFrom::Start(place))?;
    file.read_exact(&mut bytes)?;
    file.seek(SeekFrom::Start(place))?;
    // Another value however often.
    file.write_all(&bytes.map(|byte| byte.wrapping_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_freed() {
        let dir = tempfile::tempdir().unwrap();
        let disk = SmallDisk::open(&dir.path().join("disk")).unwrap();
        if matches!(disk.kind, Kind::Folder) {
            eprintln!("SKIPPED: a file system of its own needs root");
            return;
        }
        let file = disk.path().join("file");
        disk.fill(0).unwrap();
        assert!(fs::write(&file, [1; 5000]).is_err());
        disk.free(0).unwrap();
        fs::write(&file, [1; 5000]).unwrap();
    }

    #[test]
    fn every_segment_is_damaged_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (domain, aside) = (dir.path().join("domain"), dir.path().join("quarantine"));
        for folder in [&domain, &aside] {
            fs::create_dir(folder).unwrap();
        }
        let files = [
            domain.join("a.segment"),
            domain.join("b.segment"),
            domain.join("names"),
            aside.join("c.segment"),
        ];
        for file in &files {
            fs::write(file, [7; 100]).unwrap();
        }
        let disk = SmallDisk {
            path: dir.path().to_owned(),
            kind: Kind::Folder,
        };
        for _ in 0..2 {
            assert_eq!(disk.corrupt().unwrap(), 2);
        }
        let changed = files.map(|file| fs::read(file).unwrap() != [7; 100]);
        assert_eq!(changed, [true, true, false, false]);
    }
}
