//! How many bits the keys and values of one token have.

use super::number::{InvalidNumber, positive};

/// Shape of a model's keys and values, and how they are written on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KvShape {
    /// Layers.
    pub layer_count: u32,
    /// KV heads of a layer.
    pub kv_head_count: u32,
    /// Elements of a head's key, and of its value.
    pub head_dim: u32,
    /// Bits of an element; a fraction where scales are shared, as in quantised formats.
    pub element_bits: f64,
}

/// s_KV: bits of the keys and values of one token over all layers.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct KvTokenBits(f64);

impl KvTokenBits {
    /// Of a model's shape: 2 · layers · KV heads · head dimension · bits (ctHO, below eq. 4).
    ///
    /// # Errors
    /// If a factor is 0, or the bits are no positive number.
    pub fn of_shape(shape: KvShape) -> Result<Self, InvalidNumber> {
        let element_bits = positive("bits of an element", shape.element_bits)?;
        let counts = [shape.layer_count, shape.kv_head_count, shape.head_dim];
        let elements: f64 = counts.into_iter().map(f64::from).product();
        positive("bits of a token", 2.0 * elements * element_bits).map(Self)
    }

    /// Of what a token took on the wire, everything around it included.
    ///
    /// # Errors
    /// If it is no positive number.
    pub fn of_measured_bytes(bytes_per_token: f64) -> Result<Self, InvalidNumber> {
        positive("bytes of a token", bytes_per_token)?;
        positive("bits of a token", 8.0 * bytes_per_token).map(Self)
    }

    /// Bits of so many tokens.
    pub(crate) fn of_tokens(self, token_count: u32) -> f64 {
        self.0 * f64::from(token_count)
    }

    /// The number.
    pub const fn bits(self) -> f64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_the_papers_model_has_458_752_bits() {
        let shape = KvShape {
            layer_count: 28,
            kv_head_count: 4,
            head_dim: 128,
            element_bits: 16.0,
        };
        let bits = KvTokenBits::of_shape(shape).unwrap();
        assert_eq!(bits.bits(), 458_752.0);
        assert_eq!(KvTokenBits::of_measured_bytes(57_344.0), Ok(bits));
        // The paper's mean context, as it says: 176 MB.
        assert_eq!((bits.of_tokens(3072) / 8e6).round(), 176.0);
    }

    #[test]
    fn what_is_no_size_is_refused() {
        let shape = |layer_count, element_bits| KvShape {
            layer_count,
            kv_head_count: u32::MAX,
            head_dim: u32::MAX,
            element_bits,
        };
        for (layers, bits) in [
            (0, 16.0),
            (1, 0.0),
            (1, f64::NAN),
            (1, -1.0),
            (u32::MAX, 16.0),
        ] {
            assert!(
                KvTokenBits::of_shape(shape(layers, bits)).is_err(),
                "{layers} {bits}"
            );
        }
        assert!(KvTokenBits::of_measured_bytes(f64::INFINITY).is_err());
    }
}
