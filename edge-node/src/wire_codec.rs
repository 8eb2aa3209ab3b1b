//! In which number format keys and values are asked for, and what it does to answers.
//!
//! Nothing is lost unless somebody asks for it: the default is f32.

use std::str::FromStr;

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

/// In which number format keys and values come.
#[derive(Args, Clone, Debug)]
pub struct WireArgs {
    /// Number format in which keys and values come from the cloud and from neighbours, and lie on
    /// disk: f32 loses nothing; f16, bf16, int8 and int4 take 2 to 6.6 times fewer bytes and may
    /// change answers; auto takes the smallest that --harm-budget allows
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
    /// The smallest within the budget.
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
    /// The number format to ask for.
    ///
    /// # Errors
    /// [`Failure`] if the budget is no part of 100.
    pub fn dtype(&self) -> Result<KvDtype, Failure> {
        if !(0.0..=100.0).contains(&self.harm_budget) {
            return Err(Failure {
                exit: Exit::Usage,
                error: anyhow!("--harm-budget is from 0 to 100 per cent"),
            });
        }
        let dtype = match self.wire_codec {
            WireCodec::Is(dtype) => dtype,
            WireCodec::Auto => smallest_within(self.harm_budget),
        };
        if !dtype.is_exact() {
            tracing::info!(codec = %dtype, "keys and values come in a format that may change answers");
        }
        Ok(dtype)
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

    fn dtype(line: &str) -> Result<KvDtype, String> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        cli.wire.dtype().map_err(|failure| failure.message())
    }

    #[test]
    fn nothing_is_lost_unless_asked_for() {
        assert_eq!(dtype(""), Ok(KvDtype::F32));
        assert_eq!(dtype("--wire-codec auto"), Ok(KvDtype::F32));
        assert_eq!(dtype("--harm-budget 50"), Ok(KvDtype::F32));
    }

    #[test]
    fn a_format_is_named_or_follows_from_the_budget() {
        for format in KvDtype::ALL {
            assert_eq!(dtype(&format!("--wire-codec {format}")), Ok(format));
        }
        for (format, harm) in HARM_PER_CENT {
            assert_eq!(
                dtype(&format!("--wire-codec auto --harm-budget {harm}")),
                Ok(format)
            );
        }
        assert_eq!(
            dtype("--wire-codec auto --harm-budget 100"),
            Ok(KvDtype::Int4)
        );
        assert!(dtype("--harm-budget 101").is_err());
        assert!(
            dtype("--wire-codec fp8")
                .unwrap_err()
                .contains("int8 or int4")
        );
    }

    #[test]
    fn every_format_is_in_the_table_and_a_smaller_one_does_more_harm() {
        assert_eq!(HARM_PER_CENT.map(|(dtype, _)| dtype), KvDtype::ALL);
        assert!(HARM_PER_CENT.is_sorted_by(|(_, a), (_, b)| a < b));
    }
}
