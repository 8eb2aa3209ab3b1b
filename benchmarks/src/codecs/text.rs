//! What formats are measured on: token ids, cut into a cloud prompt and what follows.

use std::fmt;
use std::path::Path;

use anyhow::{Result, ensure};
use edgeprompt_engine::{ForwardPass, PrivateKv, Progress, SequenceOptions};
use edgeprompt_examples::fusion_ablation::CaseTokens;
use edgeprompt_examples::shop_desk::held_out_cases;
use edgeprompt_kv::{TokenId, TokenRange};
use edgeprompt_model::Model;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::CodecsArgs;
use crate::dataset::{Order, Oversampling, Rules, ShareGpt};

/// Where texts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TextSource {
    /// Questions to the shop desk with their answers.
    ShopDesk,
    /// The model itself, token by token as likely as it says.
    Drawn,
    /// Real conversations.
    ShareGpt,
}

impl fmt::Display for TextSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::ShopDesk => "shop desk",
            Self::Drawn => "drawn",
            Self::ShareGpt => "ShareGPT",
        })
    }
}

/// One text.
pub(crate) struct Text {
    /// What a cloud computes.
    pub(crate) cloud: Vec<TokenId>,
    /// What follows; the last token is only predicted.
    pub(crate) rest: Vec<TokenId>,
}

/// The held-out cases of the shop desk.
pub(crate) fn desk_cases(model: &Model, args: &CodecsArgs) -> Result<Vec<CaseTokens>> {
    let cases = held_out_cases(args.seed, args.cases);
    let tokens = cases.iter().map(|case| CaseTokens::of(model, case));
    Ok(tokens.collect::<Result<Vec<_>, _>>()?)
}

/// The same as texts.
pub(crate) fn desk(model: &Model, args: &CodecsArgs) -> Result<Vec<Text>> {
    let cases = desk_cases(model, args)?.into_iter();
    let texts = cases.map(|case| Text {
        cloud: case.cloud,
        rest: [case.private, case.answer].concat(),
    });
    Ok(texts.collect())
}

/// Texts that the model draws.
pub(crate) fn drawn(model: &Model, args: &CodecsArgs) -> Vec<Text> {
    let len = args.cloud_len.get() + args.edge_len.get() + 1;
    let texts = (0..args.texts.get() as u64).map(|stream| {
        let mut random = ChaCha8Rng::seed_from_u64(args.seed);
        random.set_stream(stream);
        cut(draw(model, len, &mut random), args)
    });
    texts.collect()
}

/// Tokens after the one that begins every sequence, each drawn from the model's own distribution.
fn draw(model: &Model, len: usize, random: &mut ChaCha8Rng) -> Vec<TokenId> {
    let mut kv = PrivateKv::empty(&model.geometry, &model.decoder.device());
    let mut tokens = vec![model.config.bos.unwrap_or(TokenId(0))];
    for position in (0..).take(len - 1) {
        let range = TokenRange::new(position, position + 1);
        let last = [tokens[tokens.len() - 1]];
        let mut pass =
            ForwardPass::continuing(model, &last, range, TokenRange::prefix(position + 1));
        let fusion = SequenceOptions::default().fusion;
        while pass.advance(model, None, &mut kv, fusion) != Progress::Complete {}
        tokens.push(pick(&pass.logits(model), random));
    }
    tokens
}

fn pick(logits: &[f32], random: &mut ChaCha8Rng) -> TokenId {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights = || logits.iter().map(|logit| f64::from(logit - most).exp());
    let mut left = random.random::<f64>() * weights().sum::<f64>();
    let chosen = (0..).zip(weights()).find(|(_, weight)| {
        left -= weight;
        left <= 0.0
    });
    TokenId(chosen.map_or(0, |(id, _)| id))
}

/// Windows of real conversations, each after the token that begins every sequence.
pub(crate) fn share_gpt(model: &Model, path: &Path, args: &CodecsArgs) -> Result<Vec<Text>> {
    let tokenizer = model.tokenizer()?;
    let window = args.cloud_len.get() + args.edge_len.get();
    let rules = Rules {
        sample_count: args.texts.get() * window,
        seed: args.seed,
        order: Order::Shuffled,
        output_len: None,
        oversampling: Oversampling::Never,
    };
    let mut count = |text: &str| Ok(tokenizer.encode(text)?.len());
    let (samples, _) = ShareGpt::open(path)?.samples(&rules, &mut count)?;
    let mut tokens = Vec::new();
    for sample in samples {
        let bos = model.config.bos;
        let encoded = tokenizer.encode(&sample.prompt)?.into_iter();
        tokens.extend(encoded.filter(|token| Some(*token) != bos));
        if tokens.len() >= args.texts.get() * window {
            break;
        }
    }
    let windows = tokens.chunks_exact(window).take(args.texts.get());
    let bos = model.config.bos.into_iter();
    let texts: Vec<_> = windows
        .map(|window| cut(bos.clone().chain(window.iter().copied()).collect(), args))
        .collect();
    ensure!(
        texts.len() == args.texts.get(),
        "{} has text for {} of {} windows: give fewer --texts",
        path.display(),
        texts.len(),
        args.texts
    );
    Ok(texts)
}

fn cut(mut tokens: Vec<TokenId>, args: &CodecsArgs) -> Text {
    let rest = tokens.split_off(args.cloud_len.get());
    Text {
        cloud: tokens,
        rest,
    }
}
