//! `edge-node kv`: the keys and values of cloud prompts on this edge's disk, listed, verified, carried
//! from one machine to another, removed. It needs neither a model nor a cloud.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, IntoInnerError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use edgeprompt_kv::{LayerIndex, PromptId};
use edgeprompt_launch::{ConfigFileArgs, Exit, Failure, say};
use edgeprompt_protocol::PromptName;
use edgeprompt_segment_store::{
    EncodeError, KeptSegment, NewFile, ReadError, SegmentFolder, SegmentInfo, SegmentReader,
    SegmentWriter,
};
use serde_json::{Value, json};

use crate::disk_cache::CacheFolderArgs;
use crate::kv::meant::{NotMeant, meant};
use crate::link;
use crate::remembered::MemoryArgs;

mod meant;

/// What to do with the disk cache.
#[derive(Subcommand)]
pub enum KvCommand {
    /// List what is there, the prompt used last first
    Ls(LsArgs),
    /// Read everything, or one prompt, and check it; exits with 5 and names the file if something is
    /// damaged
    Verify(VerifyArgs),
    /// Write one prompt's keys and values into a file of its own
    Export(ExportArgs),
    /// Take in a file that `export` wrote, once it is verified
    Import(ImportArgs),
    /// Remove one prompt's keys and values
    Rm(RmArgs),
}

/// The cache, and what its prompts are called.
#[derive(Args)]
pub struct PlaceArgs {
    /// Handled before the arguments are.
    #[command(flatten)]
    _config: ConfigFileArgs,
    #[command(flatten)]
    cache: CacheFolderArgs,
    #[command(flatten)]
    memory: MemoryArgs,
}

/// Arguments of `ls`.
#[derive(Args)]
pub struct LsArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `verify`.
#[derive(Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// One prompt's id or the beginning of it, or a name under which it was fetched [default: all]
    #[arg(value_name = "ID|NAME")]
    prompt: Option<String>,
}

/// Arguments of `export`.
#[derive(Args)]
pub struct ExportArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The prompt's id or the beginning of it, or a name under which it was fetched
    #[arg(value_name = "ID|NAME")]
    prompt: String,
    /// The file to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write over a file that is there already
    #[arg(long)]
    replace: bool,
}

/// Arguments of `import`.
#[derive(Args)]
pub struct ImportArgs {
    /// Handled before the arguments are.
    #[command(flatten)]
    _config: ConfigFileArgs,
    #[command(flatten)]
    cache: CacheFolderArgs,
    /// Folder of this edge's identity, which says for whose cloud the prompt is [default: the XDG
    /// configuration folder]
    #[arg(long, value_name = "DIR", env = "EDGE_IDENTITY")]
    identity: Option<PathBuf>,
    /// The file to read
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Arguments of `rm`.
#[derive(Args)]
pub struct RmArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// The prompt's id or the beginning of it, or a name under which it was fetched
    #[arg(value_name = "ID|NAME")]
    prompt: String,
}

/// Does what was asked.
///
/// # Errors
/// [`Failure`] with the exit code of what went wrong.
pub fn run(command: &KvCommand) -> Result<(), Failure> {
    match command {
        KvCommand::Ls(args) => ls(args),
        KvCommand::Verify(args) => verify(args),
        KvCommand::Export(args) => export(args),
        KvCommand::Import(args) => import(args),
        KvCommand::Rm(args) => rm(args),
    }
}

fn ls(args: &LsArgs) -> Result<(), Failure> {
    let kept = args.place.list()?;
    let names = args.place.memory.names();
    let rows: Vec<_> = kept.iter().map(|kept| Row::of(kept, &names)).collect();
    if args.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        return say(format_args!("{}\n", Value::from(rows)));
    }
    let mut page = format!(
        "{:<24} {:<8} {:>8} {:<5} {:>9} {:>9}  PROMPT ID\n",
        "NAMES", "MODEL", "TOKENS", "CODEC", "MIB", "USED"
    );
    for row in rows {
        let names = row.names.join(",");
        let (model, tokens, codec) = match &row.info {
            Some(info) => {
                let tokens = info.tokens.len().to_string();
                (info.model.short(), tokens, info.dtype.name())
            }
            None => ("-".to_owned(), "damaged".to_owned(), "-"),
        };
        let (mib, used) = (
            mib(row.kept.bytes),
            ago(row.kept.used_at, SystemTime::now()),
        );
        // Writing into a string does not fail.
        let _ = writeln!(
            page,
            "{names:<24} {model:<8} {tokens:>8} {codec:<5} {mib:>9} {used:>9}  {}",
            row.kept.id
        );
    }
    say(page)
}

fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let mut verified = Verified::default();
    let mut report = Vec::new();
    let kept = match &args.prompt {
        Some(prompt) => args.place.find(prompt)?,
        None => args.place.list()?,
    };
    for kept in kept {
        let read = kept.open().and_then(|mut reader| reader.verify());
        let path = kept.path.display().to_string();
        let Some(problem) = verified.note(&path, read) else {
            continue;
        };
        match args.json {
            true => report.push(json!({
                "prompt_id": kept.id.to_string(), "path": path, "problem": problem,
            })),
            false => {
                let word = problem.as_deref().unwrap_or("ok");
                say(format_args!("{}  {word}\n", kept.id))?;
            }
        }
    }
    if args.json {
        say(format_args!("{}\n", Value::from(report)))?;
    }
    verified.into_result()
}

/// What verifying came to, file by file.
#[derive(Default)]
struct Verified {
    damaged: Vec<String>,
    unreadable: Vec<String>,
}

impl Verified {
    /// Notes one file and says what is wrong with it, if anything is; `None` for one that is gone:
    /// another process made room.
    #[expect(clippy::option_option, reason = "gone, well, or with a problem")]
    fn note(&mut self, path: &str, read: Result<(), ReadError>) -> Option<Option<String>> {
        let (bad, error) = match read {
            Ok(()) => return Some(None),
            Err(ReadError::Io(error)) if error.kind() == ErrorKind::NotFound => return None,
            Err(error @ ReadError::Io(_)) => (&mut self.unreadable, error),
            Err(error @ ReadError::Damaged(_)) => (&mut self.damaged, error),
        };
        bad.push(format!("{path}: {error}"));
        Some(Some(error.to_string()))
    }

    fn into_result(self) -> Result<(), Failure> {
        let (damaged, unreadable) = (self.damaged.join("; "), self.unreadable.join("; "));
        let cannot = "cannot be read: look at who may read the folder, and at the disk";
        let remove = "`edge-node kv rm ID` removes it, and the next use fetches it again";
        let (exit, error) = match (damaged.is_empty(), unreadable.is_empty()) {
            (true, true) => return Ok(()),
            (true, false) => (Exit::Usage, anyhow!("{unreadable}; {cannot}")),
            (false, true) => (Exit::VerificationFailed, anyhow!("{damaged}; {remove}")),
            (false, false) => (
                Exit::VerificationFailed,
                anyhow!("{damaged}; {remove}; {unreadable}; {cannot}"),
            ),
        };
        Err(Failure { exit, error })
    }
}

fn export(args: &ExportArgs) -> Result<(), Failure> {
    let kept = args.place.find(&args.prompt)?;
    let [first, ..] = &kept[..] else {
        return Err(gone(&args.prompt));
    };
    let at = |path: &Path| path.display().to_string();
    let reader = first.open();
    let reader = reader
        .with_context(|| at(&first.path))
        .map_err(not_verified)?;
    if !args.replace && args.file.exists() {
        return Err(Failure {
            exit: Exit::Usage,
            error: anyhow!(
                "{} is there already: give --replace to write over it, or the name of another file",
                at(&args.file)
            ),
        });
    }
    // It is there whole or not at all, and what was there before stays until then.
    let new = NewFile::create(&args.file);
    let (new, out) = new
        .with_context(|| format!("{} is not written", at(&args.file)))
        .map_err(Failure::of(Exit::Usage))?;
    let copied = copy(reader, BufWriter::new(out))
        .and_then(|out| Ok(out.into_inner().map_err(IntoInnerError::into_error)?))
        .and_then(|out| Ok(new.finish(&out)?));
    copied
        .with_context(|| format!("{} was not exported", at(&first.path)))
        .map_err(not_verified)?;
    say(format_args!(
        "exported {} to {}\n",
        first.id,
        at(&args.file)
    ))
}

