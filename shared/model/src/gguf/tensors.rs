//! The tensors of a GGUF file, and the names that Hugging Face publishes them by.

use super::GgufError;
use super::reader::Reader;
use crate::config::ModelConfig;
use crate::number_format::{DeclaredFormat, NumberFormat};
use crate::stored_tensor::{
    DeclaredTensor, FaultyTensor, Gaps, RowOrder, TensorFault, byte_len, check_places, countable,
};

/// Alignment of tensors, in bytes, where the file does not say.
pub(super) const ALIGNMENT_DEFAULT: u64 = 32;
/// Largest alignment accepted, in bytes.
const ALIGNMENT_MAX: u64 = 1 << 20;
/// Fewest bytes of a tensor's entry: lengths of name and shape, number format and offset.
const ENTRY_BYTES_MIN: u64 = 8 + 4 + 4 + 8;
/// Most dimensions of a tensor, by the format's specification.
const DIMENSION_COUNT_MAX: u32 = 4;
/// The divisors of RoPE's frequencies: read with the configuration, no weight of the decoder.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// A tensor's entry, its place not yet known to be in the file.
struct Entry {
    name: String,
    shape: Vec<u64>,
    number_type: u32,
    offset: u64,
}

/// Reads the entries of the tensors and finds their places after them.
pub(super) fn read(
    reader: &mut Reader<'_>,
    count: u64,
    alignment: u64,
) -> Result<Vec<DeclaredTensor>, GgufError> {
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
        return Err(GgufError::Unsupported {
            key: "general.alignment".to_owned(),
            value: alignment.to_string(),
        });
    }
    reader.check_count(count, ENTRY_BYTES_MIN, "tensors")?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(entry(reader)?);
    }
    let end = reader.position() as u64;
    let padding = end.next_multiple_of(alignment) - end;
    if !entries.is_empty() {
        reader.bytes(padding, "the padding before the tensors")?;
    }
    let data = reader.position()..reader.position() + reader.rest().len();
    let placed = entries.into_iter().map(|entry| {
        let (start, len) = (data.start, data.len());
        entry.placed(start, len, alignment)
    });
    let tensors = placed.collect::<Result<Vec<_>, _>>()?;
    // Padding lies between the tensors.
    check_places(&tensors, data.clone(), Gaps::Accepted)?;
    Ok(tensors)
}

fn entry(reader: &mut Reader<'_>) -> Result<Entry, GgufError> {
    let name = reader.text("the name of a tensor")?.to_owned();
    let dimension_count = reader.u32("the number of a tensor's dimensions")?;
    if dimension_count > DIMENSION_COUNT_MAX {
        let count = usize::try_from(dimension_count).unwrap_or(usize::MAX);
        let fault = TensorFault::Dimensions(count);
        return Err(FaultyTensor { name, fault }.into());
    }
    let mut shape = Vec::new();
    for _ in 0..dimension_count {
        shape.push(reader.u64("a tensor's dimension")?);
    }
    // GGUF names the dimension that is contiguous first, everyone else last.
    shape.reverse();
    Ok(Entry {
        name,
        shape,
        number_type: reader.u32("a tensor's number format")?,
        offset: reader.u64("a tensor's place")?,
    })
}

impl Entry {
    fn placed(
        self,
        data_start: usize,
        data_len: usize,
        alignment: u64,
    ) -> Result<DeclaredTensor, FaultyTensor> {
        let fault = |fault| FaultyTensor {
            name: self.name.clone(),
            fault,
        };
        let format = number_format(self.number_type);
        let format = format.map_err(|name| fault(TensorFault::Format(name)))?;
        let shape = countable(&self.shape).map_err(fault)?;
        let start = self.offset;
        if !start.is_multiple_of(alignment) {
            return Err(fault(TensorFault::Misaligned { start, alignment }));
        }
        let bytes = byte_len(format, &shape);
        let bytes = bytes.ok_or_else(|| fault(TensorFault::Shape(self.shape.clone())))?;
        let end = start.saturating_add(bytes as u64);
        let within = |offset: u64| usize::try_from(offset).ok().filter(|at| *at <= data_len);
        let place = within(start).zip(within(end));
        let (start, end) = place.ok_or_else(|| {
            let len = data_len;
            fault(TensorFault::Outside { start, end, len })
        })?;
        let tensor = DeclaredTensor {
            name: self.name,
            format: DeclaredFormat::Read(format),
            shape,
            bytes: data_start + start..data_start + end,
            rows: RowOrder::Published,
        };
        tensor.checked()
    }
}

/// A number format by its number in GGUF, or the name of one that is not read.
fn number_format(number_type: u32) -> Result<NumberFormat, String> {
    let name = match number_type {
        0 => return Ok(NumberFormat::F32),
        1 => return Ok(NumberFormat::F16),
        8 => return Ok(NumberFormat::Q8_0),
        30 => return Ok(NumberFormat::Bf16),
        2 => "Q4_0",
        3 => "Q4_1",
        6 => "Q5_0",
        7 => "Q5_1",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        other => return Err(format!("format number {other}")),
    };
    Err(name.to_owned())
}

/// Gives tensors the names and the row order that Hugging Face publishes them by.
pub(super) fn published(
    tensors: Vec<DeclaredTensor>,
    architecture: &str,
    config: &ModelConfig,
) -> Result<Vec<DeclaredTensor>, GgufError> {
    // Where RoPE turns neighbouring pairs, queries and keys are stored pair by pair.
    let interleaved = ["llama", "mistral"].contains(&architecture);
    let mut published = Vec::new();
    for mut tensor in tensors {
        if tensor.name == ROPE_FACTORS {
            continue;
        }
        let name = published_name(&tensor.name);
        let name = name.ok_or_else(|| tensor.faulty(TensorFault::Unknown))?;
        let rotated = [".q_proj.", ".k_proj."]
            .iter()
            .any(|part| name.contains(part));
        if rotated && interleaved {
            let head_dim = config.head_dim;
            let rows = tensor.shape.first().copied().unwrap_or(0);
            if !rows.is_multiple_of(head_dim) {
                let shape = tensor.shape.iter().map(|dim| *dim as u64).collect();
                return Err(tensor.faulty(TensorFault::Shape(shape)).into());
            }
            tensor.rows = RowOrder::Interleaved { head_dim };
        }
        tensor.name = name;
        published.push(tensor);
    }
    Ok(published)
}

fn published_name(name: &str) -> Option<String> {
    let outer = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(outer) = outer {
        return Some(outer.to_owned());
    }
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    // Written back, so that `01` does not pass for `1`.
    let layer: u16 = layer
        .parse()
        .ok()
        .filter(|n: &u16| n.to_string() == layer)?;
    let (part, kind) = part.rsplit_once('.')?;
    let part = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "attn_output" => "self_attn.o_proj",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    let known = ["weight", "bias"].contains(&kind);
    known.then(|| format!("model.layers.{layer}.{part}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_hugging_face() {
        let name = |name| published_name(name);
        let published = "model.layers.11.self_attn.q_proj.bias";
        assert_eq!(name("blk.11.attn_q.bias").as_deref(), Some(published));
        assert_eq!(name("output.weight").as_deref(), Some("lm_head.weight"));
        for unknown in [
            "blk.0.ffn_gate_exps.weight",
            "blk.01.attn_q.weight",
            "blk.-1.attn_q.weight",
            "blk.0.attn_q",
            "blk.0.attn_q.scale",
            "",
        ] {
            assert_eq!(name(unknown), None, "{unknown}");
        }
    }
}
