//! Everything that a plan depends on, checked once: after that planners need not distrust it.

use crate::device::{Device, DeviceId};
use crate::placement::{Counts, Placement};
use crate::workload::{Dataflow, Part, Workload};

/// Devices that a leader plans for. The links of one leader feed no more.
pub const DEVICES_MAX: usize = 256;
/// Stages of a workload: 256 layers of three parts.
pub const STAGES_MAX: usize = 768;
/// Jobs of a stage. Models have at most 128 heads.
pub const JOBS_MAX: usize = 256;
/// Memory of all jobs together, so that sums of bytes never wrap.
const BYTES_MAX: u64 = 1 << 60;

/// Devices, work and what was before.
#[derive(Clone, Debug)]
pub struct Instance {
    devices: Vec<Device>,
    workload: Workload,
    previous: Option<Previous>,
    remaining_len: usize,
}

#[derive(Clone, Debug)]
struct Previous {
    placement: Placement,
    counts: Counts,
}

/// What is wrong with an instance.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InstanceError {
    /// There is no leader, or there are too many workers.
    #[error("{count} devices: give the leader and at most {} workers", DEVICES_MAX - 1)]
    DeviceCount {
        /// How many were given.
        count: usize,
    },
    /// Two devices have one name.
    #[error("device {} is given twice", .0.0)]
    DeviceTwice(DeviceId),
    /// A device's speed, link or delay is not a number to compute with.
    #[error("device {}: its speed and link rate must be positive and finite, its delay finite and not negative", .0.0)]
    DeviceNumbers(DeviceId),
    /// The workload has too many stages, or a stage too many jobs, or none.
    #[error(
        "{stages} stages, the largest with {jobs} jobs: there must be 1 to {STAGES_MAX} stages of 1 to {JOBS_MAX} jobs"
    )]
    WorkloadSize {
        /// Stages.
        stages: usize,
        /// Jobs of the stage that is out of range, or of the largest.
        jobs: usize,
    },
    /// A stage's costs are not numbers to compute with.
    #[error(
        "stage {stage}: its operations must be finite and not negative, its bytes below 2^60 in all"
    )]
    StageNumbers {
        /// Its index.
        stage: usize,
    },
    /// The paper's dataflow with stages other than heads, projection and feed-forward of one layer.
    #[error(
        "the paper's dataflow is for one layer of heads, one projection and one feed-forward network"
    )]
    NotThePapers,
    /// The previous placement is of another workload.
    #[error("the previous placement is of other jobs than this workload's")]
    OtherJobs,
}

impl Instance {
    /// Devices with the leader first, the step's work, the placement in use, and the tokens that are
    /// expected to be generated with what is planned now (at least one).
    pub fn new(
        devices: Vec<Device>,
        workload: Workload,
        previous: Option<Placement>,
        remaining_len: usize,
    ) -> Result<Self, InstanceError> {
        check_devices(&devices)?;
        check_workload(&workload)?;
        let previous = match previous {
            Some(placement) if !placement.fits(&workload) => return Err(InstanceError::OtherJobs),
            Some(placement) => Some(Previous {
                counts: placement.counts(&devices),
                placement,
            }),
            None => None,
        };
        Ok(Self {
            devices,
            workload,
            previous,
            remaining_len: remaining_len.max(1),
        })
    }

    /// The leader first.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// The step's work.
    pub const fn workload(&self) -> &Workload {
        &self.workload
    }

    /// The placement in use.
    pub fn previous(&self) -> Option<&Placement> {
        self.previous.as_ref().map(|it| &it.placement)
    }

    /// How many jobs each device has in the placement in use. Jobs of devices that are gone are in
    /// no count.
    pub fn previous_counts(&self) -> Option<&Counts> {
        self.previous.as_ref().map(|it| &it.counts)
    }

    /// Tokens over which a migration may pay.
    pub const fn remaining_len(&self) -> usize {
        self.remaining_len
    }

    /// What a device may give to jobs.
    pub fn memory_for_jobs(&self, index: usize) -> u64 {
        let memory = self.devices[index].memory_bytes;
        match index {
            0 => memory.saturating_sub(self.workload.leader_bytes),
            _ => memory,
        }
    }

    /// How many placements there are by counts, whether they fit or not; saturates.
    pub fn placement_count(&self) -> u64 {
        let devices = self.devices.len() as u64;
        let ways = |jobs: usize| {
            let mut count: u64 = 1;
            for index in 1..devices {
                // Every prefix of the product is a binomial coefficient, so the division is exact.
                count = match count.checked_mul(jobs as u64 + index) {
                    Some(product) => product / index,
                    None => return u64::MAX,
                };
            }
            count
        };
        let stages = self.workload.stages.iter();
        stages
            .map(|stage| ways(stage.job_count))
            .fold(1, u64::saturating_mul)
    }

    /// The same without a placement in use.
    pub fn without_previous(&self) -> Self {
        Self {
            previous: None,
            ..self.clone()
        }
    }
}

fn check_devices(devices: &[Device]) -> Result<(), InstanceError> {
    let count = devices.len();
    if count == 0 || count > DEVICES_MAX {
        return Err(InstanceError::DeviceCount { count });
    }
    for (index, device) in devices.iter().enumerate() {
        if devices[..index].iter().any(|other| other.id == device.id) {
            return Err(InstanceError::DeviceTwice(device.id));
        }
        let is_rate = |rate: f64| rate.is_finite() && rate > 0.0;
        let delay = device.link.one_way_seconds;
        let is_sound = is_rate(device.flops_per_second)
            && is_rate(device.link.bits_per_second)
            && delay.is_finite()
            && delay >= 0.0;
        if !is_sound {
            return Err(InstanceError::DeviceNumbers(device.id));
        }
    }
    Ok(())
}

fn check_workload(workload: &Workload) -> Result<(), InstanceError> {
    let stages = workload.stages.len();
    let counts = workload.stages.iter().map(|stage| stage.job_count);
    let outside = |count: &usize| *count == 0 || *count > JOBS_MAX;
    let odd = counts.clone().find(outside);
    if stages == 0 || stages > STAGES_MAX || odd.is_some() {
        let jobs = odd.or_else(|| counts.max()).unwrap_or(0);
        return Err(InstanceError::WorkloadSize { stages, jobs });
    }
    let mut total = u128::from(workload.leader_bytes);
    for (index, stage) in workload.stages.iter().enumerate() {
        let job = &stage.job;
        let parts = [job.weight_bytes, job.state_bytes, job.scratch_bytes];
        total += parts.map(u128::from).iter().sum::<u128>() * stage.job_count as u128;
        let is_sound = [job.flops, workload.leader_flops]
            .iter()
            .all(|flops| flops.is_finite() && *flops >= 0.0);
        if !is_sound || total > u128::from(BYTES_MAX) {
            return Err(InstanceError::StageNumbers { stage: index });
        }
    }
    let parts = workload
        .stages
        .iter()
        .map(|stage| (stage.layer, stage.part));
    let papers = [Part::Heads, Part::Projection, Part::FeedForward].map(|part| (0, part));
    let is_papers = parts.eq(papers) && workload.stages[1..].iter().all(|it| it.job_count == 1);
    if workload.dataflow == Dataflow::Gathered && !is_papers {
        return Err(InstanceError::NotThePapers);
    }
    Ok(())
}
