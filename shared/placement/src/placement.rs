//! Where every job runs, job by job ([`Placement`]) or by how many ([`Counts`]).

use crate::device::{Device, DeviceId};
use crate::workload::Workload;

/// The owner of every job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// By stage, then by job.
    owners: Vec<Vec<DeviceId>>,
}

impl Placement {
    /// Owners by stage, then by job.
    pub const fn new(owners: Vec<Vec<DeviceId>>) -> Self {
        Self { owners }
    }

    /// Everything on one device.
    pub fn all_on(device: DeviceId, workload: &Workload) -> Self {
        let row = |stage: &crate::Stage| vec![device; stage.job_count];
        Self::new(workload.stages.iter().map(row).collect())
    }

    /// Owners by stage, then by job.
    pub fn owners(&self) -> &[Vec<DeviceId>] {
        &self.owners
    }

    /// Whether it has an owner for exactly the jobs of a workload.
    pub fn fits(&self, workload: &Workload) -> bool {
        let lens = workload.stages.iter().map(|stage| stage.job_count);
        self.owners.iter().map(Vec::len).eq(lens)
    }

    /// How many jobs each of these devices has; jobs of others are not counted.
    pub fn counts(&self, devices: &[Device]) -> Counts {
        let row = |owners: &Vec<DeviceId>| {
            let mut row = vec![0; devices.len()];
            for owner in owners {
                if let Some(index) = devices.iter().position(|device| device.id == *owner) {
                    row[index] += 1;
                }
            }
            row
        };
        Counts::new(self.owners.iter().map(row).collect())
    }

    /// The placement with these counts that leaves most jobs where `previous` has them. Surplus jobs
    /// leave in the order of their index.
    pub fn from_counts(counts: &Counts, devices: &[Device], previous: Option<&Self>) -> Self {
        let row = |(stage, counts): (usize, &Vec<usize>)| {
            let previous = previous.and_then(|it| it.owners.get(stage));
            assign(counts, devices, previous.map_or(&[], Vec::as_slice))
        };
        Self::new(counts.rows.iter().enumerate().map(row).collect())
    }
}

/// The owners of one stage: first those who keep a job, then who still wants one.
fn assign(counts: &[usize], devices: &[Device], previous: &[DeviceId]) -> Vec<DeviceId> {
    let job_count = counts.iter().sum();
    let mut wanted = counts.to_vec();
    let mut owners = vec![None; job_count];
    for (owner, previous) in owners.iter_mut().zip(previous) {
        let index = devices.iter().position(|device| device.id == *previous);
        if let Some(index) = index.filter(|index| wanted[*index] > 0) {
            wanted[index] -= 1;
            *owner = Some(*previous);
        }
    }
    let open = devices.iter().zip(&wanted);
    let mut open = open.flat_map(|(device, count)| std::iter::repeat_n(device.id, *count));
    let fill = |owner: Option<DeviceId>| owner.or_else(|| open.next());
    owners.into_iter().filter_map(fill).collect()
}

/// How many jobs of each stage each device has. Jobs of a stage are equal, so this is all that
/// latency, memory and migration depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    rows: Vec<Vec<usize>>,
}

impl Counts {
    /// By stage, then by the device's index.
    pub const fn new(rows: Vec<Vec<usize>>) -> Self {
        Self { rows }
    }

    /// Nothing anywhere.
    pub(crate) fn none(stage_count: usize, device_count: usize) -> Self {
        Self::new(vec![vec![0; device_count]; stage_count])
    }

    /// By stage, then by the device's index.
    pub fn rows(&self) -> &[Vec<usize>] {
        &self.rows
    }

    pub(crate) fn rows_mut(&mut self) -> &mut [Vec<usize>] {
        &mut self.rows
    }
}
