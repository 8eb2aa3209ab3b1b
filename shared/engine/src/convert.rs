//! Between the bytes of a layer on the wire and the tensors attention reads.

use burn::tensor::{Device, Tensor, TensorData};
use bytes::Bytes;
use edgeprompt_attention::KvView;
use edgeprompt_kv::{KvDtype, KvGeometry, LayerError, LayerKv};
use half::f16;

/// The tensors of a layer's payload, as f32.
///
/// # Shapes
/// Keys and values: `[kv_head, token, head_dim]`.
pub fn view_from_layer(layer: &LayerKv, geometry: &KvGeometry, device: &Device) -> KvView {
    let shape = [
        geometry.kv_head_count(),
        layer.token_count(),
        geometry.head_dim(),
    ];
    let tensor = |bytes: &[u8]| {
        let numbers: Vec<f32> = match layer.dtype() {
            KvDtype::F32 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b))
                .collect(),
            KvDtype::F16 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|b| f16::from_le_bytes(*b).to_f32())
                .collect(),
        };
        Tensor::from_data(TensorData::new(numbers, shape), device)
    };
    KvView {
        keys: tensor(layer.keys()),
        values: tensor(layer.values()),
    }
}

/// The payload of a layer's tensors in a wire format.
///
/// # Errors
/// [`LayerError::Length`] if the tensors do not have the geometry's shape.
pub fn layer_from_view(
    view: &KvView,
    geometry: &KvGeometry,
    dtype: KvDtype,
) -> Result<LayerKv, LayerError> {
    let token_count = view.token_count();
    let mut payload = Vec::with_capacity(geometry.layer_bytes(token_count, dtype));
    for tensor in [&view.keys, &view.values] {
        let numbers: Vec<f32> = tensor
            .to_data()
            .try_to_vec()
            .expect("the decoder computes in f32");
        match dtype {
            KvDtype::F32 => payload.extend(numbers.iter().flat_map(|n| n.to_le_bytes())),
            KvDtype::F16 => {
                payload.extend(numbers.iter().flat_map(|n| f16::from_f32(*n).to_le_bytes()));
            }
        }
    }
    LayerKv::new(Bytes::from(payload), geometry, token_count, dtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Distribution;

    #[test]
    fn a_layer_survives_the_wire() {
        let (device, geometry) = (Device::flex(), KvGeometry::new(1, 2, 4).unwrap());
        let random = || Tensor::random([2, 3, 4], Distribution::Normal(0.0, 1.0), &device);
        let view = KvView {
            keys: random(),
            values: random(),
        };
        for (dtype, tolerance) in [(KvDtype::F32, 0.0), (KvDtype::F16, 2e-3)] {
            let layer = layer_from_view(&view, &geometry, dtype).unwrap();
            let back = view_from_layer(&layer, &geometry, &device);
            let difference: f32 = (back.keys - view.keys.clone()).abs().max().into_scalar();
            assert!(difference <= tolerance, "{dtype:?}: {difference}");
        }
    }
}
