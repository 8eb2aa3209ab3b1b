//! Who has which jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use edgeprompt_kv::LayerIndex;

use super::WorkerId;
use crate::shard::{Job, LayerJobs, ShardShape};

/// A device that computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// The leader.
    Here,
    /// A worker.
    Worker(WorkerId),
}

/// The owners of one layer's jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerOwners {
    /// Of each KV head.
    pub heads: Vec<Owner>,
    /// Of each slice of the feed-forward network.
    pub slices: Vec<Owner>,
}

/// The owner of every job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners {
    layers: Vec<LayerOwners>,
}

/// What a step needs to know of a layer's owners.
pub(super) struct LayerPlaces {
    /// Those with anything to do.
    pub(super) workers: Arc<[WorkerId]>,
    /// How many heads each device has that has any.
    pub(super) heads: Arc<[(Owner, usize)]>,
    /// How many slices.
    pub(super) slices: Arc<[(Owner, usize)]>,
}

impl LayerPlaces {
    /// Whether all heads are the leader's.
    pub(super) fn is_here(&self) -> bool {
        self.heads.iter().all(|(owner, _)| *owner == Owner::Here)
    }
}

impl Owners {
    /// Owners by layer.
    pub const fn new(layers: Vec<LayerOwners>) -> Self {
        Self { layers }
    }

    /// Everything on one device.
    pub fn all(owner: Owner, shape: &ShardShape) -> Self {
        let layer = LayerOwners {
            heads: vec![owner; shape.kv_head_count],
            slices: vec![owner; shape.slice_count],
        };
        Self::new(vec![layer; shape.layer_count])
    }

    /// By layer.
    pub fn layers(&self) -> &[LayerOwners] {
        &self.layers
    }

    /// Whether there is an owner for exactly the jobs of a shape.
    pub fn fits(&self, shape: &ShardShape) -> bool {
        let counts = (shape.kv_head_count, shape.slice_count);
        let fit = |layer: &LayerOwners| (layer.heads.len(), layer.slices.len()) == counts;
        self.layers.len() == shape.layer_count && self.layers.iter().all(fit)
    }

    /// Whether anything is on this device.
    pub fn names(&self, owner: Owner) -> bool {
        self.owners().any(|other| other == owner)
    }

    /// Whether everything is on this device.
    pub fn all_are(&self, owner: Owner) -> bool {
        self.owners().all(|other| other == owner)
    }

    /// Whether anything is on any of these.
    pub fn any(&self, is_one: impl Fn(Owner) -> bool) -> bool {
        self.owners().any(is_one)
    }

    fn owners(&self) -> impl Iterator<Item = Owner> + '_ {
        let layers = self.layers.iter();
        layers.flat_map(|layer| layer.heads.iter().chain(&layer.slices).copied())
    }

    fn layer(&self, layer: LayerIndex) -> &LayerOwners {
        &self.layers[layer.as_usize()]
    }

    /// Who computes what, by layer.
    pub(super) fn places(&self) -> Vec<LayerPlaces> {
        let layers = (0u32..).map(LayerIndex).zip(&self.layers);
        let places = layers.map(|(index, layer)| LayerPlaces {
            workers: self.workers_of(index).into_iter().collect(),
            heads: counts(&layer.heads),
            slices: counts(&layer.slices),
        });
        places.collect()
    }

    pub(super) fn heads(&self, layer: LayerIndex) -> &[Owner] {
        &self.layer(layer).heads
    }

    /// The workers with anything to do in a layer.
    pub(super) fn workers_of(&self, layer: LayerIndex) -> BTreeSet<WorkerId> {
        let layer = self.layer(layer);
        let owners = layer.heads.iter().chain(&layer.slices);
        owners
            .filter_map(|owner| match owner {
                Owner::Worker(id) => Some(*id),
                Owner::Here => None,
            })
            .collect()
    }

    pub(super) fn heads_of(&self, layer: LayerIndex, owner: Owner) -> Vec<usize> {
        places(&self.layer(layer).heads, owner)
    }

    /// The jobs of a device in a layer.
    pub(super) fn layer_jobs(&self, layer: LayerIndex, owner: Owner) -> LayerJobs {
        LayerJobs {
            layer: layer.as_usize(),
            heads: self.heads_of(layer, owner),
            slices: places(&self.layer(layer).slices, owner),
        }
    }

    pub(super) fn all_jobs(&self, layer: LayerIndex) -> Vec<Job> {
        let layer = self.layer(layer);
        let heads = (0..layer.heads.len()).map(Job::Head);
        heads
            .chain((0..layer.slices.len()).map(Job::Slice))
            .collect()
    }

    pub(super) fn owner(&self, layer: LayerIndex, job: Job) -> Owner {
        match job {
            Job::Head(head) => self.layer(layer).heads[head],
            Job::Slice(slice) => self.layer(layer).slices[slice],
        }
    }

    pub(super) fn give(&mut self, layer: LayerIndex, job: Job, to: Owner) {
        let layer = &mut self.layers[layer.as_usize()];
        match job {
            Job::Head(head) => layer.heads[head] = to,
            Job::Slice(slice) => layer.slices[slice] = to,
        }
    }

    /// The jobs that have other owners in `goal`, with both.
    pub(super) fn moves_to(&self, goal: &Self) -> Vec<(LayerIndex, Job, [Owner; 2])> {
        let layers = (0u32..).map(LayerIndex).zip(&self.layers);
        let jobs = layers.flat_map(|(layer, owners)| {
            let heads = (0..owners.heads.len()).map(Job::Head);
            let slices = (0..owners.slices.len()).map(Job::Slice);
            heads.chain(slices).map(move |job| (layer, job))
        });
        let moves = jobs.map(|(layer, job)| {
            let owners = [self.owner(layer, job), goal.owner(layer, job)];
            (layer, job, owners)
        });
        moves.filter(|(_, _, [from, to])| from != to).collect()
    }
}

/// How many jobs each device has that has any.
fn counts(owners: &[Owner]) -> Arc<[(Owner, usize)]> {
    let mut counts = BTreeMap::new();
    for owner in owners {
        *counts.entry(*owner).or_insert(0) += 1;
    }
    counts.into_iter().collect()
}

fn places(owners: &[Owner], owner: Owner) -> Vec<usize> {
    let all = owners.iter().enumerate();
    all.filter(|(_, other)| **other == owner)
        .map(|(place, _)| place)
        .collect()
}
