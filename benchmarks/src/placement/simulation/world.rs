//! Devices as they are drawn, what load takes from them, and the work at each token.

use anyhow::{Context, Result};
use edgeprompt_placement::{
    Device, DeviceId, Instance, Link, Load, ModelShape, PaperShape, Placement, WeightCopy,
    Workload, paper, real,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, LogNormal};

use super::{Cost, SimulationArgs};

/// Compute of devices: log-normal around the geometric mean of its bounds (arXiv 2505.02533).
const FLOPS: (f64, f64) = (5e9, 50e9);
const FLOPS_SIGMA: f64 = 0.7;
/// Memory of devices, likewise.
const MEMORY_BYTES: (f64, f64) = (2e9, 8e9);
const MEMORY_SIGMA: f64 = 0.4;
/// Links, uniform.
const BITS_PER_SECOND: (f64, f64) = (1e9, 10e9);
/// What other programs take of compute and of memory at most; drawn anew for every interval.
const BACKGROUND_SHARE_MAX: f64 = 0.3;
/// What a new measurement of a speed weighs against those before, for contenders that decide.
const SMOOTHING: f64 = 0.25;
/// The model that is enumerated has this share of a device's greatest memory: devices can be too small,
/// as they are for a large model.
const ENUMERATED_MODEL_SHARE: f64 = 0.7;
/// Heads of the paper's large layer; its small one has 8. Both are 64 wide.
const PAPER_HEADS: usize = 32;
/// KV heads and slices of the layer that is enumerated.
const ENUMERATED_HEADS: usize = 8;
const ENUMERATED_SLICES: usize = 4;

/// One set of devices, over all intervals.
pub(crate) struct World {
    args: SimulationArgs,
    device_count: usize,
    /// Without other load.
    devices: Vec<Device>,
    /// What is left to us, of compute and of memory: by interval, then by device.
    shares: Vec<Vec<(f64, f64)>>,
    pub(crate) draw: usize,
}

impl World {
    /// Devices of one draw, the same for every contender and every cost.
    pub(crate) fn draw(args: &SimulationArgs, device_count: usize, draw: usize) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
        rng.set_stream(((device_count as u64) << 32) | draw as u64);
        let mut world = Self {
            args: args.clone(),
            device_count,
            devices: Vec::with_capacity(device_count),
            shares: Vec::new(),
            draw,
        };
        let unit = world.memory_unit();
        for index in 0..device_count {
            world
                .devices
                .push(draw_device(&mut rng, args, index, unit)?);
        }
        let interval_count = world.tokens().div_ceil(args.interval_len.get());
        let share = |rng: &mut ChaCha8Rng| 1.0 - rng.random_range(0.0..BACKGROUND_SHARE_MAX);
        for _ in 0..interval_count {
            let shares = (0..device_count).map(|_| (share(&mut rng), share(&mut rng)));
            world.shares.push(shares.collect());
        }
        Ok(world)
    }

    /// Devices, the leader included.
    pub(crate) const fn device_count(&self) -> usize {
        self.device_count
    }

    /// Tokens to generate.
    pub(crate) fn tokens(&self) -> usize {
        self.args.tokens_on(self.device_count)
    }

    /// Plans to make.
    pub(crate) const fn interval_count(&self) -> usize {
        self.shares.len()
    }

    /// The first token of an interval and how many it has.
    pub(crate) fn interval(&self, index: usize) -> (usize, usize) {
        let len = self.args.interval_len.get();
        let done = index * len;
        (done, len.min(self.tokens() - done))
    }

    /// Whether every placement is enumerated.
    pub(crate) fn is_enumerated(&self) -> bool {
        SimulationArgs::is_enumerated(self.device_count())
    }

    /// The devices as they are at an interval.
    pub(crate) fn instance(&self, index: usize, previous: Option<Placement>) -> Result<Instance> {
        let compute = self.shares[index].iter().map(|share| share.0);
        self.instance_at(index, &compute.collect::<Vec<_>>(), previous)
    }

    /// The same with speeds as one knows them who smooths measurements.
    pub(crate) fn smoothed(&self, index: usize, previous: Option<Placement>) -> Result<Instance> {
        let mut compute: Vec<_> = self.shares[0].iter().map(|share| share.0).collect();
        for shares in &self.shares[1..=index] {
            for (known, (measured, _)) in compute.iter_mut().zip(shares) {
                *known += SMOOTHING * (measured - *known);
            }
        }
        self.instance_at(index, &compute, previous)
    }

    fn instance_at(
        &self,
        index: usize,
        compute: &[f64],
        previous: Option<Placement>,
    ) -> Result<Instance> {
        let (done, len) = self.interval(index);
        let devices = self.devices.iter().zip(&self.shares[index]).zip(compute);
        let devices = devices.map(|((device, (_, memory)), compute)| Device {
            flops_per_second: device.flops_per_second * compute,
            memory_bytes: scaled(device.memory_bytes, *memory),
            ..*device
        });
        let workload = self.workload(done, len);
        let remaining = self.tokens() - done;
        Instance::new(devices.collect(), workload, previous, remaining)
            .context("a drawn instance is not sound")
    }

    /// What one who plans once gets to see: the speeds at first, the least memory to come and the
    /// longest context.
    pub(crate) fn instance_for_all(&self) -> Result<Instance> {
        let devices = self.devices.iter().zip(&self.shares[0]);
        let devices = devices.map(|(device, (compute, _))| Device {
            flops_per_second: device.flops_per_second * compute,
            memory_bytes: scaled(device.memory_bytes, 1.0 - BACKGROUND_SHARE_MAX),
            ..*device
        });
        let workload = self.workload(self.tokens(), 0);
        Instance::new(devices.collect(), workload, None, self.tokens())
            .context("a drawn instance is not sound")
    }

    fn workload(&self, done: usize, headroom_len: usize) -> Workload {
        let args = &self.args;
        match args.cost {
            Cost::Paper => {
                let head_count = if self.is_enumerated() {
                    ENUMERATED_HEADS
                } else {
                    PAPER_HEADS
                };
                let shape = PaperShape {
                    head_count,
                    hidden_dim: 64 * head_count,
                    ffn_factor: args.ffn_factor,
                };
                paper(&shape, args.prompt_len, done + headroom_len)
            }
            Cost::Real => {
                let load = Load {
                    sequence_count: 1,
                    context_len: args.prompt_len + done,
                    headroom_len,
                    ffn_slice_count: match self.is_enumerated() {
                        true => ENUMERATED_SLICES,
                        false => args.ffn_slices.get(),
                    },
                };
                real(&self.model(), &load)
            }
        }
    }

    /// The model, or one layer that can be enumerated.
    fn model(&self) -> ModelShape {
        let config = self.args.model_shape.config();
        let whole = ModelShape {
            layer_count: config.layer_count,
            hidden_dim: config.hidden_dim,
            q_head_count: config.q_head_count,
            kv_head_count: config.kv_head_count,
            head_dim: config.head_dim,
            mlp_dim: config.mlp_dim,
            vocab_len: config.vocab_size,
            weight_bytes: 2,
            kv_bytes: 2,
            hidden_bytes: 4,
        };
        match self.is_enumerated() {
            true => ModelShape {
                layer_count: 1,
                kv_head_count: ENUMERATED_HEADS.min(config.q_head_count),
                vocab_len: 0,
                ..whole
            },
            false => whole,
        }
    }

    /// By what the drawn gigabytes are multiplied. The model that is enumerated is one layer, so devices
    /// are made small for it.
    fn memory_unit(&self) -> f64 {
        if self.args.cost == Cost::Paper || !self.is_enumerated() {
            return 1.0;
        }
        let stages = self.workload(self.tokens(), 0).stages;
        let bytes = stages
            .iter()
            .map(|it| it.job_count as u64 * it.job.memory_bytes());
        bytes.sum::<u64>() as f64 / (ENUMERATED_MODEL_SHARE * MEMORY_BYTES.1)
    }
}

