//! Work of a known size, by which a device's speed is measured before it has anything else to do.

use burn::tensor::{Device, Tensor};
use edgeprompt_model::FeedForward;

/// Width of the hidden state and of the networks that are computed, and how many networks: 144 MiB, so
/// that weights come from memory as those of models do, and from no cache.
const HIDDEN_DIM: usize = 768;
const WIDTH: usize = 2048;
const NETWORK_COUNT: usize = 8;

/// Feed-forward networks and one token for them, as when a sequence generates.
pub struct SpeedProbe {
    networks: Vec<FeedForward>,
    input: Tensor<2>,
}

impl SpeedProbe {
    /// On a device.
    pub fn new(device: &Device) -> Self {
        let network = |_| {
            let numbers = vec![0.01; FeedForward::number_count(HIDDEN_DIM, WIDTH)];
            FeedForward::from_numbers([HIDDEN_DIM, WIDTH], numbers, device)
        };
        Self {
            networks: (0..NETWORK_COUNT).map(network).collect(),
            input: Tensor::ones([1, HIDDEN_DIM], device),
        }
    }

    /// Floating-point operations of one run.
    pub const fn flops() -> usize {
        2 * NETWORK_COUNT * FeedForward::number_count(HIDDEN_DIM, WIDTH)
    }

    /// Computes, and waits for the result.
    pub fn run(&self) {
        for network in &self.networks {
            let output = network.forward(self.input.clone());
            // Asking for the numbers waits for them.
            drop(output.into_data());
        }
    }
}

/// Runs something among the threads that compute: handing each product over to them takes longer than
/// some products.
pub fn among_threads<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| work())
}
