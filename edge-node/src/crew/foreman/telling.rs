//! What a leader says of its workers.

use std::collections::BTreeSet;

use edgeprompt_engine::{Engine, Owner};
use edgeprompt_telemetry::names;
use metrics::gauge;

use super::{Foreman, PlacementPolicy};
use crate::crew::roster::{JobCounts, Seen};

impl Foreman {
    /// Tells everybody who asks who is there.
    pub(super) fn tell(&self, engine: &Engine) {
        gauge!(names::EDGE_WORKERS).set(self.hands.len() as f64);
        let Some(spread) = engine.spread() else {
            return;
        };
        let owners = spread.owners();
        let workers = self.hands.iter().map(|(id, hand)| hand.seen(*id, owners));
        self.roster.note(Seen {
            own: JobCounts::of(owners, Owner::Here),
            workers: workers.collect(),
            is_migrating: spread.is_migrating(),
            step_seconds: self.step_seconds(engine),
        });
    }

    /// Says once of workers that have nothing to do why that is so.
    pub(super) fn tell_of_idle(&mut self, engine: &Engine) {
        let Some(spread) = engine.spread().filter(|it| !it.is_migrating()) else {
            return;
        };
        let reason = match self.config.policy {
            PlacementPolicy::Best => {
                "by what was measured a token takes no less time with them, they lend too little memory, or moving does not pay"
            }
            PlacementPolicy::Even => "they lend too little memory for one head or slice",
            // As it was asked for.
            PlacementPolicy::Here => return,
        };
        let hands = self.hands.iter().filter(|it| it.1.is_of_use());
        let idle = hands.map(|it| *it.0);
        let idle: BTreeSet<_> = idle
            .filter(|id| !spread.owners().names(Owner::Worker(*id)))
            .collect();
        if idle.is_subset(&self.idle) {
            self.idle = idle;
            return;
        }
        let ms = |seconds: Option<f64>| seconds.map(|it| it * 1e3);
        tracing::info!(
            workers = ?idle.iter().map(|id| id.0).collect::<Vec<_>>(),
            token_ms = ms(self.step_seconds(engine)),
            evenly_ms = ms(self.step_seconds_with(engine, &self.dealt(engine))),
            reason,
            "workers have nothing to do"
        );
        self.idle = idle;
    }
}
