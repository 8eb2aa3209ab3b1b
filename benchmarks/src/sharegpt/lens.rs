//! How long the answers are: as ShareGPT's.

use std::fs::File;
use std::io::BufReader;
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::nodes::Nodes;
use super::plan::{Plan, ShareGptArgs};
use crate::dataset::{Order, Oversampling, Rules, ShareGpt, ShareGptLens, Tally};
use crate::serve::data::digest;

/// Bytes of a token where the model has no tokenizer to count with: about what English text has.
const BYTES_PER_TOKEN: usize = 4;

/// The conversations of a file.
type Conversations = ShareGpt<BufReader<File>>;

/// Lengths of answers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Lens {
    /// Of each request.
    pub(crate) of_answers: Vec<usize>,
    /// Where they come from, in words.
    pub(crate) origin: String,
    /// Of the file, if they come from one.
    pub(crate) dataset: Option<Dataset>,
}

/// A file of conversations.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Dataset {
    blake3: String,
    tally: Tally,
}

impl Lens {
    /// For every request of a plan. Conversations are counted with the model's tokenizer, which the edge
    /// has, or by their bytes if it has none.
    ///
    /// # Errors
    /// If the conversations cannot be read, or none can be used.
    pub(crate) fn of(
        (args, conversations): (&ShareGptArgs, Option<Conversations>),
        plan: &Plan,
        nodes: &mut Nodes,
    ) -> Result<Self> {
        let mut dataset = None;
        let (found, origin) = match (args.sharegpt_output_len, conversations) {
            (Some(len), None) => (vec![len.get(); plan.num_prompts], "as told".to_owned()),
            (told, Some(mut conversations)) => {
                let rules = Rules {
                    sample_count: plan.num_prompts,
                    seed: plan.seed,
                    order: Order::Shuffled,
                    output_len: told.map(NonZeroUsize::get),
                    oversampling: Oversampling::WithReplacement,
                };
                let counted = match nodes.count_tokens("")? {
                    Some(_) => "counted with the model's tokenizer".to_owned(),
                    None => {
                        format!("{BYTES_PER_TOKEN} bytes a token, for the model has no tokenizer")
                    }
                };
                let mut count = |text: &str| {
                    let counted = nodes.count_tokens(text)?;
                    Ok(counted.unwrap_or_else(|| text.len().div_ceil(BYTES_PER_TOKEN)))
                };
                let (samples, tally) = conversations.samples(&rules, &mut count)?;
                let lens = samples.iter().map(|sample| sample.output_len).collect();
                let path = args
                    .dataset_path
                    .as_deref()
                    .unwrap_or_else(|| Path::new(""));
                let name = path.file_name().unwrap_or_default();
                let origin = format!("{}, {counted}: {tally}", name.display());
                let blake3 = digest(path)?;
                dataset = Some(Dataset { blake3, tally });
                (lens, origin)
            }
            (None, None) => {
                let lens = ShareGptLens::new(plan.seed).take(plan.num_prompts);
                let lens = lens.map(|lens| lens.output).collect();
                (lens, "lengths distributed as ShareGPT's".to_owned())
            }
        };
        Ok(Self {
            of_answers: found.into_iter().map(|len| plan.output_len(len)).collect(),
            origin,
            dataset,
        })
    }

    /// Of one request that only warms up.
    pub(crate) fn short() -> Self {
        Self {
            of_answers: vec![4],
            origin: String::new(),
            dataset: None,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "lengths of answers")]
    pub(crate) fn mean(&self) -> f64 {
        self.of_answers.iter().sum::<usize>() as f64 / self.of_answers.len().max(1) as f64
    }

    pub(crate) fn longest(&self) -> usize {
        self.of_answers.iter().copied().max().unwrap_or(0)
    }
}
