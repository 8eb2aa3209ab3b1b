//! What `edge-node doctor` makes of what it measured, and how it says so. Pure.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use edgeprompt_launch::Exit;
use edgeprompt_transport::{BitRate, SOCKET_BUFFER_BYTES, Validity};
use serde_json::{Value, json};

/// What was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Identity,
    Clock,
    Buffers,
    Address,
    Cloud,
    Model,
    Link,
    Cache,
    Neighbour,
}

impl Check {
    /// In one word.
    const fn label(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Clock => "clock",
            Self::Buffers => "buffers",
            Self::Address => "address",
            Self::Cloud => "cloud",
            Self::Model => "model",
            Self::Link => "link",
            Self::Cache => "cache",
            Self::Neighbour => "peer",
        }
    }
}

/// How it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ok,
    /// It works, and could work better.
    Warn {
        advice: String,
    },
    /// It does not work.
    Fail {
        advice: String,
        exit: Exit,
    },
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) check: Check,
    pub(crate) said: String,
    pub(crate) verdict: Verdict,
}

impl Finding {
    pub(crate) fn ok(check: Check, said: impl Into<String>) -> Self {
        Self {
            check,
            said: said.into(),
            verdict: Verdict::Ok,
        }
    }

    pub(crate) fn warn(check: Check, said: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            check,
            said: said.into(),
            verdict: Verdict::Warn {
                advice: advice.into(),
            },
        }
    }

    /// A usual failure: something on this machine to put right.
    pub(crate) fn fail(check: Check, said: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::fail_with(Exit::Usage, check, (said.into(), advice.into()))
    }

    /// A failure with an exit code of its own; what is said of it, and the advice.
    pub(crate) fn fail_with(exit: Exit, check: Check, (said, advice): (String, String)) -> Self {
        Self {
            check,
            said,
            verdict: Verdict::Fail { advice, exit },
        }
    }

    const fn level(&self) -> &'static str {
        match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn { .. } => "warn",
            Verdict::Fail { .. } => "FAIL",
        }
    }

    fn advice(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Ok => None,
            Verdict::Warn { advice } | Verdict::Fail { advice, .. } => Some(advice),
        }
    }

    /// As a field of the report for programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "check": self.check.label(),
            "level": self.level().to_lowercase(),
            "said": self.said,
            "advice": self.advice(),
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (level, check) = (self.level(), self.check.label());
        write!(f, "{level:<4}  {check:<8}  {}", self.said)?;
        match self.advice() {
            Some(advice) => write!(f, "\n{:16}{advice}", ""),
            None => Ok(()),
        }
    }
}

/// The worst failure: the one with the highest exit code, for that is the most particular.
pub(crate) fn worst(findings: &[Finding]) -> Option<Exit> {
    let exits = findings.iter().filter_map(|finding| match finding.verdict {
        Verdict::Fail { exit, .. } => Some(exit),
        Verdict::Ok | Verdict::Warn { .. } => None,
    });
    exits.max_by_key(|exit| exit.code())
}

/// An identity that was read, by the rights on its file, where there are rights.
pub(crate) fn identity(name: &str, file: &Path, mode: Option<u32>) -> Finding {
    let said = format!("{name} in {}", file.display());
    match mode {
        Some(mode) if mode & 0o077 != 0 => Finding::warn(
            Check::Identity,
            format!("{said}, which others can read"),
            format!("chmod 600 {}", file.display()),
        ),
        Some(_) | None => Finding::ok(Check::Identity, said),
    }
}

