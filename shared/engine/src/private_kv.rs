//! Keys and values of one sequence's private tokens. They never leave the node through this type.

use burn::tensor::{Device, Tensor};
use edgeprompt_attention::KvView;
use edgeprompt_kv::{KvGeometry, LayerIndex};

/// Token slots a layer starts with; doubled whenever they run out.
const CAPACITY_MIN: usize = 64;

/// The private KV of one sequence, layer by layer.
///
/// Deliberately neither `Debug` nor serialisable: private KV counts as private text, and the same
/// holds for whatever contains it.
pub struct PrivateKv {
    layers: Vec<LayerBuffer>,
}

struct LayerBuffer {
    /// `[kv_head, capacity, head_dim]`, the first `len` tokens of it written.
    keys: Tensor<3>,
    values: Tensor<3>,
    len: usize,
}

impl PrivateKv {
    /// No tokens yet.
    pub fn empty(geometry: &KvGeometry, device: &Device) -> Self {
        let (heads, dim) = (geometry.kv_head_count(), geometry.head_dim());
        let buffer = || LayerBuffer::empty(heads, dim, device);
        Self {
            layers: (0..geometry.layer_count()).map(|_| buffer()).collect(),
        }
    }

    /// Tokens held by a layer. During a pass, earlier layers are ahead of later ones.
    pub fn len(&self, layer: LayerIndex) -> usize {
        self.layers[layer.as_usize()].len
    }

    /// Whether no layer holds a token.
    pub fn is_empty(&self) -> bool {
        self.layers.iter().all(|layer| layer.len == 0)
    }

    /// Appends the keys and values of new tokens to a layer.
    ///
    /// # Shapes
    /// `[kv_head, token, head_dim]`
    pub fn append(&mut self, layer: LayerIndex, new: KvView) {
        let buffer = &mut self.layers[layer.as_usize()];
        buffer.reserve(new.token_count());
        let [heads, count, dim] = new.keys.dims();
        let place = [0..heads, buffer.len..buffer.len + count, 0..dim];
        // Taken out so that the buffer is the only owner and is written in place.
        buffer
            .keys
            .inplace(|keys| keys.slice_assign(place.clone(), new.keys));
        buffer
            .values
            .inplace(|values| values.slice_assign(place, new.values));
        buffer.len += count;
    }

    /// Gives up the keys and values of a layer, which then holds no tokens.
    pub fn release(&mut self, layer: LayerIndex) {
        let buffer = &mut self.layers[layer.as_usize()];
        let [heads, _, dim] = buffer.keys.dims();
        *buffer = LayerBuffer::empty(heads, dim, &buffer.keys.device());
    }

    /// The keys and values of every token a layer holds.
    pub fn view(&self, layer: LayerIndex) -> KvView {
        let buffer = &self.layers[layer.as_usize()];
        KvView {
            keys: buffer.keys.clone().narrow(1, 0, buffer.len),
            values: buffer.values.clone().narrow(1, 0, buffer.len),
        }
    }
}

impl LayerBuffer {
    fn empty(heads: usize, dim: usize, device: &Device) -> Self {
        let shape = [heads, CAPACITY_MIN, dim];
        Self {
            keys: Tensor::zeros(shape, device),
            values: Tensor::zeros(shape, device),
            len: 0,
        }
    }

    fn reserve(&mut self, count: usize) {
        let [heads, capacity, dim] = self.keys.dims();
        let wanted = self.len + count;
        if wanted <= capacity {
            return;
        }
        let added = wanted.max(2 * capacity) - capacity;
        for tensor in [&mut self.keys, &mut self.values] {
            let more = Tensor::zeros([heads, added, dim], &tensor.device());
            tensor.inplace(|tensor| Tensor::cat(vec![tensor, more], 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_released_layer_holds_nothing_and_can_be_used_again() {
        let (device, geometry) = (Device::flex(), KvGeometry::new(2, 3, 4).unwrap());
        let mut kv = PrivateKv::empty(&geometry, &device);
        let new = || KvView {
            keys: Tensor::ones([3, 100, 4], &device),
            values: Tensor::ones([3, 100, 4], &device),
        };
        kv.append(LayerIndex(0), new());
        kv.append(LayerIndex(1), new());
        kv.release(LayerIndex(0));
        assert_eq!(kv.len(LayerIndex(0)), 0);
        assert_eq!(kv.layers[0].keys.dims(), [3, CAPACITY_MIN, 4]);
        assert_eq!(kv.len(LayerIndex(1)), 100, "other layers stay");
        kv.append(LayerIndex(0), new());
        assert_eq!(kv.view(LayerIndex(0)).token_count(), 100);
    }
}
