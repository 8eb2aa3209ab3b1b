//! What came out: medians, spreads and ratios, as a table and as JSON that says where they come
//! from.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::TransferArgs;
use super::contender::{Kind, Losses, Transfer};
use super::link_args::LinkSpec;
use crate::provenance::Provenance;
use crate::result_dir::ResultDir;
use crate::statistics::Spread;

/// All transfers of a run.
pub(crate) struct Report {
    byte_count: usize,
    link: Option<LinkSpec>,
    settings: Value,
    provenance: Provenance,
    rows: Vec<Row>,
}

/// The transfers of one contender, in order.
pub(crate) struct Row {
    pub(crate) kind: Kind,
    /// On a new link, which knows nothing of its path.
    pub(crate) cold: Transfer,
    /// On the same link afterwards; at least one.
    pub(crate) warm: Vec<Transfer>,
    /// What the emulated link dropped.
    pub(crate) losses: Option<Losses>,
}

/// Rates of one contender, in Mbit/s.
struct Rates {
    /// From the first byte to the last.
    flowing: Spread,
    /// From asking to the last byte.
    total: Spread,
    /// As `total`, on a new link.
    cold: f64,
}

impl Rates {
    fn of(row: &Row, byte_count: usize) -> Self {
        let megabits = |time: Duration| 8e-6 * byte_count as f64 / time.as_secs_f64();
        let spread = |time: fn(&Transfer) -> Duration| {
            Spread::of(row.warm.iter().map(|transfer| megabits(time(transfer))))
        };
        Self {
            flowing: spread(|transfer| transfer.flowing),
            total: spread(|transfer| transfer.total),
            cold: megabits(row.cold.total),
        }
    }
}

impl Report {
    pub(crate) fn new(args: &TransferArgs, byte_count: usize) -> Result<Self> {
        let link = args.link.spec();
        let settings = json!({
            "layer_count": args.layers,
            "layer_mib": args.layer_mib,
            "rounds": args.rounds,
            "seed": args.link.seed(),
            "link_profile": link.map(|link| json!({
                "rate_mbit": link.megabits,
                "rtt_ms": link.rtt.as_secs_f64() * 1e3,
                "loss_percent": link.loss_percent,
            })),
        });
        Ok(Self {
            byte_count,
            link,
            settings,
            provenance: Provenance::gather()?,
            rows: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn print(&self) {
        println!(
            "{:<12} {:>34} {:>12} {:>9}",
            "Mbit/s", "first to last byte, median (range)", "with asking", "new link"
        );
        for row in &self.rows {
            let Rates {
                flowing,
                total,
                cold,
            } = Rates::of(row, self.byte_count);
            let spread = format!(
                "{:.0} ({:.0} to {:.0})",
                flowing.median, flowing.min, flowing.max
            );
            let name = row.kind.to_string();
            println!("{name:<12} {spread:>34} {:>12.0} {cold:>9.0}", total.median);
            if let (Some(link), Some(losses)) = (self.link, row.losses) {
                println!(
                    "{:<12} {:>33.1} % of the emulated rate; {} packets lost, {} more by a full queue",
                    "",
                    100.0 * link.share(flowing.median),
                    losses.by_chance,
                    losses.by_queue
                );
            }
        }
        if let Some(ratio) = self.ratio() {
            println!(
                "ours / plain, round by round: {:.2} ({:.2} to {:.2})",
                ratio.median, ratio.min, ratio.max
            );
        }
    }

    /// Our rate as a multiple of the plain stream's.
    fn ratio(&self) -> Option<Spread> {
        let of = |kind| self.rows.iter().find(|row| row.kind == kind);
        let pairs = of(Kind::Ours)?.warm.iter().zip(&of(Kind::Plain)?.warm);
        let ratios = pairs.map(|(ours, plain)| plain.total.div_duration_f64(ours.total));
        Some(Spread::of(ratios))
    }

    /// Writes the JSON; returns where.
    pub(crate) fn write(&self, dir: &ResultDir) -> Result<PathBuf> {
        let rows: Vec<_> = self.rows.iter().map(|row| self.row_json(row)).collect();
        let json = json!({
            "provenance": self.provenance,
            "settings": self.settings,
            "kv_bytes_logical": self.byte_count,
            "ours_to_plain": self.ratio(),
            "contenders": rows,
        });
        dir.write_json("transfer.json", &json)
    }

    fn row_json(&self, row: &Row) -> Value {
        let rates = Rates::of(row, self.byte_count);
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let totals = row.warm.iter().map(|transfer| milliseconds(transfer.total));
        json!({
            "contender": row.kind.to_string(),
            "goodput_mbit": rates.flowing,
            "goodput_share_of_link": self.link.map(|link| link.share(rates.flowing.median)),
            "with_request_mbit": rates.total,
            "new_link_mbit": rates.cold,
            "new_link_ms": milliseconds(row.cold.total),
            "total_ms": totals.collect::<Vec<_>>(),
            "lost_packet_count": row.losses.map(|losses| losses.by_chance),
            "queue_full_packet_count": row.losses.map(|losses| losses.by_queue),
        })
    }
}