/// The certificates now and in a month.
pub(crate) fn clock(now: &Validity, in_a_month: &Validity) -> Finding {
    let join = "run `edge-node join TOKEN --replace` with a token from `cloud-node invite`";
    match (now, in_a_month) {
        (Validity::Valid, Validity::Valid) => Finding::ok(
            Check::Clock,
            "this edge's certificates are valid now and in 30 days",
        ),
        (Validity::Valid, _) => Finding::warn(
            Check::Clock,
            "this edge's certificates end within 30 days",
            join,
        ),
        (Validity::NotYet, _) => Finding::fail(
            Check::Clock,
            "by this clock this edge's certificates are not valid yet",
            "set the clock, and keep it with NTP",
        ),
        (Validity::Expired, _) => Finding::fail(
            Check::Clock,
            "by this clock this edge's certificates have ended",
            format!("if the clock is right, {join}"),
        ),
        (Validity::Unusable(detail), _) => Finding::fail(
            Check::Clock,
            format!("this edge's certificates do not verify: {detail}"),
            join,
        ),
    }
}

/// What the kernel grants a socket in each direction, where that is known.
pub(crate) fn buffers(receive: Option<u64>, send: Option<u64>) -> Finding {
    let (Some(receive), Some(send)) = (receive, send) else {
        return Finding::ok(
            Check::Buffers,
            "this system does not say how large they may be",
        );
    };
    let asked = SOCKET_BUFFER_BYTES as u64;
    let said = format!("of {asked} bytes, {receive} to receive and {send} to send are granted");
    match receive.min(send) >= asked {
        true => Finding::ok(Check::Buffers, said),
        false => Finding::warn(
            Check::Buffers,
            said,
            format!("sysctl -w net.core.rmem_max={asked} net.core.wmem_max={asked}"),
        ),
    }
}

/// A folder that can be written, by the space that is left there, where that is known, for what may
/// still be written.
pub(crate) fn cache(folder: &Path, free_bytes: Option<u64>, bytes_wanted: u64) -> Finding {
    let folder = folder.display();
    match free_bytes {
        Some(bytes) if bytes < bytes_wanted => Finding::warn(
            Check::Cache,
            format!(
                "{folder} can be written, {} MiB are free and up to {} may be wanted",
                bytes >> 20,
                bytes_wanted >> 20
            ),
            "make room: prompts that cannot be kept are fetched again after a restart",
        ),
        Some(bytes) => {
            let said = format!("{folder} can be written, {} MiB are free", bytes >> 20);
            Finding::ok(Check::Cache, said)
        }
        None => Finding::ok(Check::Cache, format!("{folder} can be written")),
    }
}

/// A prompt that came whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) bytes: u64,
    /// From the first byte of the first layer to the last of the last.
    pub(crate) time: Duration,
    pub(crate) rtt: Duration,
    pub(crate) layer_bytes: u64,
    /// How long this edge takes for such a layer itself.
    pub(crate) layer_compute: Duration,
}

/// Whether fetching such layers is worth it.
pub(crate) fn link(prompt: &str, fetched: Fetched) -> Finding {
    let rate = BitRate::of(fetched.bytes, fetched.time);
    let said = format!(
        "{prompt}: {} KiB at {:.1} Mbit/s, round trip {:.1} ms",
        fetched.bytes >> 10,
        megabits(rate),
        milliseconds(fetched.rtt)
    );
    let on_the_wire = Duration::try_from_secs_f64(
        fetched.layer_bytes as f64 / rate.bytes_per_second().max(1) as f64,
    );
    let on_the_wire = on_the_wire.unwrap_or(Duration::MAX);
    match on_the_wire > fetched.layer_compute {
        false => Finding::ok(Check::Link, said),
        true => Finding::warn(
            Check::Link,
            said,
            format!(
                "a layer takes {:.1} ms on this link and {:.1} ms to compute here: the edge computes what would come too late, a faster link would help",
                milliseconds(on_the_wire),
                milliseconds(fetched.layer_compute)
            ),
        ),
    }
}

