//! What came of a campaign, in words and as JSON.

use std::time::Duration;

use serde::Serialize;

use super::CampaignArgs;
use super::mover::Tally;
use super::users::Totals;
use super::world::AtRest;
use crate::provenance::Provenance;

/// What was asked for.
#[derive(Serialize)]
pub(super) struct Asked {
    handovers: usize,
    kills: usize,
    loss_percent: f64,
    link_mbits: u64,
    rtt_ms: u64,
    edges: u8,
    followers: u32,
    plain: u32,
    movers: u32,
    answer_tokens: u32,
    seed: u64,
}

impl Asked {
    pub(super) fn of(args: &CampaignArgs) -> Self {
        Self {
            handovers: args.handovers.get(),
            kills: args.kills,
            loss_percent: args.loss,
            link_mbits: args.rate,
            rtt_ms: args.rtt_ms,
            edges: args.edges,
            followers: args.followers.get(),
            plain: args.plain,
            movers: args.movers.get(),
            answer_tokens: args.answer.get(),
            seed: args.seed,
        }
    }
}

/// A whole campaign.
#[derive(Serialize)]
pub(super) struct Report {
    benchmark: &'static str,
    provenance: Provenance,
    asked: Asked,
    took_s: f64,
    moves: Tally,
    users: Totals,
    /// Each edge afterwards; nothing of one that does not answer.
    at_rest: Vec<Option<AtRest>>,
    violations: Vec<String>,
    /// Answers that must not be, among them.
    wrong_answers: u64,
}

impl Report {
    pub(super) fn new(
        asked: Asked,
        provenance: Provenance,
        (users, moves, at_rest): (&Totals, &Tally, Vec<Option<AtRest>>),
        (took, stands_still): (Duration, bool),
    ) -> Self {
        let wrong = users.answers.iter().filter(|it| it.outcome.is_violation());
        let wrong_answers = wrong.clone().map(|it| it.count).sum();
        let mut violations: Vec<String> = wrong
            .map(|it| {
                format!(
                    "{} answers: {:?}, {:?}, {:?}",
                    it.count, it.client, it.drawing, it.outcome
                )
            })
            .collect();
        let mut complain = |is_so: bool, what: String| violations.extend(is_so.then_some(what));
        complain(stands_still, "for two minutes nothing moved".to_owned());
        let unanswered = moves.unanswered;
        complain(
            unanswered > 0,
            format!("{unanswered} moves of which nothing was said"),
        );
        for error in &moves.not_started {
            complain(true, format!("an edge does not start again: {error}"));
        }
        for (edge, rest) in at_rest.iter().enumerate() {
            let is_idle = rest.as_ref().is_some_and(AtRest::is_idle);
            complain(
                !is_idle,
                format!("edge {edge} does not come to rest: {rest:?}"),
            );
        }
        Self {
            benchmark: "handover-campaign",
            provenance,
            asked,
            took_s: took.as_secs_f64(),
            moves: moves.clone(),
            users: users.clone(),
            at_rest,
            violations,
            wrong_answers,
        }
    }

    /// Everything that must not be: wrong answers, and what else was wrong.
    pub(super) const fn violations(&self) -> usize {
        self.violations.len()
    }

    pub(super) fn print(&self) {
        let Tally {
            moved,
            strategies,
            not_moved,
            kills,
            victims,
            switch_ms_max,
            ..
        } = &self.moves;
        println!(
            "{moved} sessions moved in {:.0} s: {strategies:?}",
            self.took_s
        );
        println!("not moved: {not_moved:?}");
        println!("{kills} moves with kills: {victims:?}");
        println!("longest switch {switch_ms_max:.0} ms without a kill in it");
        println!(
            "longest silence of a user: {:?} ms; {} changes of the edge seen by who follows",
            self.users.worst_gap_ms, self.users.changes
        );
        println!("| client | drawing | outcome | answers |\n|---|---|---|---|");
        for it in &self.users.answers {
            let what = format!("{:?} | {:?} | {:?}", it.client, it.drawing, it.outcome);
            println!("| {} | {} |", what.to_lowercase(), it.count);
        }
        for mishap in &self.users.mishaps {
            println!("{mishap:?}");
        }
        for violation in &self.violations {
            println!("VIOLATION: {violation}");
        }
    }
}
