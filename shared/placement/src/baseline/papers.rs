//! The paper's algorithm (arXiv 2505.02533) on any workload: blocks in the order of their demand, each
//! to the device of the least score, overload resolved by migration, backtracking with a limit.
//!
//! ```text
//! S(i, j) = max(b_i / remaining compute of j, m_i / remaining memory of j, transfer with placed neighbours)
//! ```
//!
//! The authors' simulator divides by the whole capacity, so that equal heads pile up on one device, and
//! has neither overload resolution nor backtracking; both are reconstructed here, and capacities are what
//! remains. Compute is a budget of an interval, as there. As there, the load of all stages adds up
//! on a device although stages follow each other, and blocks that have a home stay until it overloads.

use crate::delay::{lanes, overhead_seconds, path_seconds};
use crate::instance::Instance;
use crate::migration::MoveSeconds;
use crate::placement::Counts;
use crate::planner::{Plan, PlanError, Proof, shortage};
use crate::workload::Dataflow;

/// Placements that are undone before giving up.
const BACKTRACKS_MAX: usize = 100;
/// The interval for which compute is a budget, in the paper's dataflow: as in its simulator.
const BUDGET_SECONDS: f64 = 1.0;
/// Elsewhere, where a step takes much less: this many times what a step takes if all devices share it
/// perfectly. With a second, memory alone would decide.
const BUDGET_STEPS: f64 = 2.0;

/// One block: a job.
#[derive(Clone, Copy)]
struct Block {
    stage: usize,
    demand: f64,
}

struct State<'a> {
    instance: &'a Instance,
    counts: Counts,
    memory: Vec<u64>,
    flops: Vec<f64>,
    /// The interval for which compute is a budget.
    budget_seconds: f64,
    /// What a worker of a stage waits for messages, by stage and device.
    message_seconds: Vec<Vec<f64>>,
}

/// The paper's placement.
///
/// # Errors
/// Where it finds none.
pub fn papers(instance: &Instance) -> Result<Plan, PlanError> {
    if let Some(error) = shortage(instance) {
        return Err(error);
    }
    let mut state = State::new(instance);
    let placed = state.keep_previous();
    let found = state.resolve_overloads() && state.place_all(&placed);
    let counts = match (found, instance.previous_counts()) {
        (true, _) => state.counts,
        // The placement in use goes on if it still fits.
        (false, Some(previous)) => previous.clone(),
        (false, None) => return Err(PlanError::NotFound),
    };
    Plan::from_counts(instance, counts, Proof::Heuristic)
}

impl<'a> State<'a> {
    fn new(instance: &'a Instance) -> Self {
        let devices = instance.devices();
        let stages = &instance.workload().stages;
        let messages = stages.iter().map(|stage| {
            let lanes = lanes(devices, stage);
            let of = |index| overhead_seconds(&lanes, index, 1);
            (0..devices.len()).map(of).collect()
        });
        let flops: f64 = stages
            .iter()
            .map(|it| it.job_count as f64 * it.job.flops)
            .sum();
        let rate: f64 = devices.iter().map(|it| it.flops_per_second).sum();
        let budget_seconds = match instance.workload().dataflow {
            Dataflow::Gathered => BUDGET_SECONDS,
            Dataflow::Star | Dataflow::Chain => BUDGET_STEPS * flops / rate,
        };
        Self {
            instance,
            budget_seconds,
            counts: Counts::none(stages.len(), devices.len()),
            memory: (0..devices.len())
                .map(|it| instance.memory_for_jobs(it))
                .collect(),
            flops: devices
                .iter()
                .map(|it| it.flops_per_second * budget_seconds)
                .collect(),
            message_seconds: messages.collect(),
        }
    }

    /// Blocks with something to lose stay where they are; how many of each stage did.
    fn keep_previous(&mut self) -> Vec<usize> {
        let stages = &self.instance.workload().stages;
        let mut placed = vec![0; stages.len()];
        let Some(previous) = self.instance.previous_counts() else {
            return placed;
        };
        for (index, stage) in stages.iter().enumerate() {
            if stage.job.state_bytes + stage.job.weight_bytes == 0 {
                continue;
            }
            for (device, count) in previous.rows()[index].iter().enumerate() {
                self.counts.rows_mut()[index][device] = *count;
                self.flops[device] -= *count as f64 * stage.job.flops;
                placed[index] += count;
            }
        }
        placed
    }

    /// Memory that a device lacks for what is on it.
    fn excess(&self, device: usize) -> u64 {
        let used = crate::memory::memory_bytes(self.instance, &self.counts)[device];
        used.saturating_sub(self.instance.memory_for_jobs(device))
    }

    /// Moves blocks away from devices whose memory or compute they exceed, those first that free most
    /// memory for a second of migration; only memory has to be resolved. Says whether it is.
    fn resolve_overloads(&mut self) -> bool {
        let devices = self.instance.devices().len();
        let used = crate::memory::memory_bytes(self.instance, &self.counts);
        for (device, used) in used.iter().enumerate() {
            self.memory[device] = self.memory[device].saturating_sub(*used);
        }
        for device in 0..devices {
            while self.excess(device) > 0 || self.flops[device] < 0.0 {
                if !self.move_one(device) {
                    if self.excess(device) > 0 {
                        return false;
                    }
                    break;
                }
            }
        }
        true
    }