fn megabits(rate: BitRate) -> f64 {
    rate.as_bits_per_second() as f64 / 1e6
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(finding: &Finding) -> &'static str {
        finding.level()
    }

    #[test]
    fn an_identity_is_its_owners_alone() {
        let file = Path::new("/edge/edge-identity.pem");
        assert_eq!(level(&identity("e", file, Some(0o100_600))), "ok");
        assert_eq!(level(&identity("e", file, None)), "ok");
        let open = identity("e", file, Some(0o100_640));
        assert_eq!(level(&open), "warn");
        assert_eq!(open.advice(), Some("chmod 600 /edge/edge-identity.pem"));
    }

    #[test]
    fn certificates_are_judged_by_the_clock() {
        let valid = Validity::Valid;
        assert_eq!(level(&clock(&valid, &valid)), "ok");
        assert_eq!(level(&clock(&valid, &Validity::Expired)), "warn");
        let early = clock(&Validity::NotYet, &valid);
        assert!(early.advice().is_some_and(|advice| advice.contains("NTP")));
        let late = clock(&Validity::Expired, &Validity::Expired);
        assert!(late.advice().is_some_and(|advice| advice.contains("join")));
        let unusable = Validity::Unusable("x".to_owned());
        for finding in [early, late, clock(&unusable, &unusable)] {
            assert_eq!(level(&finding), "FAIL");
        }
    }

    #[test]
    fn buffers_are_compared_with_what_the_transport_asks_for() {
        let enough = SOCKET_BUFFER_BYTES as u64;
        assert_eq!(level(&buffers(Some(enough), Some(enough))), "ok");
        for (receive, send) in [(enough - 1, enough), (enough, enough - 1)] {
            let small = buffers(Some(receive), Some(send));
            assert_eq!(level(&small), "warn");
            let advice = small.advice().unwrap();
            assert!(
                advice.contains(&format!("net.core.rmem_max={enough}")),
                "{advice}"
            );
        }
        assert_eq!(level(&buffers(None, Some(0))), "ok");
    }

    #[test]
    fn little_space_is_a_warning() {
        let folder = Path::new("/cache");
        let wanted = 3 << 30;
        assert_eq!(level(&cache(folder, Some(wanted), wanted)), "ok");
        let little = cache(folder, Some(wanted - 1), wanted);
        assert_eq!(level(&little), "warn");
        assert!(little.said.ends_with("up to 3072 may be wanted"));
        assert_eq!(level(&cache(folder, None, wanted)), "ok");
    }

    #[test]
    fn a_link_that_is_slower_than_computing_is_a_warning() {
        let fetched = |layer_compute_ms| Fetched {
            bytes: 1_000_000,
            time: Duration::from_millis(80),
            rtt: Duration::from_millis(5),
            layer_bytes: 125_000,
            layer_compute: Duration::from_millis(layer_compute_ms),
        };
        // 100 Mbit/s: a layer takes 10 ms.
        let fast = link("desk", fetched(11));
        assert_eq!(level(&fast), "ok");
        assert_eq!(
            fast.said,
            "desk: 976 KiB at 100.0 Mbit/s, round trip 5.0 ms"
        );
        assert_eq!(level(&link("desk", fetched(9))), "warn");
    }

    #[test]
    fn the_worst_failure_is_the_exit_code() {
        let ok = Finding::ok(Check::Clock, "");
        let warn = Finding::warn(Check::Buffers, "", "");
        let usage = Finding::fail(Check::Identity, "", "");
        let texts = || (String::new(), String::new());
        let model = Finding::fail_with(Exit::ModelMismatch, Check::Model, texts());
        let peer = Finding::fail_with(Exit::PeerUnreachable, Check::Cloud, texts());
        assert_eq!(worst(&[ok.clone(), warn.clone()]), None);
        assert_eq!(worst(&[ok, usage.clone(), warn]), Some(Exit::Usage));
        assert_eq!(worst(&[usage, model, peer]), Some(Exit::ModelMismatch));
    }

    #[test]
    fn people_and_programs_read_the_same() {
        let finding = Finding::fail(Check::Identity, "none", "join");
        assert_eq!(
            finding.to_string(),
            "FAIL  identity  none\n                join"
        );
        let program =
            json!({"check": "identity", "level": "fail", "said": "none", "advice": "join"});
        assert_eq!(finding.json(), program);
    }
}