fn draw_device(
    rng: &mut ChaCha8Rng,
    args: &SimulationArgs,
    index: usize,
    memory_unit: f64,
) -> Result<Device> {
    let flops_per_second = log_normal(rng, FLOPS, FLOPS_SIGMA)?;
    let memory = log_normal(rng, MEMORY_BYTES, MEMORY_SIGMA)? * memory_unit;
    let bits_per_second = rng.random_range(BITS_PER_SECOND.0..BITS_PER_SECOND.1);
    let delay_us = rng.random_range(args.delay_us[0]..=args.delay_us[1]);
    let one_way_seconds = match args.cost {
        Cost::Real => delay_us * 1e-6,
        // The paper's links have none.
        Cost::Paper => 0.0,
    };
    Ok(Device {
        id: DeviceId(u32::try_from(index)?),
        flops_per_second,
        memory_bytes: scaled(1, memory),
        link: Link {
            bits_per_second,
            one_way_seconds,
        },
        weights: WeightCopy::OfItsJobs,
    })
}

/// Around the geometric mean of the bounds, moved to the nearer bound where it is outside.
fn log_normal(rng: &mut ChaCha8Rng, (min, max): (f64, f64), sigma: f64) -> Result<f64> {
    let distribution = LogNormal::new((min * max).sqrt().ln(), sigma);
    let distribution = distribution.ok().context("a spread below 0")?;
    Ok(distribution.sample(rng).clamp(min, max))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a number of bytes"
)]
fn scaled(bytes: u64, share: f64) -> u64 {
    (bytes as f64 * share) as u64
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulationArgs,
    }

    #[test]
    fn devices_are_within_the_papers_ranges_and_the_same_for_a_seed() {
        let args = Cli::parse_from(["placement"]).args;
        let world = World::draw(&args, 100, 3).unwrap();
        for device in &world.devices {
            assert!((FLOPS.0..=FLOPS.1).contains(&device.flops_per_second));
            assert!((2_000_000_000..=8_000_000_000).contains(&device.memory_bytes));
            assert!((1e9..10e9).contains(&device.link.bits_per_second));
        }
        let again = World::draw(&args, 100, 3).unwrap();
        assert_eq!(world.devices, again.devices);
        let other = World::draw(&args, 100, 4).unwrap();
        assert_ne!(world.devices, other.devices);
        // 1000 tokens in intervals of 32: the last has 8.
        assert_eq!(world.interval_count(), 32);
        assert_eq!(world.interval(31), (992, 8));
    }
}
