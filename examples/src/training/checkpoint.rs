//! What a run needs to go on where it stopped: weights, the optimisers' moments, and where it was.
//!
//! The data of a step depend on seed and step alone, so there is no generator to save.

use std::fs;
use std::io;
use std::path::Path;

use burn::module::Module;
use burn::store::RecordError;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::plot::CurvePoint;
use super::trainer::{Optimizer, Trainer};

/// Where a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Determines initial weights and data.
    pub seed: u64,
    /// Steps taken.
    pub step: u64,
    /// Which stage of the curriculum comes next.
    pub stage_index: usize,
    /// Steps taken in it.
    pub stage_step: u64,
    /// Running share of right answers in it.
    pub mastery: f64,
    /// The loss so far.
    pub curve: Vec<CurvePoint>,
}

impl Progress {
    /// The beginning.
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            step: 0,
            stage_index: 0,
            stage_step: 0,
            mastery: 0.0,
            curve: Vec::new(),
        }
    }

    /// One step further, in which `share` of the answers were right.
    pub fn advance(&mut self, share: f64, weight: f64) {
        self.step += 1;
        self.stage_step += 1;
        self.mastery += weight * (share - self.mastery);
    }

    /// On to the next stage.
    pub const fn next_stage(&mut self) {
        self.stage_index += 1;
        self.stage_step = 0;
        self.mastery = 0.0;
    }
}

/// Why a checkpoint could not be written or read.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The directory or the file of the progress.
    #[error("checkpoint: {0}")]
    Io(#[from] io::Error),
    /// The file of the progress is not what this version writes.
    #[error("checkpoint progress: {0}")]
    Progress(#[from] serde_json::Error),
    /// Weights or moments.
    #[error("checkpoint tensors: {0}")]
    Tensors(#[from] RecordError),
}

const WEIGHTS: &str = "weights.bpk";
const MOMENTS: &str = "moments.bpk";
const PROGRESS: &str = "progress.json";

impl Trainer {
    /// Writes a checkpoint into `directory`, beside the old one until it is whole.
    ///
    /// # Errors
    /// [`CheckpointError`] if a file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), CheckpointError> {
        let fresh = directory.with_extension("new");
        fs::create_dir_all(&fresh)?;
        self.decoder.clone().save_file(fresh.join(WEIGHTS))?;
        self.optimizer.0.save(fresh.join(MOMENTS))?;
        fs::write(fresh.join(PROGRESS), serde_json::to_vec(&self.progress)?)?;
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        Ok(fs::rename(fresh, directory)?)
    }

    /// Goes on from the checkpoint in `directory`.
    ///
    /// # Errors
    /// [`CheckpointError`] if a file is missing or of another model.
    pub fn resume(mut self, directory: &Path) -> Result<Self, CheckpointError> {
        self.progress = serde_json::from_slice(&fs::read(directory.join(PROGRESS))?)?;
        self.decoder = self.decoder.try_load_file(directory.join(WEIGHTS))?;
        self.optimizer = Optimizer(self.optimizer.0.load(directory.join(MOMENTS))?);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use edgeprompt_model::ModelConfig;

    use super::*;
    use crate::shop_desk::FactRange;
    use crate::training::{Curriculum, MODEL_CONFIG, Stage, StageKind, Tasks};

    fn fresh() -> Trainer {
        let stage = Stage {
            name: "test",
            kind: StageKind::Desk(FactRange::new(2..=3)),
            prompt_count: 2,
            suffix_count: 2,
            mastered_at: None,
            steps_max: 9,
        };
        let curriculum = Curriculum {
            stages: vec![stage],
            ..Curriculum::shop_desk()
        };
        let config = ModelConfig::from_json(MODEL_CONFIG).unwrap();
        Trainer::new(&config, Tasks::new().unwrap(), curriculum, 3)
    }

    #[test]
    fn a_resumed_run_is_the_same_run() {
        let directory = tempfile::tempdir().unwrap();
        let checkpoint = directory.path().join("checkpoint");
        let mut uninterrupted = fresh();
        uninterrupted.step().unwrap();
        uninterrupted.step().unwrap();
        uninterrupted.save(&checkpoint).unwrap();
        // Saving again replaces the old one.
        uninterrupted.save(&checkpoint).unwrap();

        let mut resumed = fresh().resume(&checkpoint).unwrap();
        assert_eq!(resumed.progress.step, 2);
        for _ in 0..3 {
            assert_eq!(resumed.step(), uninterrupted.step());
        }
    }

    #[test]
    fn a_missing_checkpoint_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(fresh().resume(&directory.path().join("none")).is_err());
    }
}
