//! What one device has of a model and of its keys and values: some heads and some slices of each
//! layer's feed-forward network. A leader has one, and so has every worker.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use edgeprompt_attention::{KvBlocks, KvView};
use edgeprompt_kv::LayerIndex;
use edgeprompt_model::{FeedForward, Heads, Model, RopeTable};

use crate::pass_plan::{PassPlan, Prefix};

mod changing;
mod obey;
mod orders;
mod shape;

pub(crate) use obey::numbers;
pub use orders::{
    Answer, Job, LayerJobs, Order, OrderError, PrefixKey, Reply, RowShape, SharedPrefix, Task,
};
pub use shape::{SLICES_MAX, ShardShape};

/// Heads of one layer.
struct HeadsHere {
    weights: Heads,
    kv: KvBlocks,
}

/// What is here of one layer.
struct ShardLayer {
    /// Which KV heads, in the order in which they lie.
    heads: Vec<usize>,
    /// Nothing without heads.
    attention: Option<HeadsHere>,
    /// Which slices.
    slices: Vec<usize>,
    /// Nothing without slices.
    feed_forward: Option<FeedForward>,
}

/// Keys and values of a cloud prompt for the heads of one layer that are here.
struct PrefixHere {
    heads: Vec<usize>,
    view: KvView,
}

/// A job that is on its way here.
enum Staged {
    Head(Box<HeadsHere>),
    Slice(Box<FeedForward>),
}

impl Staged {
    fn head(self) -> Option<HeadsHere> {
        match self {
            Self::Head(head) => Some(*head),
            Self::Slice(_) => None,
        }
    }

    fn slice(self) -> Option<FeedForward> {
        match self {
            Self::Slice(slice) => Some(*slice),
            Self::Head(_) => None,
        }
    }
}

/// One device's part of a model, with the keys and values of its heads.
///
/// Deliberately not `Debug`: private KV counts as private text.
pub struct Shard {
    shape: ShardShape,
    rope: RopeTable,
    device: Device,
    layers: Vec<ShardLayer>,
    /// By cloud prompt and layer.
    prefixes: BTreeMap<(PrefixKey, u32), PrefixHere>,
    /// The same by head, for heads that are not here yet.
    prefixes_ahead: BTreeMap<(PrefixKey, u32, usize), KvView>,
    staged: BTreeMap<(u32, Job), Staged>,
    /// The pass that a worker is told of.
    plan: Option<PassPlan<SharedPrefix>>,
    /// The whole model, where it is.
    model: Option<Arc<Model>>,
    /// What it may take.
    bytes_max: u64,
}

impl Shard {
    /// Nothing yet: a worker's, which may have a copy of the model.
    pub fn empty(shape: ShardShape, model: Option<Arc<Model>>, device: &Device) -> Self {
        let nothing = || ShardLayer {
            heads: Vec::new(),
            attention: None,
            slices: Vec::new(),
            feed_forward: None,
        };
        Self {
            rope: RopeTable::of_frequencies(
                shape.inverse_frequencies.clone(),
                shape.attention_factor,
            ),
            layers: (0..shape.layer_count).map(|_| nothing()).collect(),
            device: device.clone(),
            prefixes: BTreeMap::new(),
            prefixes_ahead: BTreeMap::new(),
            staged: BTreeMap::new(),
            plan: None,
            shape,
            model,
            bytes_max: u64::MAX,
        }
    }

    /// May take so many bytes for weights, keys and values, and not more.
    #[must_use]
    pub const fn with_bytes_max(mut self, bytes_max: u64) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// Everything: a leader's before anybody helps it. Takes the memory of all its blocks at once.
    pub fn whole(shape: ShardShape, model: &Arc<Model>) -> Self {
        let device = model.decoder.device();
        let mut shard = Self::empty(shape, Some(Arc::clone(model)), &device);
        let shape = &shard.shape;
        for (here, layer) in shard.layers.iter_mut().zip(model.decoder.layers()) {
            *here = ShardLayer {
                heads: (0..shape.kv_head_count).collect(),
                attention: Some(HeadsHere {
                    weights: layer.heads().clone(),
                    kv: KvBlocks::zeros(shape.kv_shape(shape.kv_head_count), &device),
                }),
                slices: (0..shape.slice_count).collect(),
                feed_forward: Some(layer.feed_forward().clone()),
            };
        }
        shard
    }

    /// The shape.
    pub const fn shape(&self) -> &ShardShape {
        &self.shape
    }

