//! The devices that a planner may use, as they are now. Whoever plans again measures again.

/// A device's name, which stays the same from one plan to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(pub u32);

/// Between a worker and the leader. The leader's own is what all its workers share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// In each direction, bits per second; directions do not disturb each other.
    pub bits_per_second: f64,
    /// One way, of a message without length, with what both ends spend on a message. Of no effect
    /// for the leader.
    pub one_way_seconds: f64,
}

impl Link {
    /// How long so many bytes occupy it.
    pub(crate) fn seconds(&self, bytes: u64) -> f64 {
        bytes as f64 * 8.0 / self.bits_per_second
    }
}

/// Whether weights have to travel to a device before it can run a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightCopy {
    /// It has the whole model, on its disk for instance: weights never travel to it.
    Whole,
    /// It has the weights of the jobs it runs and drops them with the job.
    OfItsJobs,
}

/// One device at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Device {
    /// Its name.
    pub id: DeviceId,
    /// What it computes now, beside whatever else it does, in floating-point operations a second.
    pub flops_per_second: f64,
    /// What it can give now to weights, keys, values and intermediate results, all jobs it already
    /// runs included.
    pub memory_bytes: u64,
    /// Its link to the leader.
    pub link: Link,
    /// Whose weights it has.
    pub weights: WeightCopy,
}
