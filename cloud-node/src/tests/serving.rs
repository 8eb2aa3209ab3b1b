//! Many edges over real QUIC while the computing thread is held up.

use std::net::Ipv4Addr;
use std::sync::Arc;

use burn::tensor::Device;
use edgeprompt_kv::{KvDtype, ModelDigest, PromptId, TokenId};
use edgeprompt_model::Model;
use edgeprompt_protocol::{Fetch, FetchId, KvSource, PromptRef, PublicPrompt, Refusal};
use edgeprompt_transport::{
    CloudIdentity, CloudLink, EdgeEndpoint, EdgeIdentity, FetchError, INVITATION_LIFETIME,
    LayerStream, LayerStreamError, LinkConfig,
};

use super::{Gate, LAYER_COUNT, Outcome, TOKEN_BYTES, model, prompt};
use crate::compute::PromptComputer;
use crate::library::ServedLibrary;
use crate::resolve::{Asker, Resolver};
use crate::running::RunningCloud;
use crate::service::{CloudService, PublicPrompts};

struct Cloud {
    identity: CloudIdentity,
    computer: Arc<PromptComputer>,
    serving: RunningCloud,
}

fn service(computer: &Arc<PromptComputer>) -> CloudService {
    CloudService {
        computer: Arc::clone(computer),
        library: ServedLibrary::default(),
        public_prompts: PublicPrompts::Accepted,
    }
}

fn start(computer: Arc<PromptComputer>) -> Cloud {
    let identity = CloudIdentity::in_memory().unwrap();
    let loopback = (Ipv4Addr::LOCALHOST, 0).into();
    let serving = service(&computer).start(loopback, &identity, LinkConfig::default());
    Cloud {
        identity,
        computer,
        serving: serving.unwrap(),
    }
}

impl Cloud {
    async fn edge(&self) -> CloudLink {
        let token = self.identity.invite(INVITATION_LIFETIME).unwrap();
        let identity = EdgeIdentity::join(&token).unwrap();
        let loopback = (Ipv4Addr::LOCALHOST, 0).into();
        let edge = EdgeEndpoint::bind(loopback, &identity, LinkConfig::default()).unwrap();
        edge.connect(self.serving.addr()).await.unwrap()
    }

    async fn fetch(&self, link: &CloudLink, prompt: PromptRef) -> Result<LayerStream, Refusal> {
        let model = self.computer.model().digest;
        match link.fetch(fetch(link.next_fetch_id(), model, prompt)).await {
            Ok(layers) => Ok(layers),
            Err(FetchError::Refused(refusal)) => Err(refusal),
            Err(error) => panic!("{error}"),
        }
    }
}

fn fetch(fetch: FetchId, model: ModelDigest, prompt: PromptRef) -> Fetch {
    Fetch {
        fetch,
        model,
        prompt,
        layers: None,
        dtype: KvDtype::F32,
    }
}

fn public(number: u32) -> PromptRef {
    PromptRef::Public(PublicPrompt::Tokens(prompt(number).to_vec()))
}