    /// Moves the best block off a device; false if none can go.
    fn move_one(&mut self, from: usize) -> bool {
        let stages = &self.instance.workload().stages;
        let mut order: Vec<_> = (0..stages.len())
            .filter(|stage| self.counts.rows()[*stage][from] > 0)
            .map(|stage| {
                let job = &stages[stage].job;
                let seconds = MoveSeconds::new(self.instance, job).leave[from];
                (
                    stage,
                    job.memory_bytes() as f64 / seconds.max(f64::MIN_POSITIVE),
                )
            })
            .collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        for (stage, _) in order {
            let others = (0..self.memory.len()).filter(|device| *device != from);
            let fits = others.filter(|device| self.has_room(stage, *device));
            let best = fits.min_by(|a, b| self.compare(stage, *a, *b));
            let Some(to) = best.filter(|to| self.score(stage, *to).is_finite()) else {
                continue;
            };
            self.take(stage, to);
            self.counts.rows_mut()[stage][from] -= 1;
            self.flops[from] += stages[stage].job.flops;
            let used = crate::memory::memory_bytes(self.instance, &self.counts)[from];
            self.memory[from] = self.instance.memory_for_jobs(from).saturating_sub(used);
            return true;
        }
        false
    }

    fn has_room(&self, stage: usize, device: usize) -> bool {
        self.instance.workload().stages[stage].job.memory_bytes() <= self.memory[device]
    }

    fn take(&mut self, stage: usize, device: usize) {
        let job = &self.instance.workload().stages[stage].job;
        self.memory[device] -= job.memory_bytes();
        self.flops[device] -= job.flops;
        self.counts.rows_mut()[stage][device] += 1;
    }

    fn give_back(&mut self, stage: usize, device: usize) {
        let job = &self.instance.workload().stages[stage].job;
        self.memory[device] += job.memory_bytes();
        self.flops[device] += job.flops;
        self.counts.rows_mut()[stage][device] -= 1;
    }

    /// S(i, j); infinite where nothing remains.
    fn score(&self, stage: usize, device: usize) -> f64 {
        let job = &self.instance.workload().stages[stage].job;
        let share = |needed: f64, left: f64| match (needed > 0.0, left > 0.0) {
            (false, _) => 0.0,
            (true, true) => needed / left,
            (true, false) => f64::INFINITY,
        };
        let compute = share(job.flops, self.flops[device]);
        let memory = share(job.memory_bytes() as f64, self.memory[device] as f64);
        compute
            .max(memory)
            .max(self.transfer_seconds(stage, device))
    }

    fn transfer_seconds(&self, stage: usize, device: usize) -> f64 {
        if self.instance.workload().dataflow != Dataflow::Gathered {
            return self.message_seconds[stage][device];
        }
        let devices = self.instance.devices();
        let stages = &self.instance.workload().stages;
        let neighbours = [
            stage.checked_sub(1),
            (stage + 1 < stages.len()).then_some(stage + 1),
        ];
        let mut seconds = 0.0;
        for neighbour in neighbours.into_iter().flatten() {
            let bytes = stages[neighbour.min(stage)].gather_bytes;
            let placed = self.counts.rows()[neighbour].iter().enumerate();
            seconds += placed
                .map(|(other, count)| *count as f64 * path_seconds(devices, other, device, bytes))
                .sum::<f64>();
        }
        seconds
    }

    /// By score; where compute is used up, by when a device would be done with all it has.
    fn compare(&self, stage: usize, a: usize, b: usize) -> std::cmp::Ordering {
        let done = |device: usize| {
            let rate = self.instance.devices()[device].flops_per_second;
            let flops = self.instance.workload().stages[stage].job.flops;
            (flops + rate * self.budget_seconds - self.flops[device]) / rate
        };
        let by_score = self.score(stage, a).total_cmp(&self.score(stage, b));
        by_score.then(done(a).total_cmp(&done(b)))
    }

    /// Places what has no home, in the order of demand; false if the backtracking limit is reached.
    fn place_all(&mut self, placed: &[usize]) -> bool {
        let blocks = self.blocks(placed);
        // The device of each placed block, and the devices it was found not to go on.
        let mut owners: Vec<usize> = Vec::with_capacity(blocks.len());
        let mut forbidden: Vec<Vec<usize>> = vec![Vec::new(); blocks.len()];
        let mut backtracks = 0;
        while owners.len() < blocks.len() {
            let at = owners.len();
            let stage = blocks[at].stage;
            let allowed = (0..self.memory.len()).filter(|device| !forbidden[at].contains(device));
            let fits = allowed.filter(|device| self.has_room(stage, *device));
            let best = fits.min_by(|a, b| self.compare(stage, *a, *b));
            if let Some(device) = best {
                self.take(stage, device);
                owners.push(device);
                continue;
            }
            let Some(last) = owners.pop().filter(|_| backtracks < BACKTRACKS_MAX) else {
                return false;
            };
            backtracks += 1;
            self.give_back(blocks[at - 1].stage, last);
            forbidden[at].clear();
            forbidden[at - 1].push(last);
        }
        true
    }

    /// What has no home, the most demanding first.
    fn blocks(&self, placed: &[usize]) -> Vec<Block> {
        let devices = self.instance.devices();
        let memory_max = devices.iter().map(|it| it.memory_bytes).max().unwrap_or(1);
        let flops_max = devices
            .iter()
            .map(|it| it.flops_per_second)
            .fold(0.0, f64::max);
        let stages = self.instance.workload().stages.iter().enumerate();
        let mut blocks: Vec<_> = stages
            .flat_map(|(stage, it)| {
                let memory = it.job.memory_bytes() as f64 / memory_max.max(1) as f64;
                let demand = memory + it.job.flops / (flops_max * self.budget_seconds);
                let open = it.job_count.saturating_sub(placed[stage]);
                std::iter::repeat_n(Block { stage, demand }, open)
            })
            .collect();
        blocks.sort_by(|a, b| b.demand.total_cmp(&a.demand));
        blocks
    }
}
