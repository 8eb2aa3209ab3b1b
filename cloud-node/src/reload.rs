//! Reading the folder of cloud prompts again while the cloud serves. No link is touched: edges notice
//! when they next ask for the list of names.

use std::path::PathBuf;
use std::sync::Arc;

use crate::compute::PromptComputer;
use crate::library::{PromptLibrary, Read, ServedLibrary};

/// What it takes to read the prompts again.
pub struct Reloader {
    /// Where they are.
    pub folder: PathBuf,
    /// What computes them, which says how long they may be.
    pub computer: Arc<PromptComputer>,
    /// Where they are served from.
    pub library: ServedLibrary,
}

/// How one library differs from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Difference {
    added: usize,
    changed: usize,
    removed: usize,
}

impl Reloader {
    /// Serves what the folder has now, and says in the log what has changed and what is wrong. Takes
    /// as long as tokenising what has changed: nothing for an async thread.
    pub fn reload(&self) {
        let before = self.library.now();
        let (model, limit) = (self.computer.model(), self.computer.limit());
        let Read { library, problems } = before.read_again(&self.folder, model, &limit);
        for error in problems {
            tracing::error!(%error, "the cloud prompt stays as it was, if there was one");
        }
        let Difference {
            added,
            changed,
            removed,
        } = difference(&before, &library);
        let prompts = library.len();
        self.library.replace(library);
        tracing::info!(prompts, added, changed, removed, "cloud prompts read again");
    }
}

fn difference(before: &PromptLibrary, after: &PromptLibrary) -> Difference {
    let mut difference = Difference::default();
    for (name, prompt) in after.iter() {
        match before.get(name) {
            None => difference.added += 1,
            Some(earlier) if earlier.id != prompt.id => difference.changed += 1,
            Some(_) => {}
        }
    }
    let gone = before.iter().filter(|(name, _)| after.get(name).is_none());
    difference.removed = gone.count();
    difference
}

#[cfg(test)]
mod tests {
    use std::fs;

    use edgeprompt_model::{ComputeDevice, Model};

    use super::*;

    #[test]
    fn what_changed_is_served_and_what_cannot_be_read_stays() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &[u8]| fs::write(dir.path().join(file), text).unwrap();
        write("same.txt", b"The same.");
        write("edited.txt", b"Before.");
        write("broken.txt", b"Whole.");
        write("doubled.txt", b"One.");
        write("removed.txt", b"Not for long.");
        let device = ComputeDevice::default().open().unwrap();
        let model = Arc::new(Model::demo(&device).unwrap());
        let computer = PromptComputer::start(model, 1 << 20);
        let (folder, limit) = (dir.path().to_owned(), computer.limit());
        let first = PromptLibrary::open(&folder, computer.model(), &limit).unwrap();
        let library = ServedLibrary::from(first.clone());
        let reloader = Reloader {
            folder,
            computer,
            library: library.clone(),
        };
        write("edited.txt", b"After.");
        write("broken.txt", b"\xff");
        write("doubled.md", b"Two.");
        write("new.txt", b"New.");
        write("endless.txt", "The plan. ".repeat(600).as_bytes());
        write("no name!.txt", b"Nameless.");
        fs::remove_file(dir.path().join("removed.txt")).unwrap();
        reloader.reload();
        let now = library.now();
        let texts: Vec<_> = now
            .iter()
            .map(|(name, prompt)| (name.as_str(), &*prompt.text))
            .collect();
        let expected = [
            ("broken", "Whole."),
            ("doubled", "One."),
            ("edited", "After."),
            ("new", "New."),
            ("same", "The same."),
        ];
        assert_eq!(texts, expected);
        let expected = Difference {
            added: 1,
            changed: 1,
            removed: 1,
        };
        assert_eq!(difference(&first, &now), expected);
        // Without the folder nothing is known to be gone.
        drop(dir);
        reloader.reload();
        assert_eq!(library.now().len(), 5);
    }
}
