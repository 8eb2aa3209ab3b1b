//! Jobs that come to a device and leave it.

use edgeprompt_attention::KvBlocks;
use edgeprompt_kv::LayerIndex;
use edgeprompt_model::{FeedForward, Heads};

use super::{HeadsHere, Job, LayerJobs, OrderError, Shard, Staged, pick};

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

    fn switch_heads(&mut self, layer: LayerIndex, heads: &[usize]) {
        let here = &mut self.layers[layer.as_usize()];
        let before = std::mem::replace(&mut here.heads, heads.to_vec());
        let attention = here.attention.take();
        let (mut weights, mut blocks) = (Vec::new(), Vec::new());
        for head in heads {
            let staged = self.staged.remove(&(layer.0, Job::Head(*head)));
            let place = before.iter().position(|other| other == head);
            match (staged, place, &attention) {
                (_, Some(place), Some(attention)) => {
                    weights.push(attention.weights.select(&[place]));
                    blocks.push(attention.kv.select_heads(&[place]));
                }
                (Some(Staged::Head(staged)), _, _) => {
                    weights.push(staged.weights);
                    blocks.push(staged.kv);
                }
                _ => unreachable!("looked for before"),
            }
        }
        here.attention = (!heads.is_empty()).then(|| HeadsHere {
            weights: Heads::concat(&weights),
            kv: KvBlocks::concat_heads(blocks),
        });
        self.drop_prefixes(layer, heads);
    }

    /// Gives up what is here of cloud prompts for other heads than these.
    fn drop_prefixes(&mut self, layer: LayerIndex, heads: &[usize]) {
        self.prefixes.retain(|(_, other), prefix| {
            if *other == layer.0 {
                let stays = |place: &usize| heads.contains(&prefix.heads[*place]);
                let places: Vec<_> = (0..prefix.heads.len()).filter(stays).collect();
                if !places.is_empty() && places.len() < prefix.heads.len() {
                    prefix.view = pick(&prefix.view, &places);
                }
                prefix.heads.retain(|head| heads.contains(head));
            }
            !prefix.heads.is_empty()
        });
    }

    fn switch_slices(&mut self, layer: LayerIndex, slices: &[usize]) {
        let widths: Vec<_> = (0..self.shape.slice_count)
            .map(|index| self.shape.slice(index).len())
            .collect();
        let here = &mut self.layers[layer.as_usize()];
        let before = std::mem::replace(&mut here.slices, slices.to_vec());
        let whole = here.feed_forward.take();
        let mut parts = Vec::new();
        for slice in slices {
            let staged = self.staged.remove(&(layer.0, Job::Slice(*slice)));
            let place = before.iter().position(|other| other == slice);
            match (staged, place, &whole) {
                (_, Some(place), Some(whole)) => {
                    let start: usize = before[..place].iter().map(|other| widths[*other]).sum();
                    let part = start..start + widths[*slice];
                    parts.push(whole.select(std::slice::from_ref(&part)));
                }
                (Some(Staged::Slice(staged)), _, _) => parts.push(*staged),
                _ => unreachable!("looked for before"),
            }
        }
        here.feed_forward = (!parts.is_empty()).then(|| FeedForward::concat(&parts));
    }

    /// Gives up what is on its way here.
    pub(crate) fn unstage(&mut self) {
        self.staged.clear();
    }
}
