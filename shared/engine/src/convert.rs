//! Between the bytes of a layer on the wire and the tensors attention reads.

use burn::tensor::{Device, Tensor, TensorData};
use edgeprompt_attention::KvView;
use edgeprompt_kv::{KvDtype, KvGeometry, LayerError, LayerKv};

/// Why the tensors of a layer cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The bytes are those that were sent, but attention over them gives NaN: the sender's numbers
    /// overflowed, or it lies.
    #[error("{count} of {total} numbers of a layer are not finite")]
    NotFinite {
        /// Infinities and NaNs among keys and values.
        count: usize,
        /// Keys and values in all.
        total: usize,
    },
}

/// The tensors of a layer's payload, as f32, whatever the numbers.
///
/// For a layer of this node's own making; one from the network goes through
/// [`checked_view_from_layer`].
///
/// # Shapes
/// Keys and values: `[kv_head, token, head_dim]`.
pub fn view_from_layer(layer: &LayerKv, geometry: &KvGeometry, device: &Device) -> KvView {
    let [keys, values] = layer.decode();
    view(keys, values, geometry, device)
}

/// The tensors of a layer's payload, as f32, all of them finite.
///
/// # Shapes
/// Keys and values: `[kv_head, token, head_dim]`.
///
/// # Errors
/// [`ViewError::NotFinite`] if a number is infinite or NaN.
pub fn checked_view_from_layer(
    layer: &LayerKv,
    geometry: &KvGeometry,
    device: &Device,
) -> Result<KvView, ViewError> {
    let [keys, values] = layer.decode();
    let count = not_finite_count(&keys) + not_finite_count(&values);
    if count > 0 {
        let total = keys.len() + values.len();
        return Err(ViewError::NotFinite { count, total });
    }
    Ok(view(keys, values, geometry, device))
}

/// Looks at every number, with no early end, so that the compiler takes many at a time.
fn not_finite_count(numbers: &[f32]) -> usize {
    numbers.iter().filter(|n| !n.is_finite()).count()
}

fn view(keys: Vec<f32>, values: Vec<f32>, geometry: &KvGeometry, device: &Device) -> KvView {
    let (heads, dim) = (geometry.kv_head_count(), geometry.head_dim());
    let tensor = |numbers: Vec<f32>| {
        let shape = [heads, numbers.len() / (heads * dim), dim];
        Tensor::from_data(TensorData::new(numbers, shape), device)
    };
    KvView {
        keys: tensor(keys),
        values: tensor(values),
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
    let [keys, values] = [&view.keys, &view.values].map(|tensor| {
        let numbers: Vec<f32> = tensor
            .to_data()
            .try_to_vec()
            .expect("the decoder computes in f32");
        numbers
    });
    LayerKv::encode([&keys, &values], geometry, dtype)
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
        for (dtype, tolerance) in [
            (KvDtype::F32, 0.0),
            (KvDtype::F16, 2e-3),
            (KvDtype::Bf16, 2e-2),
        ] {
            let layer = layer_from_view(&view, &geometry, dtype).unwrap();
            let back = view_from_layer(&layer, &geometry, &device);
            let difference: f32 = (back.keys - view.keys.clone()).abs().max().into_scalar();
            assert!(difference <= tolerance, "{dtype:?}: {difference}");
        }
    }

    #[test]
    fn a_layer_with_one_number_not_finite_is_refused() {
        let (device, geometry) = (Device::flex(), KvGeometry::new(1, 2, 4).unwrap());
        let layer = |numbers: &[f32], dtype| {
            let tensor = |numbers: &[f32]| {
                Tensor::from_data(TensorData::new(numbers.to_vec(), [2, 1, 4]), &device)
            };
            let view = KvView {
                keys: tensor(&numbers[..8]),
                values: tensor(&numbers[8..]),
            };
            layer_from_view(&view, &geometry, dtype).unwrap()
        };
        let checked = |numbers: &[f32], dtype| {
            checked_view_from_layer(&layer(numbers, dtype), &geometry, &device).map(|_| ())
        };
        for dtype in [KvDtype::F32, KvDtype::F16] {
            assert_eq!(checked(&[1.0; 16], dtype), Ok(()));
            for place in 0..16 {
                for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut numbers = [1.0; 16];
                    numbers[place] = wrong;
                    let expected = ViewError::NotFinite {
                        count: 1,
                        total: 16,
                    };
                    assert_eq!(checked(&numbers, dtype), Err(expected));
                }
            }
        }
        // Finite in f32, but beyond the 65504 that f16 reaches.
        assert!(checked(&[1e5; 16], KvDtype::F16).is_err());
    }
}
