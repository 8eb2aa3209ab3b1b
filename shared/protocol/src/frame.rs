//! Frames: how a reader knows where a message ends. What is in them is [`codec`](crate::codec)'s.
//!
//! A frame is a `u32` length, little-endian, and as many bytes of body. Parsing is incremental and
//! pure: the caller reads what [`FrameProgress::Needs`] asks for and calls again.

use crate::prompt::{PROMPT_TOKENS_MAX, PUBLIC_TEXT_BYTES_MAX};

/// Bytes of the length in front of every body.
pub const FRAME_PREFIX_BYTES: usize = 4;

/// Largest body of a message: a manifest with the longest prompt, as tokens and as text, fits.
pub const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// Most bytes to ask for at once. A length is only a claim: memory for a body is to grow as its bytes
/// come.
pub const FRAME_STEP_BYTES: usize = 64 << 10;

/// A token takes at most five bytes on the wire; 4 KiB cover every other field.
const _: () = assert!(PROMPT_TOKENS_MAX * 5 + PUBLIC_TEXT_BYTES_MAX + 4096 <= MESSAGE_BYTES_MAX);

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length is beyond the limit; nothing of the body was read.
    #[error("a message of {bytes} bytes exceeds {MESSAGE_BYTES_MAX}")]
    TooLarge {
        /// The length claimed.
        bytes: u64,
    },
    /// The length is zero, and no message is.
    #[error("a message has no bytes")]
    Empty,
}

/// How far the bytes at hand go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameProgress<'a> {
    /// This many more bytes are needed before there is more to say; never zero, never more than
    /// [`FRAME_STEP_BYTES`], whatever length is claimed.
    Needs(usize),
    /// The frame is whole.
    Whole {
        /// Its body.
        body: &'a [u8],
        /// The bytes after it.
        rest: &'a [u8],
    },
}

/// Looks for one frame at the start of `received`.
///
/// # Errors
/// [`FrameError`] as soon as the length is known to be refused.
pub fn parse(received: &[u8]) -> Result<FrameProgress<'_>, FrameError> {
    let Some((prefix, after)) = received.split_first_chunk::<FRAME_PREFIX_BYTES>() else {
        return Ok(FrameProgress::Needs(FRAME_PREFIX_BYTES - received.len()));
    };
    let claimed = u32::from_le_bytes(*prefix);
    let too_large = FrameError::TooLarge {
        bytes: claimed.into(),
    };
    let body_bytes = usize::try_from(claimed).map_err(|_| too_large)?;
    match body_bytes {
        0 => Err(FrameError::Empty),
        _ if body_bytes > MESSAGE_BYTES_MAX => Err(too_large),
        _ => Ok(after.split_at_checked(body_bytes).map_or_else(
            || FrameProgress::Needs((body_bytes - after.len()).min(FRAME_STEP_BYTES)),
            |(body, rest)| FrameProgress::Whole { body, rest },
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_arrives_byte_by_byte() {
        let frame = [3, 0, 0, 0, 7, 8, 9, 1];
        assert_eq!(parse(&[]), Ok(FrameProgress::Needs(4)));
        assert_eq!(parse(&frame[..3]), Ok(FrameProgress::Needs(1)));
        assert_eq!(parse(&frame[..4]), Ok(FrameProgress::Needs(3)));
        assert_eq!(parse(&frame[..6]), Ok(FrameProgress::Needs(1)));
        assert_eq!(
            parse(&frame),
            Ok(FrameProgress::Whole {
                body: &[7, 8, 9],
                rest: &[1]
            })
        );
    }

    #[test]
    fn an_oversized_or_empty_length_is_refused_before_any_body() {
        assert_eq!(
            parse(&u32::MAX.to_le_bytes()),
            Err(FrameError::TooLarge { bytes: 4294967295 })
        );
        let over = u32::try_from(MESSAGE_BYTES_MAX).unwrap() + 1;
        assert!(matches!(
            parse(&over.to_le_bytes()),
            Err(FrameError::TooLarge { .. })
        ));
        assert_eq!(
            parse(&(over - 1).to_le_bytes()),
            Ok(FrameProgress::Needs(FRAME_STEP_BYTES))
        );
        assert_eq!(parse(&[0; 4]), Err(FrameError::Empty));
    }

    /// Reads a frame as a stream does; returns the most memory that was ever ahead of its bytes.
    fn read_ahead_bytes(frame: &[u8]) -> usize {
        let (mut received, mut ahead_max) = (Vec::new(), 0);
        while let Ok(FrameProgress::Needs(count)) = parse(&received) {
            let came = received.len();
            received.resize(came + count, 0);
            ahead_max = ahead_max.max(received.capacity() - came);
            received[came..].copy_from_slice(&frame[came..came + count]);
        }
        assert_eq!(received, frame);
        ahead_max
    }

    #[test]
    fn memory_grows_as_the_body_comes() {
        for body_bytes in [1, FRAME_STEP_BYTES - 1, 1 << 20, MESSAGE_BYTES_MAX] {
            let length = u32::try_from(body_bytes).unwrap().to_le_bytes();
            let frame = [&length[..], &vec![7; body_bytes]].concat();
            // A vector that grows at least doubles, so that it is as much ahead as has come.
            let ahead = read_ahead_bytes(&frame);
            assert!(
                ahead <= body_bytes.max(FRAME_STEP_BYTES) + FRAME_PREFIX_BYTES,
                "{ahead}"
            );
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_ask_for_more_than_a_step(bytes: Vec<u8>) {
            if let Ok(FrameProgress::Needs(count)) = parse(&bytes) {
                prop_assert!(0 < count && count <= FRAME_STEP_BYTES);
            }
        }
    }
}
