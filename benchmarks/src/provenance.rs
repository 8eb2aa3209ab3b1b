//! Where a result comes from: the code, the machine and the moment, in every file that is written.

mod gpu;
mod stolen;

use std::process::Command;

use anyhow::Result;
use edgeprompt_model::ComputeDevice;
use serde::Serialize;
use time::OffsetDateTime;

use stolen::Stolen;

/// Where a result comes from.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Provenance {
    /// Commit of the sources, `-dirty` if they were changed since.
    pub(crate) commit: String,
    /// The compiler.
    pub(crate) rustc: &'static str,
    /// Version of the tensor library.
    pub(crate) burn: String,
    /// Name of the processor.
    pub(crate) cpu: String,
    /// What computes beside or instead of the processor; absent where nothing does.
    pub(crate) gpu: Option<String>,
    /// Processors that the system offers.
    pub(crate) logical_cpu_count: usize,
    /// When the run began, UTC.
    pub(crate) date: String,
    /// Runnable processes over the last 1, 5 and 15 minutes when the run began; absent where the
    /// system does not tell.
    pub(crate) load_average: Option<[f64; 3]>,
    /// Percent of the processors' time that the host of a virtual machine took for others.
    pub(crate) stolen_percent: Stolen,
    /// What was run.
    pub(crate) command_line: Vec<String>,
}

impl Provenance {
    /// Of this process, now.
    pub(crate) fn gather() -> Result<Self> {
        let mut command_line = without_secrets(std::env::args());
        // Where the program lies says nothing.
        if let Some(program) = command_line.first_mut() {
            *program = "benchmarks".to_owned();
        }
        Ok(Self {
            commit: commit(),
            rustc: env!("EDGEPROMPT_RUSTC"),
            burn: version_in_lock(include_str!("../../Cargo.lock"), "burn"),
            cpu: cpu_name(&file("/proc/cpuinfo")),
            gpu: None,
            logical_cpu_count: std::thread::available_parallelism()?.get(),
            date: iso_8601(OffsetDateTime::now_utc()),
            load_average: load_average(&file("/proc/loadavg")),
            stolen_percent: Stolen::from_now(),
            command_line,
        })
    }
}

impl Provenance {
    /// The same, of a run that computes on these devices.
    pub(crate) fn computing_on(self, devices: &[ComputeDevice]) -> Self {
        Self {
            gpu: gpu::names(devices),
            ..self
        }
    }

    /// The commit as people say it; that the sources were changed since is not left out.
    pub(crate) fn short_commit(&self) -> String {
        let (hash, changed) = match self.commit.split_once('-') {
            Some((hash, _)) => (hash, "-dirty"),
            None => (self.commit.as_str(), ""),
        };
        format!("{}{changed}", hash.get(..12).unwrap_or(hash))
    }

    /// What the host of a virtual machine took until now, to be put after what is said of the machine.
    pub(crate) fn stolen_in_words(&self) -> String {
        self.stolen_percent
            .percent()
            .map_or_else(String::new, |percent| {
                format!(", {percent:.0} % of their time taken by the host")
            })
    }
}

/// Flags whose values are nobody's business.
const SECRET_FLAGS: [&str; 2] = ["--api-key", "--header"];

/// A command line whose secrets are left out.
fn without_secrets(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_secret = false;
    let written = words.map(|word| {
        if word.starts_with('-') {
            let (flag, value) = word.split_once('=').unzip();
            let flag = flag.unwrap_or(&word);
            is_secret = SECRET_FLAGS.contains(&flag);
            return match is_secret && value.is_some() {
                true => format!("{flag}=..."),
                false => word,
            };
        }
        match is_secret {
            true => "...".to_owned(),
            false => word,
        }
    });
    written.collect()
}

/// Of the sources that this program was built from, as they are now.
fn commit() -> String {
    let described = Command::new("git")
        .args(["-C", env!("CARGO_MANIFEST_DIR")])
        .args([
            "describe",
            "--always",
            "--dirty",
            "--abbrev=40",
            "--exclude=*",
        ])
        .output();
    match described {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn cpu_name(cpuinfo: &str) -> String {
    let mut names = cpuinfo.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    names
        .next()
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn load_average(loadavg: &str) -> Option<[f64; 3]> {
    let mut numbers = loadavg
        .split_whitespace()
        .map_while(|word| word.parse().ok());
    Some([numbers.next()?, numbers.next()?, numbers.next()?])
}

/// The version of a package in the text of a `Cargo.lock`.
fn version_in_lock(lock: &str, package: &str) -> String {
    let name = format!("name = {package:?}");
    let mut lines = lock.lines().skip_while(|line| *line != name).skip(1);
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix("version = "));
    version.unwrap_or("unknown").trim_matches('"').to_owned()
}

fn iso_8601(date: OffsetDateTime) -> String {
    let (year, month, day) = date.to_calendar_date();
    let (hour, minute, second) = date.to_hms();
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_names_one_version() {
        let lock = "[[package]]\nname = \"burn-flex\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"burn\"\nversion = \"0.22.1\"\n";
        assert_eq!(version_in_lock(lock, "burn"), "0.22.1");
        assert_eq!(version_in_lock(lock, "ice"), "unknown");
    }

    #[test]
    fn the_machine_is_read_from_what_the_system_prints() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n";
        assert_eq!(cpu_name(cpuinfo), "Some CPU @ 3 GHz");
        assert_eq!(cpu_name(""), std::env::consts::ARCH);
        assert_eq!(load_average("0.5 1 2.25 1/99 7\n"), Some([0.5, 1.0, 2.25]));
        assert_eq!(load_average(""), None);
    }

    #[test]
    fn secrets_of_the_command_line_are_left_out() {
        let line = "x serve --api-key k1 --seed 1 --header A=k2 B=k3 --api-key=k4 --label l";
        let written = without_secrets(line.split(' ').map(str::to_owned));
        assert_eq!(
            written.join(" "),
            "x serve --api-key ... --seed 1 --header ... ... --api-key=... --label l"
        );
    }

    #[test]
    fn a_date_is_written_in_full() {
        let date = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        assert_eq!(iso_8601(date), "2023-11-14T22:13:20Z");
    }
}
