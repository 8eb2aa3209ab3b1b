//! The one forward pass: split, monolithic, cloud-side and ablated runs all go through it.
//!
//! The engine computes and suspends; it never waits, opens no socket and reads no clock. What holds
//! private tokens or what is computed of them cannot be printed: no such type is `Debug`.

mod batch;
mod convert;
mod engine;
mod forward;
mod generate;
mod pass_plan;
mod prefix_cache;
mod private_kv;
mod probe;

mod sampling;
mod scheduler;
mod segment;
mod shard;
mod spread;

pub use convert::{ViewError, checked_view_from_layer, layer_from_view, view_from_layer};
pub use engine::{
    Demand, Engine, EngineLimits, Finish, Generation, KvChunk, NotAdopted, Output, PassEvent,
    Progressed, SubmitError,
};
pub use forward::{ForwardPass, Progress};
pub use generate::{Sequence, SequenceOptions, greedy};
pub use prefix_cache::SessionId;
pub use private_kv::PrivateKv;
pub use probe::{SpeedProbe, among_threads};
pub use sampling::{Chosen, Sampler, SamplingParams, SamplingParamsError};
pub use scheduler::{
    AdmissionError, NotRestored, ScheduledRow, Scheduler, SchedulerLimits, SequenceId, Step,
};
pub use segment::{CloudSegment, SegmentPrefill};
pub use shard::{
    Answer, Job, LayerJobs, Order, OrderError, PrefixKey, Reply, RowShape, SLICES_MAX, Shard,
    ShardShape, SharedPrefix, Task,
};
pub use spread::{
    Clock, Gone, LayerOwners, Lost, Owner, Owners, Pace, Part, Patience, Portions, Spread,
    SpreadEvent, Timing, WorkerId, WorkerPort,
};
