//! What is remembered comes back exactly or not at all, and never takes more room than it may.

use std::time::Duration;

use edgeprompt_kv::{KvDtype, LayerRange};
use edgeprompt_model::ComputeDevice;
use edgeprompt_protocol::{FetchId, KvSource};
use tempfile::TempDir;

use super::*;

const DOMAIN: &str = "d0";

struct Desk {
    dir: TempDir,
    model: Model,
    name: PromptName,
}

impl Desk {
    fn new() -> Self {
        let device = ComputeDevice::default().open().unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            model: Model::demo(&device).unwrap(),
            name: "shop.desk".parse().unwrap(),
        }
    }

    fn prompts(&self, domain: &str) -> RememberedPrompts {
        RememberedPrompts::new(self.dir.path(), domain, self.model.digest)
    }

    fn manifest(&self, text: &str) -> Manifest {
        let tokens = self.model.tokenizer().unwrap().encode(text).unwrap();
        Manifest {
            fetch: FetchId(0),
            prompt: PromptId::of(&self.model.digest, &tokens),
            model: self.model.digest,
            geometry: self.model.geometry,
            dtype: KvDtype::F32,
            layers: LayerRange::first(self.model.geometry.layer_count()),
            tokens,
            text: Some(text.to_owned()),
            source: KvSource::Stored,
        }
    }

    /// Keeps a prompt and gives its file.
    fn kept(&self, text: &str) -> PathBuf {
        let prompts = self.prompts(DOMAIN);
        let known = (&self.manifest(text)).into();
        prompts.keep(&self.name, &known).unwrap();
        prompts.path(&self.name)
    }

    fn recall(&self) -> Option<RememberedPrompt> {
        self.prompts(DOMAIN).recall(&self.name, &self.model)
    }
}

#[test]
fn a_prompt_comes_back_for_its_cloud_model_and_name_only() {
    let desk = Desk::new();
    let path = desk.kept("The jade plan costs 42 coins.");
    let manifest = desk.manifest("The jade plan costs 42 coins.");
    let expected = RememberedPrompt {
        tokens: manifest.tokens,
        text: manifest.text,
    };
    assert_eq!(desk.recall(), Some(expected));
    let other = desk.prompts("d1").recall(&desk.name, &desk.model);
    assert_eq!(other, None);
    let name = "shop".parse().unwrap();
    assert_eq!(desk.prompts(DOMAIN).recall(&name, &desk.model), None);
    let model = ModelDigest::new([1; 32]);
    let prompts = RememberedPrompts::new(desk.dir.path(), DOMAIN, model);
    assert_eq!(prompts.recall(&desk.name, &desk.model), None);
    let beside: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(beside.len(), 1, "no unfinished file stays");
}

#[test]
fn a_later_prompt_of_the_name_replaces_the_earlier_one() {
    let desk = Desk::new();
    desk.kept("The jade plan costs 42 coins.");
    desk.kept("The jade plan costs 43 coins.");
    let text = desk.recall().unwrap().text.unwrap();
    assert_eq!(text, "The jade plan costs 43 coins.");
}

#[test]
fn every_damaged_byte_is_noticed_and_the_file_put_aside() {
    let desk = Desk::new();
    let with_text = desk.manifest("The jade plan.");
    let without_text = Manifest {
        text: None,
        ..desk.manifest("The jade plan.")
    };
    for manifest in [with_text, without_text] {
        check_damage(&desk, &manifest);
    }
}

fn check_damage(desk: &Desk, manifest: &Manifest) {
    let prompts = desk.prompts(DOMAIN);
    prompts.keep(&desk.name, &manifest.into()).unwrap();
    let path = prompts.path(&desk.name);
    let whole = fs::read(&path).unwrap();
    let right = desk.recall().unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x15;
        fs::write(&path, damaged).unwrap();
        if let Some(recalled) = desk.recall() {
            assert_eq!(recalled, right, "byte {at}");
            continue;
        }
        assert!(!path.exists(), "byte {at}");
        assert!(path.with_extension(DAMAGED).exists(), "byte {at}");
    }
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(desk.recall(), None, "{len} bytes");
    }
    prompts.keep(&desk.name, &manifest.into()).unwrap();
    assert_eq!(desk.recall(), Some(right), "the next fetch heals it");
}

#[test]
fn what_is_not_of_the_model_is_not_used() {
    let desk = Desk::new();
    let check = |manifest: Manifest| {
        desk.prompts(DOMAIN)
            .keep(&desk.name, &(&manifest).into())
            .unwrap();
        desk.recall()
    };
    let with = |tokens: Vec<u32>, text: Option<&str>| {
        let tokens: Vec<TokenId> = tokens.into_iter().map(TokenId).collect();
        let prompt = PromptId::of(&desk.model.digest, &tokens);
        let text = text.map(str::to_owned);
        Manifest {
            tokens,
            prompt,
            text,
            ..desk.manifest("x")
        }
    };
    assert!(check(with(vec![1, 5, 6], None)).is_some());
    assert_eq!(check(with(vec![1, 598], None)), None, "no such token");
    assert_eq!(check(with(vec![], None)), None, "no token");
    assert_eq!(check(with(vec![1; 512], None)), None, "too long");
    assert_eq!(check(with(vec![1, 5], Some("other text"))), None);
    let long = desk.prompts(DOMAIN).path(&desk.name);
    fs::write(long, vec![b' '; ENTRY_BYTES_MAX + 1]).unwrap();
    assert_eq!(desk.recall(), None);
}

#[test]
fn the_prompts_unused_for_longest_are_forgotten_first() {
    let desk = Desk::new();
    let path = desk.kept("The jade plan.");
    let folder = path.parent().unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    let filler = |name: &str, age: u64| {
        let file = File::create(folder.join(name)).unwrap();
        file.set_len(REMEMBERED_BYTES_MAX / 2).unwrap();
        let modified = long_ago - Duration::from_secs(age);
        file.set_modified(modified).unwrap();
        folder.join(name)
    };
    let (oldest, older) = (filler("a.json", 20), filler("b.json", 10));
    let times = File::options().append(true).open(&path).unwrap();
    times
        .set_modified(long_ago - Duration::from_secs(30))
        .unwrap();
    assert!(desk.recall().is_some(), "used now, so no longer the oldest");
    let another = "another".parse().unwrap();
    let manifest = desk.manifest("The ruby plan.");
    desk.prompts(DOMAIN)
        .keep(&another, &(&manifest).into())
        .unwrap();
    assert!(!oldest.exists());
    assert!(older.exists());
    assert!(desk.recall().is_some());
    let bytes: u64 = files_of(desk.dir.path()).iter().map(|f| f.bytes).sum();
    assert!(bytes <= REMEMBERED_BYTES_MAX, "{bytes}");
}

#[cfg(unix)]
#[test]
fn files_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let desk = Desk::new();
    let path = desk.kept("The jade plan.");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
}
