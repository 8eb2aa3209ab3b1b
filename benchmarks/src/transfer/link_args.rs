//! The link to transfer over, as the command line says it.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use edgeprompt_testkit::emulator::{
    BitRate, DirectionProfile, EmulatedLink, EmulatorHandle, LinkEmulator, Probability,
};

/// The link, loopback unless told otherwise.
#[derive(Args, Debug)]
pub(crate) struct LinkArgs {
    /// Emulate a link: Mbit/s, round trip in ms and loss in percent, as in `200,50,0.1`
    #[arg(long, value_name = "RATE,RTT,LOSS")]
    link: Option<LinkSpec>,
    /// What all chance of the link follows from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A rate, a round trip and a share of lost packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LinkSpec {
    pub(crate) megabits: u64,
    pub(crate) rtt: Duration,
    pub(crate) loss_percent: f64,
}

impl LinkSpec {
    /// A rate in Mbit/s as a share of the link's.
    pub(crate) fn share(self, megabits: f64) -> f64 {
        megabits / self.megabits as f64
    }

    /// Puts the link in front of `target`.
    pub(crate) fn emulate(self, target: SocketAddr, seed: u64) -> Result<EmulatorHandle> {
        // Between 0 and a million, so nothing is lost.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let per_million = (self.loss_percent * 1e4).round() as u32;
        let rate = BitRate::megabits_per_second(self.megabits);
        let direction = DirectionProfile::constant(rate, self.rtt / 2)
            .with_loss(Probability::per_million(per_million));
        let link = EmulatedLink::symmetric(direction, seed);
        Ok(LinkEmulator::start(target, link)?)
    }
}

impl FromStr for LinkSpec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<_> = text.split(',').collect();
        let [rate, rtt, loss] = parts[..] else {
            anyhow::bail!("a link is RATE,RTT,LOSS");
        };
        let megabits = rate.parse().context("the rate is in whole Mbit/s")?;
        let rtt_ms: f64 = rtt.parse().context("the round trip is in milliseconds")?;
        let loss_percent: f64 = loss.parse().context("the loss is in percent")?;
        ensure!(megabits > 0, "a rate of nothing brings nothing");
        ensure!((0.0..=100.0).contains(&loss_percent), "loss is 0 to 100 %");
        Ok(Self {
            megabits,
            rtt: Duration::try_from_secs_f64(rtt_ms / 1e3)?,
            loss_percent,
        })
    }
}

impl LinkArgs {
    /// The link asked for; `None` is loopback.
    pub(crate) const fn spec(&self) -> Option<LinkSpec> {
        self.link
    }

    pub(crate) const fn seed(&self) -> u64 {
        self.seed
    }

    /// Puts the link in front of `target`, if one is asked for.
    pub(crate) fn emulate(&self, target: SocketAddr) -> Result<Option<EmulatorHandle>> {
        let link = self.link.map(|spec| spec.emulate(target, self.seed));
        link.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_three_numbers() {
        let spec: LinkSpec = "200,50,0.1".parse().unwrap();
        assert_eq!((spec.megabits, spec.loss_percent), (200, 0.1));
        assert_eq!(spec.rtt, Duration::from_millis(50));
        for wrong in [
            "",
            "200",
            "200,50",
            "0,50,0",
            "200,-1,0",
            "200,50,101",
            "a,b,c",
        ] {
            assert!(wrong.parse::<LinkSpec>().is_err(), "{wrong}");
        }
    }
}