async fn layer_count(mut layers: LayerStream) -> Result<usize, LayerStreamError> {
    let mut count = 0;
    while layers.next_layer().await?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[tokio::test]
async fn one_edge_cannot_fill_the_queue() {
    let (mut gate, computer) = Gate::computer(model(), 1 << 20);
    let cloud = start(computer);
    let (greedy, modest) = (cloud.edge().await, cloud.edge().await);
    let mut waiting = vec![cloud.fetch(&greedy, public(0)).await.unwrap()];
    gate.at_gate().await;
    for number in 1..=8 {
        waiting.push(cloud.fetch(&greedy, public(number)).await.unwrap());
    }
    let busy = cloud.fetch(&greedy, public(9)).await.unwrap_err();
    assert_eq!(
        busy,
        Refusal::Busy {
            waiting_count_max: 8
        }
    );
    let shared = cloud.fetch(&greedy, public(8)).await;
    assert!(shared.is_ok(), "what waits already may be asked for again");
    waiting.push(cloud.fetch(&modest, public(9)).await.unwrap());
    drop(gate);
    for layers in waiting {
        assert_eq!(layer_count(layers).await.unwrap(), LAYER_COUNT);
    }
}

#[tokio::test]
async fn an_edge_that_leaves_takes_its_waiting_prompts_with_it() {
    let (mut gate, computer) = Gate::computer(model(), 1 << 20);
    let cloud = start(computer);
    let (staying, leaving) = (cloud.edge().await, cloud.edge().await);
    let first = cloud.fetch(&staying, public(1)).await.unwrap();
    gate.at_gate().await;
    let abandoned = cloud.fetch(&leaving, public(2)).await.unwrap();
    let waiting = cloud
        .computer
        .find(&abandoned.manifest().prompt, KvDtype::F32)
        .unwrap();
    let last = cloud.fetch(&staying, public(3)).await.unwrap();
    leaving.close();
    drop((abandoned, leaving));
    // This test watches the prompt as well; it is alone with it once the edge's request is ended.
    waiting.alone().await;
    drop(waiting);
    gate.open(Outcome::Computed);
    assert_eq!(gate.at_gate().await, prompt(3).to_vec());
    drop(gate);
    assert_eq!(layer_count(first).await.unwrap(), LAYER_COUNT);
    assert_eq!(layer_count(last).await.unwrap(), LAYER_COUNT);
    assert_eq!(cloud.computer.computed_count(), 2);
}

#[tokio::test]
async fn a_withdrawn_fetch_takes_its_waiting_prompt_with_it() {
    let (mut gate, computer) = Gate::computer(model(), 1 << 20);
    let cloud = start(computer);
    let edge = cloud.edge().await;
    let first = cloud.fetch(&edge, public(1)).await.unwrap();
    gate.at_gate().await;
    let withdrawn = cloud.fetch(&edge, public(2)).await.unwrap();
    let waiting = cloud
        .computer
        .find(&withdrawn.manifest().prompt, KvDtype::F32)
        .unwrap();
    // The link stays, and so does the other fetch on it.
    drop(withdrawn);
    waiting.alone().await;
    drop(waiting);
    drop(gate);
    assert_eq!(layer_count(first).await.unwrap(), LAYER_COUNT);
    assert_eq!(cloud.computer.computed_count(), 1);
}

#[tokio::test]
async fn a_panic_abandons_the_fetch_and_the_next_one_is_served() {
    let (gate, computer) = Gate::computer(model(), 1 << 20);
    let cloud = start(computer);
    let link = cloud.edge().await;
    let unlucky = cloud.fetch(&link, public(1)).await.unwrap();
    gate.open(Outcome::Panic);
    let abandoned = layer_count(unlucky).await.unwrap_err();
    assert!(
        matches!(abandoned, LayerStreamError::Abandoned { .. }),
        "{abandoned:?}"
    );
    drop(gate);
    let layers = cloud.fetch(&link, public(1)).await.unwrap();
    assert_eq!(layer_count(layers).await.unwrap(), LAYER_COUNT);
}

#[tokio::test]
async fn a_prompt_id_finds_what_is_computed_and_what_is_stored() {
    let (mut gate, computer) = Gate::computer(model(), 1 << 20);
    let cloud = start(computer);
    let (first, second) = (cloud.edge().await, cloud.edge().await);
    let id = PromptId::of(&cloud.computer.model().digest, &prompt(1));
    let unknown = cloud.fetch(&second, PromptRef::Id(id)).await.unwrap_err();
    assert_eq!(unknown, Refusal::UnknownPromptId);

    let sent = cloud.fetch(&first, public(1)).await.unwrap();
    gate.at_gate().await;
    let computing = cloud.fetch(&second, PromptRef::Id(id)).await.unwrap();
    assert_eq!(computing.manifest().source, KvSource::Computing);
    assert_eq!(computing.manifest().tokens, prompt(1).to_vec());
    gate.open(Outcome::Computed);
    assert_eq!(layer_count(sent).await.unwrap(), LAYER_COUNT);
    assert_eq!(layer_count(computing).await.unwrap(), LAYER_COUNT);

    let stored = cloud.fetch(&second, PromptRef::Id(id)).await.unwrap();
    assert_eq!(stored.manifest().source, KvSource::Stored);
    assert_eq!(layer_count(stored).await.unwrap(), LAYER_COUNT);
    assert_eq!(cloud.computer.computed_count(), 1);
}

#[tokio::test]
async fn a_prompt_larger_than_the_store_is_refused_before_it_waits() {
    let cloud = start(PromptComputer::start(model(), 10 * TOKEN_BYTES + 1));
    let link = cloud.edge().await;
    let tokens = vec![TokenId(1); 11];
    let larger = PromptRef::Public(PublicPrompt::Tokens(tokens));
    let refusal = cloud.fetch(&link, larger).await.unwrap_err();
    let expected = Refusal::PromptTooLong {
        token_count: 11,
        token_count_max: 10,
    };
    assert_eq!(refusal, expected);
    assert_eq!(cloud.computer.computing_count(), 0);
    let fitting = cloud.fetch(&link, public(1)).await.unwrap();
    assert_eq!(layer_count(fitting).await.unwrap(), LAYER_COUNT);
}

#[tokio::test]
async fn text_is_tokenised_off_the_async_threads() {
    let model = Arc::new(Model::demo(&Device::flex()).unwrap());
    let digest = model.digest;
    let computer = PromptComputer::start(model, 1 << 20);
    let resolver = Resolver::new(Arc::new(service(&computer)));
    let text = PromptRef::Public(PublicPrompt::Text("Hello, plan.\n".repeat(1000)));
    let (fetch, asker) = (fetch(FetchId(1), digest, text), Asker::new("edge"));
    let mut prepared = std::pin::pin!(resolver.prepare(&fetch, &asker));
    tokio::select! {
        biased;
        _ = &mut prepared => panic!("it was tokenised where it was polled"),
        () = std::future::ready(()) => {}
    }
    let refusal = prepared.await.unwrap_err();
    assert!(
        matches!(refusal, Refusal::PromptTooLong { .. }),
        "{refusal}"
    );
}
