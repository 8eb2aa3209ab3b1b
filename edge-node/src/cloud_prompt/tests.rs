//! What a manifest is compared with, and where.

use edgeprompt_kv::{KvDtype, PromptId};
use edgeprompt_model::ComputeDevice;

use super::*;

#[tokio::test]
async fn a_manifest_is_compared_off_the_async_threads() {
    let device = ComputeDevice::default().open().unwrap();
    let model = Arc::new(Model::demo(&device).unwrap());
    let text = "The plan costs nine crowns.\n".repeat(20);
    let tokens = model.tokenizer().unwrap().encode(&text).unwrap();
    let layers = LayerRange::first(model.geometry.layer_count());
    let manifest = Manifest {
        fetch: FetchId(0),
        prompt: PromptId::of(&model.digest, &tokens),
        model: model.digest,
        geometry: model.geometry,
        dtype: KvDtype::F32,
        layers,
        tokens,
        text: Some(text),
        source: KvSource::Stored,
    };
    let expected = Expected {
        prompt: PromptRef::Id(manifest.prompt),
        model,
        layers,
    };
    let mut checked = std::pin::pin!(expected.checked(manifest.clone()));
    tokio::select! {
        biased;
        _ = &mut checked => panic!("it was tokenised where it was polled"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(checked.await, Ok(manifest));
}
