//! Training of the shop desk's model, on the decoder that the product serves.
//!
//! Trained on the task alone, the number look-up does not appear: the model guesses among the
//! facts. Three things make it appear within some hundred steps: weights that start out attending
//! to neighbours, matching and copying; Muon for the matrices; and a [`Curriculum`] that begins
//! with bare look-ups. Each stage but the last ends when it is mastered.

mod attention;
mod batch;
mod checkpoint;
mod curriculum;
mod export;
mod init;
mod log;
mod plot;
mod tasks;
mod trainer;

pub use batch::{Batch, Prompt, Suffix};
pub use checkpoint::{CheckpointError, Progress};
pub use curriculum::{Curriculum, Stage, StageKind};
pub use export::{ExportError, MODEL_CONFIG, export, round_to_f16};
pub use log::{Interval, RunLog};
pub use plot::{CurvePoint, draw_curve};
pub use tasks::Tasks;
pub use trainer::{Score, StepReport, Trainer};
