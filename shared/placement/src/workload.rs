//! What has to be computed for one token of every sequence: stages in order, each of equal jobs.
//! Numbers only; where jobs run is a [`Placement`](crate::Placement).

/// Which part of a layer a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// A job is one KV head with its query heads, its keys and values and its slices of the query,
    /// key, value and output projections.
    Heads,
    /// One job: the output projection of all heads. Only where heads do not bring their slices.
    Projection,
    /// A job is one slice of the feed-forward network's width.
    FeedForward,
}

/// What one job takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct JobCost {
    /// Floating-point operations a step.
    pub flops: f64,
    /// Memory of its weights, which travel only to a device that lacks them.
    pub weight_bytes: u64,
    /// Memory of its keys and values at the end of the planned interval; they travel with the job.
    pub state_bytes: u64,
    /// Memory of intermediate results, which never travel.
    pub scratch_bytes: u64,
}

impl JobCost {
    /// What a device needs for one such job.
    pub const fn memory_bytes(&self) -> u64 {
        self.weight_bytes
            .saturating_add(self.state_bytes)
            .saturating_add(self.scratch_bytes)
    }
}

/// Equal jobs that run at the same time. The next stage needs all their results.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stage {
    /// 0-based.
    pub layer: usize,
    /// Which part of the layer.
    pub part: Part,
    /// How many jobs.
    pub job_count: usize,
    /// What each takes.
    pub job: JobCost,
    /// What every worker with a job is sent.
    pub scatter_bytes: u64,
    /// What comes back: of a worker in [`Dataflow::Star`], of a job in [`Dataflow::Gathered`].
    pub gather_bytes: u64,
}

/// How hidden states and results travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dataflow {
    /// As executed here: the leader scatters the normalised hidden state to every worker of a stage
    /// and sums what they return.
    Star,
    /// As in the paper: heads send their outputs to the projection's device, that one sends to the
    /// feed-forward network's. Nobody sends anything to the heads.
    Gathered,
    /// As with layers on devices: the hidden state goes from a layer's device to the next one's.
    /// Only for placements with every layer on one device.
    Chain,
}

/// The work of one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// In order. Stages of one layer follow each other.
    pub stages: Vec<Stage>,
    /// How its results travel, unless a plan says otherwise.
    pub dataflow: Dataflow,
    /// Floating-point operations that only the leader does: the vocabulary's logits.
    pub leader_flops: f64,
    /// Memory that the leader needs for itself: embeddings and the vocabulary's weights.
    pub leader_bytes: u64,
}
