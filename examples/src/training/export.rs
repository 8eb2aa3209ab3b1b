//! The finished model in the layout that Hugging Face publishes and the product reads.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use edgeprompt_model::{Decoder, ModelConfig};
use half::f16;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};
use thiserror::Error;

use crate::shop_desk::{TokenizerBuildError, tokenizer_config_json, tokenizer_json};

/// The model's `config.json`.
pub const MODEL_CONFIG: &str = include_str!("config.json");

/// Why the model could not be exported.
#[derive(Debug, Error)]
pub enum ExportError {
    /// A file could not be written.
    #[error("export: {0}")]
    Io(#[from] io::Error),
    /// The tensors do not make a file.
    #[error("export of tensors: {0}")]
    Tensors(#[from] SafeTensorError),
    /// The tokenizer could not be put together.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerBuildError),
    /// The decoder has a parameter that Llama has not.
    #[error("parameter {0} has no published name")]
    Unnamed(String),
}

/// Writes `config.json`, `model.safetensors` (f16), `tokenizer.json` and `tokenizer_config.json`.
///
/// # Errors
/// [`ExportError`] if a file cannot be written or the decoder is not this Llama.
pub fn export(
    decoder: &Decoder,
    config: &ModelConfig,
    directory: &Path,
) -> Result<(), ExportError> {
    let mut collector = Collector::default();
    decoder.visit(&mut collector);
    let mut published = BTreeMap::new();
    for (path, matrix) in collector.parameters {
        publish(&path, &matrix, config, &mut published)?;
    }
    let bytes: BTreeMap<&String, Vec<u8>> = published.iter().map(|(n, m)| (n, m.bytes())).collect();
    let views = published.iter().map(|(name, matrix)| {
        let view = TensorView::new(Dtype::F16, matrix.shape.clone(), &bytes[name]);
        view.map(|view| (name, view))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    fs::create_dir_all(directory)?;
    let weights = safetensors::serialize(views, None)?;
    fs::write(directory.join("model.safetensors"), weights)?;
    fs::write(directory.join("config.json"), MODEL_CONFIG)?;
    fs::write(directory.join("tokenizer.json"), tokenizer_json()?)?;
    Ok(fs::write(
        directory.join("tokenizer_config.json"),
        tokenizer_config_json(),
    )?)
}

/// The decoder as it is after a round through the file: every weight rounded to f16.
pub fn round_to_f16(decoder: Decoder) -> Decoder {
    decoder.map(&mut Rounding)
}

struct Rounding;

impl ModuleMapper for Rounding {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let (shape, device) = (tensor.dims(), tensor.device());
            let rounded: Vec<f32> = tensor
                .into_data()
                .iter::<f32>()
                .map(|value| f16::from_f32(value).to_f32())
                .collect();
            Tensor::from_data(TensorData::new(rounded, shape), &device)
        })
    }
}

/// A vector (one row) or a matrix, row-major.
struct Matrix {
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Matrix {
    fn bytes(&self) -> Vec<u8> {
        let to_bytes = |&value: &f32| f16::from_f32(value).to_le_bytes();
        self.values.iter().flat_map(to_bytes).collect()
    }

    /// Columns `start..start + count` as rows: burn multiplies `[in, out]`, PyTorch stores
    /// `[out, in]`.
    fn transposed(&self, start: usize, count: usize) -> Self {
        let [rows, columns] = self.shape[..] else {
            panic!("only matrices are transposed");
        };
        let column = |c| (0..rows).map(move |r| self.values[r * columns + c]);
        Self {
            shape: vec![count, rows],
            values: (start..start + count).flat_map(column).collect(),
        }
    }
}

#[derive(Default)]
struct Collector {
    path: Vec<String>,
    parameters: Vec<(String, Matrix)>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let shape = tensor.dims().to_vec();
        let values = tensor.into_data().iter::<f32>().collect();
        self.parameters
            .push((self.path.join("."), Matrix { shape, values }));
    }
}

/// Puts the parameter at `path` under its published name or, if it is fused, names.
fn publish(
    path: &str,
    matrix: &Matrix,
    config: &ModelConfig,
    published: &mut BTreeMap<String, Matrix>,
) -> Result<(), ExportError> {
    let unnamed = || ExportError::Unnamed(path.to_owned());
    let plain = || Matrix {
        shape: matrix.shape.clone(),
        values: matrix.values.clone(),
    };
    let whole = || matrix.transposed(0, matrix.shape[1]);
    let mut put = |name: String, matrix| {
        published.insert(format!("model.{name}.weight"), matrix);
    };
    match path.split('.').collect::<Vec<_>>()[..] {
        ["head", _] => put("embed_tokens".to_owned(), whole()),
        ["norm", "gamma"] => put("norm".to_owned(), plain()),
        ["layers", layer, part, _] => {
            let name = |part: &str| format!("layers.{layer}.{part}");
            let q = config.q_head_count * config.head_dim;
            let kv = config.kv_head_count * config.head_dim;
            match part {
                "attention_norm" => put(name("input_layernorm"), plain()),
                "mlp_norm" => put(name("post_attention_layernorm"), plain()),
                "output" => put(name("self_attn.o_proj"), whole()),
                "down" => put(name("mlp.down_proj"), whole()),
                "qkv" => {
                    put(name("self_attn.q_proj"), matrix.transposed(0, q));
                    put(name("self_attn.k_proj"), matrix.transposed(q, kv));
                    put(name("self_attn.v_proj"), matrix.transposed(q + kv, kv));
                }
                "gate_up" => {
                    let mlp = config.mlp_dim;
                    put(name("mlp.gate_proj"), matrix.transposed(0, mlp));
                    put(name("mlp.up_proj"), matrix.transposed(mlp, mlp));
                }
                _ => return Err(unnamed()),
            }
        }
        _ => return Err(unnamed()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use edgeprompt_model::Model;

    use super::*;
    use crate::shop_desk::held_out_cases;
    use crate::training::Tasks;
    use crate::training::batch::Batch;
    use crate::training::init::initialise;
    use crate::training::trainer::losses;

    #[test]
    fn the_product_reads_what_was_written() {
        let device = Device::flex();
        let config = ModelConfig::from_json(MODEL_CONFIG).unwrap();
        let random = Decoder::init(&config, &device.clone().autodiff());
        let decoder = initialise(random, &config, 1).valid();
        let directory = tempfile::tempdir().unwrap();
        export(&decoder, &config, directory.path()).unwrap();
        let model = Model::open(directory.path(), &device, |_| {}).unwrap();

        let case = &held_out_cases(1, 1)[0];
        let batch = Batch::new(&[Tasks::new().unwrap().prompt(case)]);
        let logits = |decoder: &Decoder| {
            let (_, logits) = losses(decoder, &model.rope, &batch, &device);
            logits.into_data().iter::<f32>().collect::<Vec<_>>()
        };
        assert_eq!(logits(&model.decoder), logits(&round_to_f16(decoder)));
        let tokens = model.tokenizer().unwrap().encode(&case.cloud_text).unwrap();
        assert_eq!(tokens[0].0, 1, "the sequence begins with <s>");
        assert_eq!(Some(tokens[0]), config.bos);
    }
}