/// Copies a segment, every layer verified.
fn copy<W: std::io::Write>(mut reader: SegmentReader<File>, out: W) -> anyhow::Result<W> {
    let info = reader.info().clone();
    let layers = (0..info.geometry.layer_count()).map(LayerIndex);
    let mut writer = SegmentWriter::begin(out, info)?;
    for layer in layers {
        writer.layer(&reader.layer(layer)?)?;
    }
    let mut out = writer.finish()?;
    out.flush()?;
    Ok(out)
}

fn import(args: &ImportArgs) -> Result<(), Failure> {
    let identity = link::load_identity(args.identity.as_ref(), link::JOIN_FIRST)?;
    let folder = args.cache.folder().ok_or_else(no_folder)?;
    let store = folder.domain(&identity.trust_domain(), args.cache.bytes_max());
    let named = || args.file.display().to_string();
    let file = File::open(&args.file);
    let file = file.with_context(named).map_err(Failure::of(Exit::Usage))?;
    let opened = SegmentReader::open(file);
    let mut reader = opened.with_context(named).map_err(not_verified)?;
    // What is kept goes for nothing less than a whole segment.
    let verified = reader.verify();
    verified.with_context(named).map_err(not_verified)?;
    let info = reader.info().clone();
    let (id, layer_count) = (info.id(), info.geometry.layer_count());
    let new = store.begin(info, SystemTime::now());
    let mut new = new
        .context("give more with --cache-mib, or the server's --config FILE")
        .map_err(Failure::of(Exit::Usage))?;
    for layer in (0..layer_count).map(LayerIndex) {
        let kv = reader.layer(layer).with_context(named);
        let kv = kv.map_err(not_verified)?;
        new.layer(&kv).map_err(Failure::of(Exit::Usage))?;
    }
    let kept = new.commit(SystemTime::now());
    kept.map_err(Failure::of(Exit::Usage))?;
    say(format_args!("imported {id}\n"))
}

fn rm(args: &RmArgs) -> Result<(), Failure> {
    let kept = args.place.find(&args.prompt)?;
    let [first, ..] = &kept[..] else {
        return Err(gone(&args.prompt));
    };
    for kept in &kept {
        match fs::remove_file(&kept.path) {
            // Another process made room.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed
                .with_context(|| kept.path.display().to_string())
                .map_err(Failure::of(Exit::Usage))?,
        }
    }
    say(format_args!("removed {}\n", first.id))
}

impl PlaceArgs {
    fn list(&self) -> Result<Vec<KeptSegment>, Failure> {
        let folder: SegmentFolder = self.cache.folder().ok_or_else(no_folder)?;
        let listed = folder.list();
        listed
            .with_context(|| folder.root().display().to_string())
            .map_err(Failure::of(Exit::Usage))
    }

    /// The files of the one prompt that is meant, one for each trust domain that it was got in.
    fn find(&self, prompt: &str) -> Result<Vec<KeptSegment>, Failure> {
        let mut kept = self.list()?;
        let ids: Vec<_> = kept.iter().map(|kept| kept.id).collect();
        let id = meant(prompt, &ids, &self.memory.names()).map_err(Failure::of(Exit::Usage))?;
        kept.retain(|kept| kept.id == id);
        Ok(kept)
    }
}

/// A line of the list.
struct Row<'a> {
    kept: &'a KeptSegment,
    names: Vec<String>,
    /// `None` if the head does not verify.
    info: Option<SegmentInfo>,
}

