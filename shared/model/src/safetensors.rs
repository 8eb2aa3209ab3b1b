//! The header of a safetensors file: eight bytes of length, JSON, then the tensors without gaps.
//!
//! It is read here rather than by a library because every error is to name the tensor at fault,
//! and because a tensor that is declared twice is to be one.

use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::number_format::{DeclaredFormat, NumberFormat};
use crate::stored_tensor::{
    DeclaredTensor, FaultyTensor, Gaps, RowOrder, TensorFault, check_places, countable,
};

/// Why a safetensors header is refused.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The file is too short to be one.
    #[error("{0} bytes are too few for a safetensors file")]
    TooShort(usize),
    /// The header is longer than the file, or than any.
    #[error("the header says it has {declared} bytes: at most {most} are possible")]
    Length {
        /// Length the file begins with.
        declared: u64,
        /// The most that is possible in this file.
        most: u64,
    },
    /// The header is not the JSON of tensors.
    #[error("the header cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A tensor does not fit the file.
    #[error(transparent)]
    Tensor(#[from] FaultyTensor),
}

/// Longest header read, in bytes; the format's own limit.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// Bytes of the length that the file begins with.
const LENGTH_BYTES: usize = 8;

/// The tensors of a file, every one within it.
///
/// # Errors
/// [`HeaderError`] names the tensor where one is at fault.
pub(crate) fn read_header(file: &[u8]) -> Result<Vec<DeclaredTensor>, HeaderError> {
    let (length, rest) = file
        .split_first_chunk::<LENGTH_BYTES>()
        .ok_or(HeaderError::TooShort(file.len()))?;
    let declared = u64::from_le_bytes(*length);
    let most = HEADER_BYTES_MAX.min(rest.len() as u64);
    let header_len = usize::try_from(declared).ok().filter(|_| declared <= most);
    let header_len = header_len.ok_or(HeaderError::Length { declared, most })?;
    let (header, data) = rest.split_at(header_len);
    let header: Header = serde_json::from_slice(header)?;
    let data_start = LENGTH_BYTES + header_len;
    let placed = |(name, published): (String, Published)| place(name, &published, data.len());
    let mut tensors = header
        .0
        .into_iter()
        .map(placed)
        .collect::<Result<Vec<_>, _>>()?;
    for tensor in &mut tensors {
        tensor.bytes = data_start + tensor.bytes.start..data_start + tensor.bytes.end;
    }
    check_places(&tensors, data_start..file.len(), Gaps::Refused)?;
    Ok(tensors)
}

fn place(
    name: String,
    published: &Published,
    data_len: usize,
) -> Result<DeclaredTensor, FaultyTensor> {
    let refused = |fault| FaultyTensor {
        name: name.clone(),
        fault,
    };
    let shape = countable(&published.shape).map_err(refused)?;
    let (start, end) = published.data_offsets;
    let outside = || TensorFault::Outside {
        start,
        end,
        len: data_len,
    };
    let within = |offset: u64| usize::try_from(offset).ok().filter(|at| *at <= data_len);
    let bytes = within(start)
        .zip(within(end))
        .filter(|(start, end)| start <= end);
    let (start, end) = bytes.ok_or_else(|| refused(outside()))?;
    let tensor = DeclaredTensor {
        format: match published.dtype.as_str() {
            "F32" => DeclaredFormat::Read(NumberFormat::F32),
            "F16" => DeclaredFormat::Read(NumberFormat::F16),
            "BF16" => DeclaredFormat::Read(NumberFormat::Bf16),
            other => DeclaredFormat::Unread(other.to_owned()),
        },
        name,
        shape,
        bytes: start..end,
        rows: RowOrder::Published,
    };
    tensor.checked()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Every entry of the header, those of one name too.
struct Header(Vec<(String, Published)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let published = map.next_value();
            let named = |error| A::Error::custom(format_args!("tensor {name:?}: {error}"));
            let published = published.map_err(named)?;
            entries.push((name, published));
        }
        Ok(Header(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data_len: usize) -> Vec<u8> {
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + data_len, 0);
        file
    }

    fn entry(name: &str, shape: &str, start: u64, end: u64) -> String {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    }

    fn refused(entries: &[String], data_len: usize) -> String {
        let header = format!("{{{}}}", entries.join(","));
        read_header(&file(&header, data_len))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn tensors_are_found_where_they_are() {
        let header = format!(
            r#"{{"__metadata__":{{"format":"pt"}},{},{}}}"#,
            entry("b", "[2,3]", 4, 28),
            entry("a", "[1]", 0, 4)
        );
        let tensors = read_header(&file(&header, 28)).unwrap();
        let data_start = 8 + header.len();
        assert_eq!(tensors[0].name, "b");
        assert_eq!(tensors[0].shape, [2, 3]);
        assert_eq!(tensors[0].bytes, data_start + 4..data_start + 28);
    }

    #[test]
    fn a_header_that_is_no_header_is_refused() {
        let error = |file: &[u8]| read_header(file).unwrap_err().to_string();
        assert_eq!(error(&[0; 7]), "7 bytes are too few for a safetensors file");
        let long = error(&u64::MAX.to_le_bytes());
        assert!(long.ends_with("at most 0 are possible"), "{long}");
        assert!(error(&file("[]", 0)).contains("a map of tensors"));
        let deep = format!(r#"{{"a":{}"#, "[".repeat(100_000));
        assert!(error(&file(&deep, 0)).contains("tensor \"a\""));
        let deep = format!(r#"{{"__metadata__":{}"#, "[".repeat(100_000));
        assert!(error(&file(&deep, 0)).contains("cannot be read"));
        assert!(error(&file("{\"\u{1}\":0}", 0)).contains("control character"));
        let mut latin = file(r#"{"aa":0}"#, 0);
        latin[10] = 0xe9;
        assert!(error(&latin).contains("cannot be read"));
    }

    #[test]
    fn tensors_that_do_not_fit_the_file_are_refused_by_name() {
        let a = || entry("a", "[1]", 0, 4);
        assert_eq!(refused(&[a(), a()], 4), "tensor \"a\" is there twice");
        let overlap = refused(&[a(), entry("b", "[2]", 0, 8)], 8);
        assert!(overlap.contains("\"b\" begins inside another"), "{overlap}");
        let gap = refused(&[a(), entry("b", "[1]", 8, 12)], 12);
        assert!(gap.contains("\"b\" begins at byte"), "{gap}");
        let beyond = refused(&[entry("a", "[2]", 0, 8)], 4);
        assert_eq!(
            beyond,
            "tensor \"a\" lies at bytes 0..8 of 4 bytes of tensors"
        );
        let backwards = refused(&[entry("a", "[1]", 4, 0)], 4);
        assert!(backwards.contains("4..0 of 4"), "{backwards}");
        let size = refused(&[entry("a", "[2]", 0, 4)], 4);
        assert_eq!(size, "tensor \"a\" has 4 bytes, its shape asks for 8");
        let rest = refused(&[a()], 5);
        assert_eq!(rest, "tensor \"a\" has 5 bytes, its shape asks for 4");
        let huge = refused(&[entry("a", "[4294967296,4294967296]", 0, 4)], 4);
        assert!(huge.contains("impossible shape"), "{huge}");
        let negative = refused(&[entry("a", "[-1]", 0, 4)], 4);
        assert!(
            negative.contains("tensor \"a\": invalid value"),
            "{negative}"
        );
        let long = refused(&[entry(&"n".repeat(300), "[1]", 0, 4)], 4);
        assert!(long.contains("a name of 300 bytes"), "{long}");
    }
}
