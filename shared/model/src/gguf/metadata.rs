//! The keys and values of a GGUF file, found by name and read as the type that is asked for.

use std::collections::BTreeMap;

use super::GgufError;
use super::reader::Reader;

/// A value, as far as it has been read.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(&'a [u8]),
    /// Elements of one type, still as bytes.
    Array {
        element: u32,
        count: u64,
        bytes: &'a [u8],
    },
}

/// Every key of a file.
#[derive(Debug)]
pub(super) struct Metadata<'a> {
    values: BTreeMap<&'a str, Value<'a>>,
}

/// Numbers of the types, by the format's specification.
const UINT8: u32 = 0;
const INT8: u32 = 1;
const UINT16: u32 = 2;
const INT16: u32 = 3;
const UINT32: u32 = 4;
const INT32: u32 = 5;
const FLOAT32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const UINT64: u32 = 10;
const INT64: u32 = 11;
const FLOAT64: u32 = 12;

/// Fewest bytes of a key with its value: the key's length, the type and one byte.
const ENTRY_BYTES_MIN: u64 = 8 + 4 + 1;
/// Longest key, in bytes, by the format's specification.
const KEY_BYTES_MAX: usize = 65_535;

impl<'a> Metadata<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, count: u64) -> Result<Self, GgufError> {
        reader.check_count(count, ENTRY_BYTES_MIN, "keys")?;
        let mut values = BTreeMap::new();
        for _ in 0..count {
            let offset = reader.position();
            let key = reader.text("a key")?;
            if key.len() > KEY_BYTES_MAX {
                let (actual, most) = (key.len(), KEY_BYTES_MAX);
                return Err(GgufError::KeyLength {
                    offset,
                    actual,
                    most,
                });
            }
            let value_type = reader.u32("the type of a value")?;
            let value = value(reader, key, value_type)?;
            if values.insert(key, value).is_some() {
                return Err(GgufError::DuplicateKey(key.to_owned()));
            }
        }
        Ok(Self { values })
    }

    /// A number that is not negative.
    pub(super) fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        let expected = "a number that is not negative";
        self.parsed(key, expected, |value| match value {
            Value::Unsigned(number) => Some(number),
            Value::Signed(number) => u64::try_from(number).ok(),
            _ => None,
        })
    }

    /// A number with a fraction.
    pub(super) fn f64(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.parsed(key, "a floating-point number", |value| match value {
            Value::Float(number) => Some(number),
            _ => None,
        })
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.parsed(key, "true or false", |value| match value {
            Value::Bool(truth) => Some(truth),
            _ => None,
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.parsed(key, "UTF-8 text", |value| match value {
            Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        })
    }

    pub(super) fn required_text(&self, key: &str) -> Result<&'a str, GgufError> {
        self.text(key)?
            .ok_or_else(|| GgufError::MissingKey(key.to_owned()))
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, GgufError> {
        self.parsed(key, "a list of UTF-8 texts", |value| match value {
            Value::Array {
                element: STRING,
                count,
                bytes,
            } => {
                let mut reader = Reader::new(bytes);
                (0..count).map(|_| reader.text("a text").ok()).collect()
            }
            _ => None,
        })
    }

    pub(super) fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, GgufError> {
        self.parsed(key, "a list of f32", |value| match value {
            Value::Array {
                element: FLOAT32,
                bytes,
                ..
            } => Some(
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| f32::from_le_bytes(*b))
                    .collect(),
            ),
            _ => None,
        })
    }

    /// Numbers of 32 bits that are not negative.
    pub(super) fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, GgufError> {
        let expected = "a list of 32-bit numbers that are not negative";
        self.parsed(key, expected, |value| match value {
            Value::Array {
                element: UINT32,
                bytes,
                ..
            } => Some(
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| u32::from_le_bytes(*b))
                    .collect(),
            ),
            Value::Array {
                element: INT32,
                bytes,
                ..
            } => {
                let numbers = bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b));
                numbers.map(|number| u32::try_from(number).ok()).collect()
            }
            _ => None,
        })
    }

    fn parsed<T>(
        &self,
        key: &str,
        expected: &'static str,
        parse: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.values.get(key) else {
            return Ok(None);
        };
        let parsed = parse(*value).ok_or_else(|| GgufError::WrongType {
            key: key.to_owned(),
            expected,
        });
        parsed.map(Some)
    }
}

fn value<'a>(reader: &mut Reader<'a>, key: &str, value_type: u32) -> Result<Value<'a>, GgufError> {
    if value_type == STRING {
        return Ok(Value::Text(reader.string("a text")?));
    }
    if value_type == ARRAY {
        return array(reader, key);
    }
    let unread = || GgufError::ValueType {
        key: key.to_owned(),
        value_type,
    };
    let bytes = reader.bytes(scalar_bytes(value_type).ok_or_else(unread)?, "a value")?;
    // Little-endian: the low bytes come first, and zeroes above them change nothing.
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    let unsigned = u64::from_le_bytes(wide);
    let spare_bits = 64 - 8 * bytes.len();
    match value_type {
        UINT8 | UINT16 | UINT32 | UINT64 => Ok(Value::Unsigned(unsigned)),
        INT8 | INT16 | INT32 | INT64 => {
            // Shifting up and down again spreads the sign over the upper bytes.
            let signed = (unsigned << spare_bits).cast_signed() >> spare_bits;
            Ok(Value::Signed(signed))
        }
        FLOAT32 => {
            let [a, b, c, d, ..] = wide;
            Ok(Value::Float(as_written(f32::from_le_bytes([a, b, c, d]))))
        }
        FLOAT64 => Ok(Value::Float(f64::from_le_bytes(wide))),
        _ if unsigned <= 1 => Ok(Value::Bool(unsigned == 1)),
        _ => Err(GgufError::WrongType {
            key: key.to_owned(),
            expected: "true or false",
        }),
    }
}

/// The decimal number that was rounded to `number`: 0.00001, not 0.0000099999997…, as a
/// `config.json` has it.
fn as_written(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::NAN)
}

/// A list of scalars or texts; lists of lists are not read, so nothing nests.
fn array<'a>(reader: &mut Reader<'a>, key: &str) -> Result<Value<'a>, GgufError> {
    let element = reader.u32("the type of a list")?;
    let count = reader.u64("the length of a list")?;
    if element == STRING {
        const LENGTH_BYTES: u64 = 8;
        reader.check_count(count, LENGTH_BYTES, "texts")?;
        let mut ahead = Reader::new(reader.rest());
        for _ in 0..count {
            ahead.string("a text in a list")?;
        }
        let bytes = reader.bytes(ahead.position() as u64, "a list")?;
        return Ok(Value::Array {
            element,
            count,
            bytes,
        });
    }
    let size = scalar_bytes(element).ok_or_else(|| GgufError::ValueType {
        key: key.to_owned(),
        value_type: element,
    })?;
    reader.check_count(count, size, "list elements")?;
    let bytes = reader.bytes(count * size, "a list")?;
    Ok(Value::Array {
        element,
        count,
        bytes,
    })
}

const fn scalar_bytes(value_type: u32) -> Option<u64> {
    match value_type {
        UINT8 | INT8 | BOOL => Some(1),
        UINT16 | INT16 => Some(2),
        UINT32 | INT32 | FLOAT32 => Some(4),
        UINT64 | INT64 | FLOAT64 => Some(8),
        _ => None,
    }
}