impl<'a> Row<'a> {
    fn of(kept: &'a KeptSegment, names: &[(PromptName, PromptId)]) -> Self {
        let names = names.iter().filter(|(_, id)| *id == kept.id);
        let mut names: Vec<_> = names.map(|(name, _)| name.to_string()).collect();
        names.sort();
        names.dedup();
        let opened = kept.open().ok();
        Self {
            kept,
            names,
            info: opened.map(|reader| reader.info().clone()),
        }
    }

    fn json(&self) -> Value {
        let used_at = self.kept.used_at.duration_since(SystemTime::UNIX_EPOCH);
        json!({
            "prompt_id": self.kept.id.to_string(),
            "names": self.names,
            "model": self.info.as_ref().map(|info| info.model.to_string()),
            "token_count": self.info.as_ref().map(|info| info.tokens.len()),
            "codec": self.info.as_ref().map(|info| info.dtype.name()),
            "bytes": self.kept.bytes,
            "used_at": used_at.map_or(0, |since| since.as_secs()),
            "trust_domain": self.kept.domain,
            "path": self.kept.path.display().to_string(),
        })
    }
}

fn not_verified(error: anyhow::Error) -> Failure {
    let io = |error: &(dyn std::error::Error + 'static)| {
        matches!(error.downcast_ref(), Some(ReadError::Io(_)))
            || matches!(error.downcast_ref(), Some(EncodeError::Io(_)))
            || error.is::<std::io::Error>()
    };
    let exit = match error.chain().any(io) {
        true => Exit::Usage,
        false => Exit::VerificationFailed,
    };
    Failure { exit, error }
}

/// Another process has made room meanwhile.
fn gone(prompt: &str) -> Failure {
    Failure::of(Exit::Usage)(NotMeant::Unknown(prompt.to_owned()))
}

fn no_folder() -> Failure {
    Failure {
        exit: Exit::Usage,
        error: anyhow!("no home folder: give --cache-dir DIR"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1u32 << 20))
}

/// How long ago something was, in its largest unit.
fn ago(then: SystemTime, now: SystemTime) -> String {
    const UNITS: [(u64, &str); 3] = [(86_400, "d"), (3600, "h"), (60, "min")];
    let seconds = now.duration_since(then).unwrap_or(Duration::ZERO).as_secs();
    let unit = UNITS.iter().find(|(length, _)| seconds >= *length);
    let (length, unit) = unit.copied().unwrap_or((1, "s"));
    format!("{} {unit}", seconds / length)
}

#[cfg(test)]
mod tests {
    use edgeprompt_segment_store::SegmentProblem;

    use super::*;

    #[test]
    fn only_damage_is_to_be_removed() {
        let read = |kind: ErrorKind| Err(ReadError::Io(kind.into()));
        let damaged = || Err(ReadError::Damaged(SegmentProblem::Header));
        let noted = |reads: Vec<Result<(), ReadError>>| {
            let mut verified = Verified::default();
            let lines = reads.into_iter().filter_map(|it| verified.note("file", it));
            let lines = lines.count();
            (lines, verified.into_result())
        };
        let (lines, well) = noted(vec![Ok(()), read(ErrorKind::NotFound)]);
        assert_eq!(lines, 1, "what is gone is no line");
        assert!(well.is_ok());
        let (_, unreadable) = noted(vec![Ok(()), read(ErrorKind::PermissionDenied)]);
        let unreadable = unreadable.unwrap_err();
        assert_eq!(unreadable.exit, Exit::Usage);
        assert!(!unreadable.message().contains("kv rm"));
        let (_, both) = noted(vec![damaged(), read(ErrorKind::PermissionDenied)]);
        let both = both.unwrap_err();
        assert_eq!(both.exit, Exit::VerificationFailed);
        assert!(both.message().contains("kv rm"));
    }

    #[test]
    fn times_are_told_in_their_largest_unit() {
        let then = SystemTime::UNIX_EPOCH;
        let told = |seconds| ago(then, then + Duration::from_secs(seconds));
        assert_eq!(
            [0, 59, 60, 7200, 90_000].map(told),
            ["0 s", "59 s", "1 min", "2 h", "1 d"]
        );
        assert_eq!(ago(then + Duration::from_secs(9), then), "0 s");
    }
}
