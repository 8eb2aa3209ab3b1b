//! In which number format keys and values are asked for, and what it does to answers.
//!
//! Nothing is lost unless somebody asks for it: the default is f32.

use std::str::FromStr;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use edgeprompt_kv::{KvDtype, ParseDtypeError};
use edgeprompt_launch::{Exit, Failure};

/// In how many of 100 places another token is the most likely one after a cloud prompt that came in a
/// format, at the worst of the models and texts of `benchmarks codecs` (docs/BENCHMARKS.md), rounded up.
///
/// Of small models, which are hurt more than large ones: not of yours. The command measures yours.
const HARM_PER_CENT: [(KvDtype, f64); 5] = [
    (KvDtype::F32, 0.0),
    (KvDtype::F16, 0.1),
    (KvDtype::Bf16, 0.2),
    (KvDtype::Int8, 0.3),
    (KvDtype::Int4, 4.2),
];

/// How long a cloud takes for one number on one core, in nanoseconds, beside computing it in f32: of
/// `benchmarks codecs` (docs/BENCHMARKS.md), whose decoding is too fast to matter.
const ENCODING_NS: [(KvDtype, f64); 5] = [
    (KvDtype::F32, 0.0),
    (KvDtype::F16, 2.0),
    (KvDtype::Bf16, 1.5),
    (KvDtype::Int8, 22.0),
    (KvDtype::Int4, 29.0),
];

/// Number formats in which keys and values may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codecs {
    /// This one is asked for; one that loses less is as good.
    Only(KvDtype),
    /// Whichever is the fastest of those up to this one.
    UpTo(KvDtype),
}

impl Default for Codecs {
    fn default() -> Self {
        Self::Only(KvDtype::default())
    }
}

impl Codecs {
    /// The one of the fewest bytes, which loses most.
    pub const fn smallest(self) -> KvDtype {
        match self {
            Self::Only(dtype) | Self::UpTo(dtype) => dtype,
        }
    }

    /// Those that may be asked for, the one that loses least first.
    pub fn to_ask_for(self) -> impl Iterator<Item = KvDtype> {
        let is_one = move |dtype: &KvDtype| match self {
            Self::Only(only) => *dtype == only,
            Self::UpTo(smallest) => *dtype <= smallest,
        };
        KvDtype::ALL.into_iter().filter(is_one)
    }
}

/// About how long a cloud encodes so many numbers, if nobody has asked for them in this format before.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
pub fn encoding(dtype: KvDtype, number_count: usize) -> Duration {
    let of_one = ENCODING_NS.iter().find(|(it, _)| *it == dtype);
    let nanoseconds = of_one.map_or(0.0, |(_, nanoseconds)| *nanoseconds);
    Duration::try_from_secs_f64(nanoseconds * 1e-9 * number_count as f64).unwrap_or(Duration::MAX)
}

/// In which number format keys and values come.
#[derive(Args, Clone, Debug)]
pub struct WireArgs {
    /// Number format in which keys and values come from the cloud and from neighbours, and lie on
    /// disk: f32 loses nothing; f16, bf16, int8 and int4 take 2 to 6.6 times fewer bytes and may
    /// change answers; auto takes the fastest that --harm-budget allows, by what was measured of the
    /// link, and the smallest before
    #[arg(
        long,
        value_name = "CODEC",
        default_value = "f32",
        env = "EDGE_WIRE_CODEC"
    )]
    wire_codec: WireCodec,
    /// For --wire-codec auto: in how many of 100 places another token may become the most likely
    /// one, as measured on the models of docs/BENCHMARKS.md
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 0.0,
        env = "EDGE_HARM_BUDGET"
    )]
    harm_budget: f64,
}

/// What to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WireCodec {
    /// Any within the budget.
    Auto,
    /// This one.
    Is(KvDtype),
}

impl FromStr for WireCodec {
    type Err = ParseDtypeError;

    fn from_str(word: &str) -> Result<Self, ParseDtypeError> {
        match word {
            "auto" => Ok(Self::Auto),
            _ => word.parse().map(Self::Is),
        }
    }
}

impl WireArgs {
    /// The number formats to ask for.
    ///
    /// # Errors
    /// [`Failure`] if the budget is no part of 100.
    pub fn codecs(&self) -> Result<Codecs, Failure> {
        if !(0.0..=100.0).contains(&self.harm_budget) {
            return Err(Failure {
                exit: Exit::Usage,
                error: anyhow!("--harm-budget is from 0 to 100 per cent"),
            });
        }
        let codecs = match self.wire_codec {
            WireCodec::Is(dtype) => Codecs::Only(dtype),
            WireCodec::Auto => Codecs::UpTo(smallest_within(self.harm_budget)),
        };
        let smallest = codecs.smallest();
        if !smallest.is_exact() {
            tracing::info!(codec = %smallest, "keys and values come in formats that may change answers, up to this one");
        }
        Ok(codecs)
    }
}

fn smallest_within(budget: f64) -> KvDtype {
    let within = HARM_PER_CENT.iter().filter(|(_, harm)| *harm <= budget);
    // A smaller format is a greater one.
    within.map(|(dtype, _)| *dtype).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        wire: WireArgs,
    }

    fn codecs(line: &str) -> Result<Codecs, String> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.wire.codecs().map_err(|failure| failure.message())
    }

    #[test]
    fn nothing_is_lost_unless_asked_for() {
        assert_eq!(codecs(""), Ok(Codecs::default()));
        let auto = codecs("--wire-codec auto").unwrap();
        assert!(auto.to_ask_for().eq([KvDtype::F32]));
        assert_eq!(codecs("--harm-budget 50"), Ok(Codecs::Only(KvDtype::F32)));
    }

    #[test]
    fn a_format_is_named_or_follows_from_the_budget() {
        for format in KvDtype::ALL {
            let named = codecs(&format!("--wire-codec {format}")).unwrap();
            assert!(named.to_ask_for().eq([format]));
        }
        for (format, harm) in HARM_PER_CENT {
            assert_eq!(
                codecs(&format!("--wire-codec auto --harm-budget {harm}")),
                Ok(Codecs::UpTo(format))
            );
        }
        let all = codecs("--wire-codec auto --harm-budget 100").unwrap();
        assert!(all.to_ask_for().eq(KvDtype::ALL));
        assert!(codecs("--harm-budget 101").is_err());
        assert!(
            codecs("--wire-codec fp8")
                .unwrap_err()
                .contains("int8 or int4")
        );
    }

    #[test]
    fn every_format_is_in_the_tables_and_a_smaller_one_does_more_harm() {
        assert_eq!(HARM_PER_CENT.map(|(dtype, _)| dtype), KvDtype::ALL);
        assert!(HARM_PER_CENT.is_sorted_by(|(_, a), (_, b)| a < b));
        assert_eq!(ENCODING_NS.map(|(dtype, _)| dtype), KvDtype::ALL);
        assert_eq!(encoding(KvDtype::F32, 1000), Duration::ZERO);
        assert_eq!(encoding(KvDtype::Int8, 1000), Duration::from_micros(22));
    }
}
