//! Both nodes as libraries: a cloud on loopback, an edge that fetches a public prompt's layers
//! while it computes a private one, all in one program.
//!
//! `cargo run --release -p edgeprompt-examples --example two_nodes`

#![allow(clippy::print_stdout, reason = "an example shows something")]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use burn::tensor::Device;
use cloud_node::compute::PromptComputer;
use cloud_node::library::ServedLibrary;
use cloud_node::service::{CloudService, PublicPrompts};
use edge_node::answer::{Cloud, Event, Question, Stop, answer};
use edge_node::cloud_prompt::CloudPrompt;
use edge_node::patience::Patience;
use edge_node::private::PrivateTokens;
use edge_node::uplink::Uplink;
use edgeprompt_engine::SequenceOptions;
use edgeprompt_model::Model;
use edgeprompt_protocol::{PromptRef, PublicPrompt};
use edgeprompt_transport::{CloudIdentity, EdgeIdentity, INVITATION_LIFETIME, LinkConfig};

const PUBLIC: &str = "You work at the shop desk. Begin every answer with \"Ahoy\".\n\
                      The teal plan costs 57 coins.\nThe plum plan costs 33 coins.\n\
                      The teal plan lasts 90 days.\n";
const PRIVATE: &str = "I am Omar. I am on the teal plan. How long does it last?\n";

#[tokio::main]
async fn main() -> Result<()> {
    let model = Arc::new(Model::demo(&Device::flex())?);

    // A cloud that serves whatever edges declare public.
    let cloud = CloudIdentity::in_memory()?;
    let listen = (Ipv4Addr::LOCALHOST, 0).into();
    let service = CloudService {
        computer: PromptComputer::start(Arc::clone(&model), 64 << 20),
        library: ServedLibrary::default(),
        public_prompts: PublicPrompts::Accepted,
    };
    let serving = service.start(listen, &cloud, LinkConfig::default())?;

    // An edge that joined it. Only the public text goes up.
    let edge = EdgeIdentity::join(&cloud.invite(INVITATION_LIFETIME)?)?;
    let uplink = Uplink::new(&[serving.addr()], &edge, LinkConfig::default())?;
    let public = PromptRef::Public(PublicPrompt::Text(PUBLIC.to_owned()));
    let asked_at = Instant::now();
    let prompt = CloudPrompt::fetch(&uplink, &model, public).await?;

    // The model computes on a thread of its own; layers arrive meanwhile.
    let answered = tokio::task::spawn_blocking(move || -> Result<_> {
        let tokenizer = model.tokenizer()?;
        let private = PrivateTokens::new(tokenizer.private_tokens(
            &prompt.manifest.tokens,
            PUBLIC,
            PRIVATE,
        )?);
        let question = Question {
            model: &model,
            private: &private,
            options: SequenceOptions::default(),
            max_tokens: 40,
            stop: Stop::AtEndOfSequence,
            patience: Patience::Estimated,
            asked_at,
        };
        let answered = answer(&question, Cloud::Arriving(prompt), |event| {
            if let Event::LayerUsed(layer) = event {
                println!("layer {} fused", layer.0);
            }
        });
        Ok((
            tokenizer.decode(answered.tokens.for_engine())?,
            answered.timeline.ttft,
        ))
    });
    let (text, ttft) = answered.await??;
    println!(
        "\n{}\nfirst token after {:?}",
        text.trim(),
        ttft.ok_or_else(|| anyhow!("no token"))?
    );
    let sent = uplink.sent().bytes();
    let leaked = sent.windows(4).any(|bytes| bytes == b"Omar");
    println!(
        "sent to the cloud: {} bytes, private name among them: {leaked}",
        sent.len()
    );
    Ok(())
}
