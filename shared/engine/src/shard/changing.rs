//! Jobs that come to a device and leave it.

use std::collections::BTreeMap;

use edgeprompt_attention::KvBlocks;
use edgeprompt_kv::LayerIndex;
use edgeprompt_model::{FeedForward, Heads};

use super::{HeadsHere, Job, LayerJobs, OrderError, PrefixHere, PrefixKey, Shard, Staged, pick};

impl Shard {
    /// Makes ready a job whose weights have come, or are cut from the model that is here.
    ///
    /// # Errors
    /// [`OrderError`] if there is neither.
    pub(crate) fn stage(
        &mut self,
        layer: LayerIndex,
        job: Job,
        numbers: Option<Vec<f32>>,
    ) -> Result<(), OrderError> {
        let (shape, device) = (&self.shape, &self.device);
        let own = self
            .model
            .as_ref()
            .map(|model| &model.decoder.layers()[layer.as_usize()]);
        let staged = match (job, numbers, own) {
            (Job::Head(_), Some(numbers), _) => {
                self.staged_head(Heads::from_numbers(&shape.head, numbers, device))
            }
            (Job::Head(head), None, Some(own)) => self.staged_head(own.heads().select(&[head])),
            (Job::Slice(index), Some(numbers), _) => {
                let size = [shape.head.hidden_dim, shape.slice(index).len()];
                Staged::Slice(Box::new(FeedForward::from_numbers(size, numbers, device)))
            }
            (Job::Slice(index), None, Some(own)) => {
                Staged::Slice(Box::new(own.feed_forward().select(&[shape.slice(index)])))
            }
            (_, None, None) => return Err(OrderError::NoWeights),
        };
        self.staged.insert((layer.0, job), staged);
        Ok(())
    }

    fn staged_head(&self, weights: Heads) -> Staged {
        Staged::Head(Box::new(HeadsHere {
            weights,
            kv: KvBlocks::zeros(self.shape.kv_shape(1), &self.device),
        }))
    }

    /// The weights of a job, cut from the model that is here.
    ///
    /// # Panics
    /// If the model is not here.
    pub(crate) fn weights(&self, layer: LayerIndex, job: Job) -> Vec<f32> {
        let model = self.model.as_ref().expect("a leader has the model");
        let weights = &model.decoder.layers()[layer.as_usize()];
        match job {
            Job::Head(head) => weights.heads().select(&[head]).to_numbers(),
            Job::Slice(index) => {
                let slice = self.shape.slice(index);
                weights.feed_forward().select(&[slice]).to_numbers()
            }
        }
    }

    /// Keys and values of some blocks of a head that is here.
    ///
    /// # Errors
    /// [`OrderError`] if it is not.
    pub(crate) fn take(
        &self,
        layer: LayerIndex,
        head: usize,
        blocks: &[usize],
    ) -> Result<Vec<f32>, OrderError> {
        let here = &self.layers[layer.as_usize()];
        let place = here.heads.iter().position(|other| *other == head);
        match (place, &here.attention) {
            (Some(place), Some(attention)) => Ok(attention.kv.take(place, blocks)),
            _ => Err(OrderError::NotHere),
        }
    }

    /// Puts keys and values into blocks of a head that is on its way here.
    ///
    /// # Errors
    /// [`OrderError`] if it is not.
    pub(crate) fn put(
        &mut self,
        layer: LayerIndex,
        head: usize,
        blocks: &[usize],
        numbers: &[f32],
    ) -> Result<(), OrderError> {
        match self.staged.get_mut(&(layer.0, Job::Head(head))) {
            Some(Staged::Head(staged)) if numbers.len() == staged.kv.number_count(blocks.len()) => {
                staged.kv.put(blocks, numbers);
                Ok(())
            }
            Some(Staged::Head(_)) => Err(OrderError::Length),
            Some(Staged::Slice(_)) | None => Err(OrderError::NotHere),
        }
    }

    /// From now on these are the jobs of a layer here: those that stay and those that are staged.
    ///
    /// # Errors
    /// [`OrderError`] if one is neither; nothing is changed then.
    pub(crate) fn switch(&mut self, jobs: &LayerJobs) -> Result<(), OrderError> {
        let layer = LayerIndex(u32::try_from(jobs.layer).map_err(|_| OrderError::OutOfRange)?);
        let here = &self.layers[jobs.layer];
        let is_staged = |job: Job| self.staged.contains_key(&(layer.0, job));
        let heads = jobs.heads.iter();
        let slices = jobs.slices.iter();
        let all_there = heads
            .clone()
            .all(|head| here.heads.contains(head) || is_staged(Job::Head(*head)))
            && slices
                .clone()
                .all(|slice| here.slices.contains(slice) || is_staged(Job::Slice(*slice)));
        if !all_there {
            return Err(OrderError::NotHere);
        }
        if here.heads != jobs.heads {
            self.switch_heads(layer, &jobs.heads);
        }
        if self.layers[jobs.layer].slices != jobs.slices {
            self.switch_slices(layer, &jobs.slices);
        }
        Ok(())
    }

    /// Those of a layer's jobs that have come, by their indices.
    fn take_staged<T>(
        &mut self,
        layer: LayerIndex,
        (indices, job): (&[usize], fn(usize) -> Job),
        part: fn(Staged) -> Option<T>,
    ) -> BTreeMap<usize, T> {
        let taken = indices.iter().filter_map(|index| {
            let staged = self.staged.remove(&(layer.0, job(*index)))?;
            Some((*index, part(staged)?))
        });
        taken.collect()
    }

