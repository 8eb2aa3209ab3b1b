//! What a graphics processor is called that a run computes on. Read from the driver's files: no other
//! program is asked, and no library is needed where there is none.

use std::collections::BTreeSet;
use std::path::Path;

use edgeprompt_model::ComputeDevice;

/// Where NVIDIA's driver says what it drives: a folder for each, with a file of keys and values.
const NVIDIA: &str = "/proc/driver/nvidia/gpus";

/// The devices other than the processor, with the names of those that the system knows; nothing where
/// only the processor computes.
pub(super) fn names(devices: &[ComputeDevice]) -> Option<String> {
    names_by(devices, Path::new(NVIDIA))
}

fn names_by(devices: &[ComputeDevice], nvidia: &Path) -> Option<String> {
    let name = |device: &ComputeDevice| match device {
        ComputeDevice::Flex => None,
        // Which of several it took is known to the graphics library alone.
        ComputeDevice::Wgpu => Some(device.to_string()),
        ComputeDevice::Cuda => {
            let models = nvidia_models(nvidia);
            Some(match models.is_empty() {
                true => device.to_string(),
                false => format!("{device}: {}", models.join(" or ")),
            })
        }
    };
    let names: BTreeSet<_> = devices.iter().filter_map(name).collect();
    let names: Vec<_> = names.into_iter().collect();
    (!names.is_empty()).then(|| names.join(", "))
}

/// Each model once: a machine mostly has several of one.
fn nvidia_models(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let models = entries.filter_map(|entry| {
        let text = std::fs::read_to_string(entry.ok()?.path().join("information")).ok()?;
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(model.trim().to_owned())
    });
    models.collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_the_processor_is_named() {
        use ComputeDevice::{Cuda, Flex, Wgpu};
        let driver = tempfile::tempdir().unwrap();
        let name = |devices: &[ComputeDevice]| names_by(devices, driver.path());
        assert_eq!(name(&[Flex, Flex]), None);
        assert_eq!(name(&[Flex, Wgpu]).as_deref(), Some("wgpu"));
        assert_eq!(name(&[Cuda]).as_deref(), Some("cuda"));
        for (folder, model) in [("0000:17:00.0", "H200"), ("0000:65:00.0", "H200")] {
            let folder = driver.path().join(folder);
            std::fs::create_dir(&folder).unwrap();
            let text = format!("Model: \t\t NVIDIA {model}\nIRQ:   \t\t 9\n");
            std::fs::write(folder.join("information"), text).unwrap();
        }
        std::fs::create_dir(driver.path().join("none")).unwrap();
        let both = name(&[Wgpu, Cuda, Cuda]);
        assert_eq!(both.as_deref(), Some("cuda: NVIDIA H200, wgpu"));
    }
}