    /// Cuts the feed-forward networks anew, while all of them are here.
    pub(crate) fn cut_into(&mut self, slice_count: usize) {
        self.shape.slice_count = slice_count.clamp(1, SLICES_MAX.min(self.shape.mlp_dim));
        for layer in &mut self.layers {
            layer.slices = (0..self.shape.slice_count).collect();
        }
    }

    /// Whether all heads of all layers are here.
    pub(crate) fn is_whole(&self) -> bool {
        let count = self.shape.kv_head_count;
        self.layers.iter().all(|layer| layer.heads.len() == count)
    }

    /// The blocks of a layer.
    ///
    /// # Panics
    /// If not all of its heads are here.
    pub(crate) fn whole_kv(&mut self, layer: LayerIndex) -> &mut KvBlocks {
        let here = &mut self.layers[layer.as_usize()];
        assert_eq!(here.heads.len(), self.shape.kv_head_count, "all heads");
        let attention = here.attention.as_mut();
        &mut attention.expect("heads have blocks").kv
    }

    /// The blocks of every layer, for whoever needs all heads.
    pub(crate) fn kv_of_layers(&self) -> impl Iterator<Item = &KvBlocks> {
        let layers = self.layers.iter();
        layers.filter_map(|layer| Some(&layer.attention.as_ref()?.kv))
    }

    /// The same, to write.
    pub(crate) fn all_kv(&mut self) -> impl Iterator<Item = &mut KvBlocks> {
        let layers = self.layers.iter_mut();
        layers.filter_map(|layer| Some(&mut layer.attention.as_mut()?.kv))
    }

    /// What the heads here add to the hidden state; nothing without heads. `key`: what a cloud prompt
    /// is called here.
    ///
    /// # Shapes
    /// `input` and the result: `[token, hidden]`.
    ///
    /// # Errors
    /// [`OrderError`] if a cloud prompt's keys and values are not here.
    pub(crate) fn heads<P: Prefix>(
        &mut self,
        layer: LayerIndex,
        input: Tensor<2>,
        plan: &PassPlan<P>,
        key: impl Fn(&P) -> Option<PrefixKey>,
    ) -> Result<Option<Tensor<2>>, OrderError> {
        let mut views = Vec::new();
        for prefix in plan.prefixes() {
            let key = key(prefix).ok_or(OrderError::NoPrefix)?;
            if !self.layers[layer.as_usize()].heads.is_empty() {
                views.push((prefix.clone(), self.prefix(key, layer)?));
            }
        }
        let here = &mut self.layers[layer.as_usize()];
        let Some(HeadsHere { weights, kv }) = &mut here.attention else {
            return Ok(None);
        };
        let qkv = weights.project(input, plan.rotary());
        kv.write(plan.places(), &qkv.k, &qkv.v);
        let view = |prefix: &P| {
            let found = views.iter().find(|(other, _)| other.is_same(prefix));
            found.map(|(_, view)| view.clone())
        };
        let attended = plan.attend(&qkv.q, kv, view);
        Ok(Some(weights.output(attended)))
    }

    /// What the slices here add to the hidden state; nothing without slices.
    ///
    /// # Shapes
    /// `input` and the result: `[token, hidden]`.
    pub(crate) fn feed_forward(&self, layer: LayerIndex, input: Tensor<2>) -> Option<Tensor<2>> {
        let here = self.layers[layer.as_usize()].feed_forward.as_ref();
        here.map(|part| part.forward(input))
    }

    /// Adds keys and values of a cloud prompt for some heads that are or will be here.
    ///
    /// # Shapes
    /// `view`: `[head, token, head_dim]`
    pub(crate) fn add_prefix(
        &mut self,
        (key, layer): (PrefixKey, LayerIndex),
        heads: &[usize],
        view: KvView,
    ) {
        // What comes again is the same, and takes its place.
        self.drop_prefix((key, layer), |head| heads.contains(&head));
        let here = &self.layers[layer.as_usize()].heads;
        let is_here = |place: &usize| here.contains(&heads[*place]);
        let (now, ahead): (Vec<_>, Vec<_>) = (0..heads.len()).partition(is_here);
        for place in &ahead {
            let view = pick(&view, &[*place]);
            let place = (key, layer.0, heads[*place]);
            self.prefixes_ahead.insert(place, view);
        }
        let view = match ahead.is_empty() {
            true => view,
            false if now.is_empty() => return,
            false => pick(&view, &now),
        };
        let added = PrefixHere {
            heads: now.iter().map(|place| heads[*place]).collect(),
            view,
        };
        let place = (key, layer.0);
        let all = match self.prefixes.remove(&place) {
            None => added,
            Some(before) => {
                let both = |a: Tensor<3>, b: Tensor<3>| Tensor::cat(vec![a, b], 0);
                PrefixHere {
                    heads: [before.heads, added.heads].concat(),
                    view: KvView {
                        keys: both(before.view.keys, added.view.keys),
                        values: both(before.view.values, added.view.values),
                    },
                }
            }
        };
        self.prefixes.insert(place, all);
    }