    fn switch_heads(&mut self, layer: LayerIndex, heads: &[usize]) {
        let here = &mut self.layers[layer.as_usize()];
        let before = std::mem::replace(&mut here.heads, heads.to_vec());
        let attention = here.attention.take();
        let coming = self.take_staged(layer, (heads, Job::Head), Staged::head);
        let picked = heads.iter().map(|head| {
            let place = before.iter().position(|other| other == head);
            match (place, &attention) {
                (Some(place), Some(attention)) => (attention, place),
                _ => (&coming[head], 0),
            }
        });
        let picked: Vec<_> = picked.collect();
        let blocks: Vec<_> = picked.iter().map(|(it, place)| (&it.kv, *place)).collect();
        let parts: Vec<_> = picked
            .iter()
            .map(|(it, place)| (&it.weights, *place))
            .collect();
        let is_whole = heads.iter().copied().eq(0..self.shape.kv_head_count);
        let own = self.model.as_ref().filter(|_| is_whole);
        let attention = (!heads.is_empty()).then(|| HeadsHere {
            weights: match own {
                // They are there as they are: nothing is copied.
                Some(model) => model.decoder.layers()[layer.as_usize()].heads().clone(),
                None => Heads::of(&parts),
            },
            kv: KvBlocks::gather_heads(&blocks),
        });
        self.layers[layer.as_usize()].attention = attention;
        self.keep_prefixes(layer, heads);
    }

    /// Gives up what is here of cloud prompts for other heads than these, which are those here now.
    fn keep_prefixes(&mut self, layer: LayerIndex, heads: &[usize]) {
        let keys = self.prefixes.keys().filter(|(_, other)| *other == layer.0);
        let keys: Vec<_> = keys.map(|(key, _)| *key).collect();
        for key in keys {
            self.drop_prefix((key, layer), |head| !heads.contains(&head));
        }
        let ahead = &mut self.prefixes_ahead;
        let ahead = ahead.extract_if(.., |(_, other, _), _| *other == layer.0);
        let ahead: Vec<_> = ahead.collect();
        for ((key, _, head), view) in ahead {
            if heads.contains(&head) {
                self.add_prefix((key, layer), &[head], view);
            }
        }
    }

    /// Gives up what is here of a cloud prompt for some heads.
    pub(super) fn drop_prefix(
        &mut self,
        (key, layer): (PrefixKey, LayerIndex),
        is_of_no_use: impl Fn(usize) -> bool,
    ) {
        let Some(prefix) = self.prefixes.get_mut(&(key, layer.0)) else {
            return;
        };
        let stays = |place: &usize| !is_of_no_use(prefix.heads[*place]);
        let places: Vec<_> = (0..prefix.heads.len()).filter(stays).collect();
        if places.is_empty() {
            self.prefixes.remove(&(key, layer.0));
        } else if places.len() < prefix.heads.len() {
            *prefix = PrefixHere {
                heads: places.iter().map(|place| prefix.heads[*place]).collect(),
                view: pick(&prefix.view, &places),
            };
        }
    }

    fn switch_slices(&mut self, layer: LayerIndex, slices: &[usize]) {
        let here = &mut self.layers[layer.as_usize()];
        let before = std::mem::replace(&mut here.slices, slices.to_vec());
        let whole = here.feed_forward.take();
        let coming = self.take_staged(layer, (slices, Job::Slice), Staged::slice);
        let width = |slice: usize| self.shape.slice(slice).len();
        let is_whole = slices.iter().copied().eq(0..self.shape.slice_count);
        let own = self.model.as_ref().filter(|_| is_whole);
        let parts = slices.iter().map(|slice| {
            let place = before.iter().position(|other| other == slice);
            match (place, &whole) {
                (Some(place), Some(whole)) => {
                    let start: usize = before[..place].iter().map(|other| width(*other)).sum();
                    (whole, start..start + width(*slice))
                }
                _ => (&coming[slice], 0..width(*slice)),
            }
        });
        let feed_forward = match own {
            Some(model) => {
                let layer = &model.decoder.layers()[layer.as_usize()];
                Some(layer.feed_forward().clone())
            }
            None if slices.is_empty() => None,
            None => Some(FeedForward::of(&parts.collect::<Vec<_>>())),
        };
        self.layers[layer.as_usize()].feed_forward = feed_forward;
    }

    /// Overwrites keys and values of blocks, of heads that are here and of those on their way.
    pub(crate) fn wipe(&mut self, blocks: &[usize]) {
        for kv in self.all_kv() {
            kv.wipe(blocks);
        }
        for staged in self.staged.values_mut() {
            if let Staged::Head(staged) = staged {
                staged.kv.wipe(blocks);
            }
        }
    }

    /// Gives up what is on its way here, cloud prompts for it included.
    pub(crate) fn unstage(&mut self) {
        self.staged.clear();
        for layer in (0..self.shape.layer_count).filter_map(|it| u32::try_from(it).ok()) {
            let heads = self.layers[layer as usize].heads.clone();
            self.keep_prefixes(LayerIndex(layer), &heads);
        }
    }
}
