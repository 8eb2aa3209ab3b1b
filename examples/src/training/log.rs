//! What a person sees of a run: a progress bar on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::plot::CurvePoint;
use super::trainer::{Score, StepReport};

/// Where the run reports to.
#[derive(Debug)]
pub enum RunLog {
    /// Someone watches: the bar moves with every step.
    Bar(ProgressBar),
    /// A file or a pipe.
    Lines,
}

impl RunLog {
    /// The one that suits standard error; `steps_max` is the length of the bar.
    pub fn new(steps_max: u64) -> Self {
        if !io::stderr().is_terminal() {
            return Self::Lines;
        }
        let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos} {msg}");
        let bar = ProgressBar::new(steps_max);
        bar.set_style(style.expect("the template is well-formed"));
        Self::Bar(bar)
    }

    /// A step was taken.
    pub fn moved_to(&self, step: u64, stage: &str) {
        if let Self::Bar(bar) = self {
            bar.set_position(step);
            bar.set_message(stage.to_owned());
        }
    }

    /// Something worth keeping.
    ///
    /// # Errors
    /// If standard error cannot be written to.
    pub fn say(&self, line: &str) -> io::Result<()> {
        match self {
            Self::Bar(bar) => bar.println(line),
            Self::Lines => writeln!(io::stderr(), "{line}")?,
        }
        Ok(())
    }
}

/// Means over the steps since the last line of the log.
#[derive(Debug)]
pub struct Interval {
    since: Instant,
    step_count: u32,
    loss: f64,
    score: Score,
    token_count: usize,
}

impl Interval {
    /// Starts now.
    pub fn start() -> Self {
        Self {
            since: Instant::now(),
            step_count: 0,
            loss: 0.0,
            score: Score::default(),
            token_count: 0,
        }
    }

    /// One more step.
    pub fn add(&mut self, report: &StepReport) {
        self.step_count += 1;
        self.loss += report.loss;
        self.score.right += report.score.right;
        self.score.of += report.score.of;
        self.token_count += report.token_count;
    }

    /// The means, and how many tokens went through in a second; starts again.
    pub fn take(&mut self, step: u64, stage_index: usize) -> (CurvePoint, f64) {
        let done = std::mem::replace(self, Self::start());
        let point = CurvePoint {
            step,
            stage_index,
            loss: done.loss / f64::from(done.step_count.max(1)),
            right_share: done.score.share(),
        };
        let tokens = u32::try_from(done.token_count).map_or(f64::NAN, f64::from);
        (point, tokens / done.since.elapsed().as_secs_f64())
    }
}