    /// Gives a cloud prompt up.
    pub(crate) fn forget(&mut self, key: PrefixKey) {
        self.prefixes.retain(|(other, _), _| *other != key);
        self.prefixes_ahead.retain(|(other, ..), _| *other != key);
    }

    /// The heads of a layer for which a cloud prompt is here.
    pub(crate) fn prefix_heads(&self, key: PrefixKey, layer: LayerIndex) -> &[usize] {
        let found = self.prefixes.get(&(key, layer.0));
        found.map_or(&[], |prefix| &prefix.heads)
    }

    /// The heads of a layer that are here.
    pub(crate) fn head_list(&self, layer: LayerIndex) -> &[usize] {
        &self.layers[layer.as_usize()].heads
    }

    /// Whether a job is here.
    pub(crate) fn has(&self, layer: LayerIndex, job: Job) -> bool {
        let here = &self.layers[layer.as_usize()];
        match job {
            Job::Head(head) => here.heads.contains(&head),
            Job::Slice(slice) => here.slices.contains(&slice),
        }
    }

    /// Heads and slices that are here, of all layers together.
    pub fn job_counts(&self) -> (usize, usize) {
        let layers = self.layers.iter();
        layers.fold((0, 0), |(heads, slices), layer| {
            (heads + layer.heads.len(), slices + layer.slices.len())
        })
    }

    /// A cloud prompt's keys and values for the heads here, in their order.
    fn prefix(&mut self, key: PrefixKey, layer: LayerIndex) -> Result<KvView, OrderError> {
        let wanted = &self.layers[layer.as_usize()].heads;
        let found = self.prefixes.get_mut(&(key, layer.0));
        let found = found.ok_or(OrderError::NoPrefix)?;
        if found.heads != *wanted {
            let places = wanted.iter().map(|head| {
                let place = found.heads.iter().position(|other| other == head);
                place.ok_or(OrderError::NoPrefix)
            });
            let places = places.collect::<Result<Vec<_>, _>>()?;
            *found = PrefixHere {
                heads: wanted.clone(),
                view: pick(&found.view, &places),
            };
        }
        Ok(found.view.clone())
    }

    /// Bytes of what is here and on its way: weights, blocks of keys and values, cloud prompts.
    pub fn bytes(&self) -> u64 {
        let jobs = self.jobs().map(|job| self.job_bytes(job));
        let prefixes = self.prefix_views().map(|view| {
            let numbers = 2 * view.keys.dims().iter().product::<usize>();
            (numbers * size_of::<f32>()) as u64
        });
        let all = jobs.chain(prefixes);
        all.fold(0, u64::saturating_add)
    }

    fn prefix_views(&self) -> impl Iterator<Item = &KvView> {
        let here = self.prefixes.values().map(|it| &it.view);
        here.chain(self.prefixes_ahead.values())
    }

    /// What is here and on its way.
    fn jobs(&self) -> impl Iterator<Item = Job> + '_ {
        let jobs = self.layers.iter().flat_map(|layer| {
            let heads = layer.heads.iter().map(|head| Job::Head(*head));
            heads.chain(layer.slices.iter().map(|slice| Job::Slice(*slice)))
        });
        jobs.chain(self.staged.keys().map(|(_, job)| *job))
    }

    fn job_bytes(&self, job: Job) -> u64 {
        let weights = self.shape.weight_bytes(job);
        weights.saturating_add(self.shape.state_bytes(job))
    }

    /// Whether there is room for so many bytes more.
    fn check_room(&self, more: u64) -> Result<(), OrderError> {
        let asked_bytes = self.bytes().saturating_add(more);
        match asked_bytes <= self.bytes_max {
            true => Ok(()),
            false => Err(OrderError::Memory {
                asked_bytes,
                lent_bytes: self.bytes_max,
            }),
        }
    }
}

/// Some heads of a view.
pub(crate) fn pick(view: &KvView, heads: &[usize]) -> KvView {
    let of_heads = |tensor: &Tensor<3>| {
        let picked = heads.iter().map(|head| tensor.clone().narrow(0, *head, 1));
        Tensor::cat(picked.collect(), 0)
    };
    KvView {
        keys: of_heads(&view.keys),
        values: of_heads(&view.values),
    }
}
