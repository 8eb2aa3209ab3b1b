//! The bytes of a segment file, and what becomes of other bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::Cursor;

use edgeprompt_kv::{KvDtype, LayerIndex};
use edgeprompt_segment_store::{
    EncodeError, ReadError, SEGMENT_HEADER_BYTES_MAX, SegmentInfo, SegmentProblem, SegmentReader,
    SegmentWriter,
};
use proptest::prelude::*;
use support::{encoded, info, layer, layers};

/// Bytes before the tokens of a header, and where the header begins.
const FIXED_BYTES: usize = 88;
const HEADER_AT: usize = 12;

fn read(bytes: &[u8]) -> Result<SegmentInfo, ReadError> {
    let mut reader = SegmentReader::open(Cursor::new(bytes))?;
    reader.verify()?;
    Ok(reader.info().clone())
}

fn problem(bytes: &[u8]) -> SegmentProblem {
    match read(bytes) {
        Err(ReadError::Damaged(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

/// Puts other bytes at a place of the header, and the digest that they have.
fn forged(info: &SegmentInfo, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = encoded(info);
    file[HEADER_AT + at..HEADER_AT + at + bytes.len()].copy_from_slice(bytes);
    let length = u32::from_le_bytes(file[8..12].try_into().unwrap()) as usize;
    let end = HEADER_AT + length;
    let digest = blake3::hash(&file[..end]);
    file[end..end + 32].copy_from_slice(digest.as_bytes());
    file
}

#[test]
fn golden_bytes() {
    let info = info(1, 2);
    let file = encoded(&info);
    assert_eq!(file.len() as u64, info.file_bytes());
    let mut head = b"EPSEGMT1".to_vec();
    head.extend([98, 0, 0, 0]);
    head.extend(info.id().as_bytes());
    head.extend([7; 32]);
    head.extend([2, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
    head.extend([0, 1, 0, 0]);
    head.extend([2, 0, 0, 0, 2, 0, 0, 0]);
    head.extend([1, 0, 0, 0, 2, 0, 0, 0]);
    head.extend(b"Hi");
    assert_eq!(file[..head.len()], head);
    let whole = blake3::hash(&file).to_hex();
    assert_eq!(
        whole.as_str(),
        "0e5688a3ebca3b98d6bc48800e325293eb65ec7f28600eb6b5e8b99f134ae4ec"
    );
}

#[test]
fn a_segment_is_read_back_a_layer_at_a_time_in_any_order() {
    for dtype in KvDtype::ALL {
        let info = SegmentInfo {
            dtype,
            text: None,
            ..info(5, 3)
        };
        let file = encoded(&info);
        let mut reader = SegmentReader::open(Cursor::new(&file)).unwrap();
        assert_eq!(*reader.info(), info);
        for index in [1, 0, 1].map(LayerIndex) {
            assert_eq!(reader.layer(index).unwrap(), layer(&info, index));
        }
    }
}

#[test]
fn a_layer_belongs_to_its_file_and_its_place() {
    let (one, other) = (info(1, 2), info(2, 2));
    let (file, stranger) = (encoded(&one), encoded(&other));
    let stride = one.layer_bytes() + 32;
    let (first, second) = (file.len() - 2 * stride, file.len() - stride);
    let mut swapped = file[..first].to_vec();
    swapped.extend(&file[second..]);
    swapped.extend(&file[first..second]);
    assert_eq!(problem(&swapped), SegmentProblem::LayerDigest(0));
    let mut mixed = file[..second].to_vec();
    mixed.extend(&stranger[second..]);
    assert_eq!(problem(&mixed), SegmentProblem::LayerDigest(1));
}

#[test]
fn a_header_that_contradicts_itself_is_refused_whatever_its_digest() {
    let info = info(1, 2);
    let huge = u32::MAX.to_le_bytes();
    assert_eq!(problem(&forged(&info, 0, &[9])), SegmentProblem::PromptId);
    assert_eq!(problem(&forged(&info, 64, &huge)), SegmentProblem::Header);
    assert_eq!(problem(&forged(&info, 76, &[9])), SegmentProblem::Header);
    assert_eq!(problem(&forged(&info, 80, &huge)), SegmentProblem::Size);
    assert_eq!(problem(&forged(&info, 84, &huge)), SegmentProblem::Size);
    assert_eq!(problem(&forged(&info, 80, &[3])), SegmentProblem::Header);
    let not_text = forged(&info, FIXED_BYTES + 8, &[0xff, 0xff]);
    assert_eq!(problem(&not_text), SegmentProblem::Header);
    // One more layer than the file has.
    let longer = forged(&info, 64, &[3]);
    assert!(matches!(problem(&longer), SegmentProblem::Length { .. }));
    let mut long_header = encoded(&info);
    let too_long = u32::try_from(SEGMENT_HEADER_BYTES_MAX + 1).unwrap();
    long_header[8..12].copy_from_slice(&too_long.to_le_bytes());
    assert_eq!(problem(&long_header), SegmentProblem::Size);
}

#[test]
fn only_whole_segments_of_one_shape_are_written() {
    let info = info(1, 2);
    let begin = || SegmentWriter::begin(Vec::new(), info.clone()).unwrap();
    let mut writer = begin();
    writer.layer(&layers(&info)[0]).unwrap();
    assert!(matches!(
        writer.finish(),
        Err(EncodeError::Incomplete {
            written: 1,
            layer_count: 2
        })
    ));
    let other = support::info(1, 3);
    let wrong = begin().layer(&layers(&other)[0]);
    assert!(matches!(wrong, Err(EncodeError::Layer(0))));
    let empty = SegmentWriter::begin(Vec::new(), support::info(1, 0));
    assert!(matches!(
        empty.unwrap_err(),
        EncodeError::Info(SegmentProblem::Size)
    ));
}

/// One change to a file.
#[derive(Clone, Debug)]
enum Mutation {
    Flip {
        at: prop::sample::Index,
        bit: u8,
    },
    Truncate(prop::sample::Index),
    Append(Vec<u8>),
    Replace {
        at: prop::sample::Index,
        with: Vec<u8>,
    },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<prop::sample::Index>;
    let some = || proptest::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        (at(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        at().prop_map(Mutation::Truncate),
        some().prop_map(Mutation::Append),
        (at(), some()).prop_map(|(at, with)| Mutation::Replace { at, with }),
    ]
}

fn mutate(file: &mut Vec<u8>, mutation: &Mutation) {
    if file.is_empty() {
        return;
    }
    match mutation {
        Mutation::Flip { at, bit } => {
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
        }
        Mutation::Truncate(at) => file.truncate(at.index(file.len())),
        Mutation::Append(more) => file.extend(more),
        Mutation::Replace { at, with } => {
            let at = at.index(file.len());
            let count = with.len().min(file.len() - at);
            file[at..at + count].copy_from_slice(&with[..count]);
        }
    }
}

proptest! {
    #[test]
    fn a_file_that_was_changed_is_refused(
        first in 0u32..9, count in 1u32..6, mutations in proptest::collection::vec(mutation(), 1..4),
    ) {
        let original = encoded(&info(first, count));
        let mut changed = original.clone();
        for mutation in &mutations {
            mutate(&mut changed, mutation);
        }
        prop_assert_eq!(read(&changed).is_ok(), changed == original);
    }

    #[test]
    fn a_header_of_any_bytes_is_refused_or_whole(
        at in 0usize..98, with in proptest::collection::vec(any::<u8>(), 1..30),
    ) {
        let info = info(1, 2);
        let count = with.len().min(98 - at);
        let file = forged(&info, at, &with[..count]);
        // The digest is right, so this reaches every check behind it.
        if let Ok(read) = read(&file) {
            prop_assert_eq!(read.file_bytes(), file.len() as u64);
        }
    }
}
