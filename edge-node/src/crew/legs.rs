//! Ways to a placement: a device that is short of memory lets jobs go before it takes others, since both
//! lie there until they change hands.

use std::collections::BTreeMap;

use edgeprompt_engine::{Job, LayerOwners, Owner, Owners, WorkerId};

/// What may be aimed at on the way from `before` to `goal`, which is `goal` itself where every worker has
/// room for what it has and what it gets. Otherwise a worker that has not gives up what it is to give up,
/// for now to this node if the other one has no room either, and is given the rest the next time.
pub(crate) fn first_leg(
    before: &Owners,
    goal: &Owners,
    room: impl Fn(WorkerId) -> u64,
    bytes: impl Fn(Job) -> u64,
) -> Owners {
    let mut needed: BTreeMap<WorkerId, u64> = BTreeMap::new();
    for (job, from, to) in pairs(before, goal) {
        let devices = [Some(from), Some(to).filter(|to| *to != from)];
        for device in devices.into_iter().flatten() {
            if let Owner::Worker(id) = device {
                let sum = needed.entry(id).or_default();
                *sum = sum.saturating_add(bytes(job));
            }
        }
    }
    let is_tight = |owner: Owner| match owner {
        Owner::Worker(id) => needed.get(&id).is_some_and(|sum| *sum > room(id)),
        Owner::Here => false,
    };
    let next = |from: &Owner, to: &Owner| match (is_tight(*from), is_tight(*to)) {
        _ if from == to => *to,
        (_, false) => *to,
        (false, true) => *from,
        (true, true) => Owner::Here,
    };
    let both = before.layers().iter().zip(goal.layers());
    let layers = both.map(|(before, goal)| {
        let of = |before: &[Owner], goal: &[Owner]| {
            let both = before.iter().zip(goal);
            both.map(|(from, to)| next(from, to)).collect()
        };
        LayerOwners {
            heads: of(&before.heads, &goal.heads),
            slices: of(&before.slices, &goal.slices),
        }
    });
    Owners::new(layers.collect())
}

/// Jobs dealt to devices in turn; one without room for another is passed over. The first has room for all.
pub(crate) fn deal(
    [layer_count, head_count, slice_count]: [usize; 3],
    mut devices: Vec<(Owner, u64)>,
    bytes: impl Fn(Job) -> u64,
) -> Owners {
    let mut turn = 0;
    let mut next = |job: Job| {
        let bytes = bytes(job);
        let places = (0..devices.len()).map(|step| (turn + step) % devices.len());
        let place = places.into_iter().find(|place| devices[*place].1 >= bytes);
        let place = place.unwrap_or(0);
        turn = place + 1;
        let (owner, room) = &mut devices[place];
        *room = room.saturating_sub(bytes);
        *owner
    };
    let layers = (0..layer_count).map(|_| LayerOwners {
        heads: (0..head_count).map(Job::Head).map(&mut next).collect(),
        slices: (0..slice_count).map(Job::Slice).map(&mut next).collect(),
    });
    Owners::new(layers.collect())
}

/// Each job with where it is and where it is to be.
fn pairs<'a>(
    before: &'a Owners,
    goal: &'a Owners,
) -> impl Iterator<Item = (Job, Owner, Owner)> + 'a {
    let both = before.layers().iter().zip(goal.layers());
    both.flat_map(|(before, goal)| {
        let heads = before.heads.iter().zip(&goal.heads).enumerate();
        let heads = heads.map(|(index, (from, to))| (Job::Head(index), *from, *to));
        let slices = before.slices.iter().zip(&goal.slices).enumerate();
        heads.chain(slices.map(|(index, (from, to))| (Job::Slice(index), *from, *to)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner(index: u32) -> Owner {
        match index.checked_sub(1) {
            None => Owner::Here,
            Some(id) => Owner::Worker(WorkerId(id)),
        }
    }

    fn owners(jobs: &[(u32, u32)]) -> Owners {
        let layers = jobs.chunks(2).map(|layer| LayerOwners {
            heads: layer.iter().map(|(head, _)| owner(*head)).collect(),
            slices: layer.iter().map(|(_, slice)| owner(*slice)).collect(),
        });
        Owners::new(layers.collect())
    }

    fn bytes(job: Job) -> u64 {
        match job {
            Job::Head(_) => 5,
            Job::Slice(_) => 3,
        }
    }

    fn held(pairs: impl Iterator<Item = (Job, Owner, Owner)>) -> BTreeMap<WorkerId, u64> {
        let mut held = BTreeMap::new();
        for (job, from, to) in pairs {
            for device in [0, 1, 2].map(owner) {
                if let (Owner::Worker(id), true) = (device, device == from || device == to) {
                    *held.entry(id).or_default() += bytes(job);
                }
            }
        }
        held
    }

    #[test]
    fn a_worker_with_room_for_both_gets_all_at_once() {
        let (before, goal) = (owners(&[(1, 1), (0, 0)]), owners(&[(0, 0), (1, 1)]));
        assert_eq!(first_leg(&before, &goal, |_| 16, bytes), goal);
        let leg = first_leg(&before, &goal, |_| 15, bytes);
        assert_eq!(leg, owners(&[(0, 0), (0, 0)]), "it lets go first");
        assert_eq!(first_leg(&leg, &goal, |_| 15, bytes), goal, "then it takes");
    }

    #[test]
    fn jobs_are_dealt_in_turn_to_those_with_room() {
        let of = |room: [u64; 2]| {
            let devices = [(Owner::Here, 0), (owner(1), room[0]), (owner(2), room[1])];
            deal([2, 2, 2], devices.to_vec(), bytes)
        };
        let jobs = |heads: [u32; 2], slices: [u32; 2]| LayerOwners {
            heads: heads.map(owner).to_vec(),
            slices: slices.map(owner).to_vec(),
        };
        let all = of([100, 100]);
        assert_eq!(all.layers(), [jobs([1, 2], [1, 2]), jobs([1, 2], [1, 2])]);
        // Room for one head, or for nothing: what nobody has room for stays here.
        let some = of([5, 2]);
        assert_eq!(some.layers(), [jobs([1, 0], [0, 0]), jobs([0, 0], [0, 0])]);
    }

    proptest! {
        #[test]
        fn every_leg_fits_and_the_second_ends_at_the_goal(
            jobs in prop::collection::vec(((0u32..3, 0u32..3), (0u32..3, 0u32..3)), 1..12),
        ) {
            let (before, goal): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
            let (before, goal) = (owners(&before), owners(&goal));
            // As much as either placement needs by itself, and nothing more.
            let (first, last) = (held(pairs(&before, &before)), held(pairs(&goal, &goal)));
            let room = |id: WorkerId| {
                let needs = [&first, &last].map(|held| held.get(&id).copied().unwrap_or(0));
                needs[0].max(needs[1])
            };
            let leg = first_leg(&before, &goal, room, bytes);
            for (from, to) in [(&before, &leg), (&leg, &goal)] {
                for (id, held) in held(pairs(from, to)) {
                    prop_assert!(held <= room(id), "{held} on {id:?}");
                }
            }
            prop_assert_eq!(first_leg(&leg, &goal, room, bytes), goal);
        }
    }
}
