//! The device a node computes on, by the name a user types.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;

/// A kind of device this program may have been built for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ComputeDevice {
    /// Pure-Rust CPU.
    #[default]
    Flex,
    /// Any GPU through Vulkan, Metal or DirectX.
    Wgpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No such device.
    #[error("{0:?} is not a device: use flex, wgpu or cuda")]
    Unknown(String),
    /// The program was built without it.
    #[error("this program was built without {0}: build it with `--features {0}`")]
    NotBuilt(ComputeDevice),
    /// This machine has no such device, or its driver does not work.
    #[error(
        "{0} cannot be used here: this machine has no such device, or its driver does not work"
    )]
    Unusable(ComputeDevice),
}

impl FromStr for ComputeDevice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "flex" => Ok(Self::Flex),
            "wgpu" => Ok(Self::Wgpu),
            "cuda" => Ok(Self::Cuda),
            other => Err(DeviceError::Unknown(other.to_owned())),
        }
    }
}

impl fmt::Display for ComputeDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flex => "flex",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        })
    }
}

impl ComputeDevice {
    /// The device itself.
    ///
    /// # Errors
    /// [`DeviceError::NotBuilt`] or [`DeviceError::Unusable`].
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => self.probed(|| Device::wgpu(burn::tensor::DeviceKind::default())),
            #[cfg(feature = "cuda")]
            Self::Cuda => self.probed(|| Device::cuda(0)),
            #[cfg(not(all(feature = "wgpu", feature = "cuda")))]
            missing => Err(DeviceError::NotBuilt(missing)),
        }
    }

    /// A device that has computed something: the libraries behind GPUs panic where there is none.
    #[cfg(any(feature = "wgpu", feature = "cuda", test))]
    fn probed(self, open: fn() -> Device) -> Result<Device, DeviceError> {
        // The panic is an answer here, not news for the user. Programs open their device before
        // they start other threads.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let probed = std::panic::catch_unwind(|| {
            let device = open();
            let sum = burn::tensor::Tensor::<1>::ones([2], &device).sum();
            let sum: Vec<f32> = sum.into_data().try_to_vec().unwrap_or_default();
            assert_eq!(sum, [2.0]);
            device
        });
        std::panic::set_hook(hook);
        probed.map_err(|_| DeviceError::Unusable(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_cannot_compute_is_an_error_and_no_panic() {
        assert!(ComputeDevice::Flex.probed(Device::flex).is_ok());
        let missing = ComputeDevice::Cuda.probed(|| panic!("no driver"));
        assert_eq!(
            missing.err(),
            Some(DeviceError::Unusable(ComputeDevice::Cuda))
        );
    }
}
