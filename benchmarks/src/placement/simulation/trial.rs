//! One contender on one set of devices, token by token.

use std::time::Instant;

use anyhow::{Context, Result};
use edgeprompt_placement::{
    Counts, Dataflow, Decision, Instance, Placement, Plan, Policy, baseline, decide, exact,
    is_feasible, memory_bytes, migration_seconds, step_seconds,
};

use super::contender::{Contender, Habit};
use super::outcome::{Interval, Trial};
use super::world::World;

/// What a contender has in use.
struct InUse {
    placement: Placement,
    dataflow: Dataflow,
}

/// All intervals. A contender that has no placement at first has no intervals.
pub(crate) fn run(world: &World, contender: Contender) -> Result<Trial> {
    let mut trial = Trial {
        contender,
        device_count: world.device_count(),
        draw: world.draw,
        tokens: world.tokens(),
        intervals: Vec::new(),
        planner_seconds: Vec::new(),
        impossible_count: 0,
    };
    let mut in_use = match contender.habit() {
        Habit::PlansOnce => match once(world, contender, &mut trial)? {
            Some(in_use) => Some(in_use),
            None => return Ok(trial),
        },
        Habit::Decides | Habit::PlansAnew => None,
    };
    for index in 0..world.interval_count() {
        let previous = in_use.as_ref().map(|it| it.placement.clone());
        let instance = world.instance(index, previous)?;
        let optimum = optimum(world, &instance);
        if matches!(optimum, Optimum::NoPlacement) {
            trial.impossible_count += 1;
            continue;
        }
        let smoothed = world.smoothed(index, instance.previous().cloned())?;
        let planned = plan(contender, (&instance, &smoothed), &mut trial);
        // The plan itself, before it is weighed whether to follow it.
        let over_optimum = optimum.seconds().zip(planned.best_seconds);
        let over_optimum = over_optimum.map(|(optimum, planned)| planned / optimum);
        in_use = planned.next.or(in_use);
        let Some(using) = &in_use else {
            continue;
        };
        let (done, len) = world.interval(index);
        let interval = interval(&instance, using, (done, len))?;
        trial.intervals.push(Interval {
            over_optimum,
            ..interval
        });
    }
    Ok(trial)
}

/// What one who plans once uses; if it has no room at worst, what it would do at first.
fn once(world: &World, contender: Contender, trial: &mut Trial) -> Result<Option<InUse>> {
    let start = Instant::now();
    let mut plan = contender.planner()(&world.instance_for_all()?);
    if plan.is_err() {
        plan = contender.planner()(&world.instance(0, None)?);
    }
    trial.planner_seconds.push(start.elapsed().as_secs_f64());
    Ok(plan.ok().map(in_use))
}

fn in_use(plan: Plan) -> InUse {
    InUse {
        placement: plan.placement,
        dataflow: plan.dataflow,
    }
}

/// The best of all placements.
enum Optimum {
    Seconds(f64),
    NotEnumerated,
    NoPlacement,
}

impl Optimum {
    const fn seconds(&self) -> Option<f64> {
        match self {
            Self::Seconds(seconds) => Some(*seconds),
            Self::NotEnumerated | Self::NoPlacement => None,
        }
    }
}

fn optimum(world: &World, instance: &Instance) -> Optimum {
    if !world.is_enumerated() {
        return Optimum::NotEnumerated;
    }
    match baseline::exhaustive(instance) {
        Ok(plan) => Optimum::Seconds(plan.objective_seconds(instance)),
        Err(_) => Optimum::NoPlacement,
    }
}

/// What came out of planning.
struct Planned {
    /// What to change to; nothing to stay.
    next: Option<InUse>,
    /// The plan's objective, if there is one that fits.
    best_seconds: Option<f64>,
}

fn plan(
    contender: Contender,
    (instance, smoothed): (&Instance, &Instance),
    trial: &mut Trial,
) -> Planned {
    let start = Instant::now();
    match contender.habit() {
        Habit::PlansOnce => Planned {
            next: None,
            best_seconds: staying(instance),
        },
        Habit::PlansAnew => {
            let plan = contender.planner()(instance).ok();
            trial.planner_seconds.push(start.elapsed().as_secs_f64());
            let best_seconds = plan.as_ref().map(|it| it.objective_seconds(instance));
            Planned {
                next: plan.map(in_use),
                best_seconds,
            }
        }
        Habit::Decides => {
            let decision = decide(smoothed, contender.planner(), &Policy::default());
            trial.planner_seconds.push(start.elapsed().as_secs_f64());
            let next = match decision {
                Ok(Decision::Move(change)) => Some(InUse {
                    placement: change.placement,
                    dataflow: instance.workload().dataflow,
                }),
                Ok(Decision::Stay { .. }) | Err(_) => None,
            };
            let plan = exact::plan(instance).ok();
            Planned {
                next,
                best_seconds: plan.map(|it| it.objective_seconds(instance)),
            }
        }
    }
}

/// The objective of staying.
fn staying(instance: &Instance) -> Option<f64> {
    let counts = instance.previous_counts()?;
    let seconds = step_seconds(instance, counts, instance.workload().dataflow);
    seconds.filter(|_| is_feasible(instance, counts))
}

fn interval(instance: &Instance, using: &InUse, (done, len): (usize, usize)) -> Result<Interval> {
    let counts = using.placement.counts(instance.devices());
    let step_seconds = step_seconds(instance, &counts, using.dataflow);
    let step_seconds = step_seconds.context("a placement that does not run as planned")?;
    Ok(Interval {
        done,
        len,
        step_seconds,
        migration_seconds: migration_seconds(instance, &counts),
        moved_count: moved_count(instance, &counts),
        memory_bytes_max: memory_bytes(instance, &counts)
            .into_iter()
            .max()
            .unwrap_or(0),
        device_count_in_use: in_use_count(&counts),
        is_within_memory: is_feasible(instance, &counts),
        over_optimum: None,
    })
}

fn moved_count(instance: &Instance, counts: &Counts) -> usize {
    let before = instance.previous_counts().map_or(&[][..], Counts::rows);
    let rows = before.iter().zip(counts.rows());
    let arrived = |(before, after): (&Vec<usize>, &Vec<usize>)| {
        let both = before.iter().zip(after);
        both.map(|(before, after)| after.saturating_sub(*before))
            .sum::<usize>()
    };
    rows.map(arrived).sum()
}

fn in_use_count(counts: &Counts) -> usize {
    let devices = counts.rows().first().map_or(0, Vec::len);
    let is_used = |device: &usize| counts.rows().iter().any(|row| row[*device] > 0);
    (0..devices).filter(is_used).count()
}
