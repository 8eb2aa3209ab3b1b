//! The stages of training, when each is over, and the learning rate.

use crate::shop_desk::FactRange;

/// What a stage practises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StageKind {
    /// Finding the number of a plan and a verb, without the desk's conversation.
    LookUp(FactRange),
    /// The shop desk.
    Desk(FactRange),
}

/// One stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Its name in the log and on the curve.
    pub name: &'static str,
    /// What it practises.
    pub kind: StageKind,
    /// Cloud prompts in a batch.
    pub prompt_count: usize,
    /// Suffixes of each (a look-up has one for every fact).
    pub suffix_count: usize,
    /// The share of right answers, averaged over recent steps, at which the stage is over; without
    /// one it lasts to its limit.
    pub mastered_at: Option<f64>,
    /// It is over after so many steps in any case.
    pub steps_max: u64,
}

/// All stages in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Curriculum {
    /// First to last.
    pub stages: Vec<Stage>,
    /// Learning rate after warm-up.
    pub peak_rate: f64,
    /// Steps over which the learning rate rises from zero.
    pub warm_up_steps: u64,
}

/// Share of the peak at which the cosine of the last stage ends.
const FINAL_RATE_SHARE: f64 = 0.05;

impl Curriculum {
    /// The one the shop desk's model is trained with.
    pub fn shop_desk() -> Self {
        let stage = |name, kind, counts: [usize; 2], mastered_at, steps_max| Stage {
            name,
            kind,
            prompt_count: counts[0],
            suffix_count: counts[1],
            mastered_at,
            steps_max,
        };
        let look_up = FactRange::new(4..=8);
        let few = FactRange::new(2..=4);
        let full = FactRange::full();
        Self {
            stages: vec![
                stage(
                    "look up",
                    StageKind::LookUp(look_up),
                    [16, 0],
                    Some(0.97),
                    800,
                ),
                stage("few facts", StageKind::Desk(few), [20, 5], Some(0.95), 800),
                stage("all facts", StageKind::Desk(full), [14, 6], None, 700),
            ],
            peak_rate: 3e-3,
            warm_up_steps: 50,
        }
    }

    /// Steps if no stage ends before its limit.
    pub fn steps_max(&self) -> u64 {
        self.stages.iter().map(|stage| stage.steps_max).sum()
    }

    /// The learning rate of `step` of the run, which is `stage_step` of stage `stage_index`:
    /// constant after warm-up, half a cosine over the last stage.
    pub fn rate(&self, step: u64, stage_index: usize, stage_step: u64) -> f64 {
        let warm = (as_f64(step + 1) / as_f64(self.warm_up_steps)).min(1.0);
        let last = stage_index + 1 == self.stages.len();
        let share = match last {
            false => 1.0,
            true => {
                let done = as_f64(stage_step) / as_f64(self.stages[stage_index].steps_max);
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos());
                FINAL_RATE_SHARE + (1.0 - FINAL_RATE_SHARE) * cosine
            }
        };
        self.peak_rate * warm * share
    }
}

#[expect(clippy::cast_precision_loss, reason = "steps are far below 2^52")]
fn as_f64(steps: u64) -> f64 {
    steps as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_stays_and_falls() {
        let curriculum = Curriculum::shop_desk();
        let last = curriculum.stages.len() - 1;
        let end = curriculum.stages[last].steps_max;
        assert!(curriculum.rate(0, 0, 0) < 1e-4);
        assert_eq!(curriculum.rate(500, 1, 100), curriculum.peak_rate);
        let end_rate = curriculum.rate(5000, last, end);
        assert!((end_rate / curriculum.peak_rate - FINAL_RATE_SHARE).abs() < 1e-9);
    }
}
