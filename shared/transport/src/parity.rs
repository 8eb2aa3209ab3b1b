//! Parity of a layer's bytes: enough to rebuild what a few lost packets took, a round trip before it
//! could come again. Pure: bytes, ranges and counts, no stream and no clock.
//!
//! There are two planes. A plane of stride `s` is the exclusive or of the protected bytes' rows of `s`
//! bytes, so that a column of which one byte is missing can be solved. A packet is much shorter than
//! a stride; two lost ones that share columns in one plane are apart in the other, whose stride is no
//! multiple, and what one plane solves leaves fewer unknowns to the other. What comes out is as
//! trustworthy as what went in: the layer's digest decides.

mod gaps;
mod losses;
mod repair;
#[cfg(test)]
mod tests;

pub(crate) use gaps::{GAPS_MAX, Gaps};
pub(crate) use losses::{LossMeter, PacketCounts};
pub(crate) use repair::Repair;

use edgeprompt_protocol::PARITY_PLANE_COUNT;

/// Bytes of each plane.
pub(crate) type Strides = [usize; PARITY_PLANE_COUNT];

/// Packets of the first plane for each packet that a layer is expected to lose. Two that are lost
/// meet in this plane once in four times this, and seldom in the other one as well.
const PLANE_PACKETS_PER_LOST: u64 = 8;

/// Smallest first plane: at lower loss, more than one lost packet of a layer is a burst.
const PLANE_PACKETS_MIN: u64 = 4;

/// The first plane is at most this part of what it protects.
const PLANE_PART: u64 = 16;

/// Planes this much too short for the path's loss would rebuild next to nothing.
const SHORTAGE_MAX: u64 = 3;

/// How long the planes should be, if parity is of use: none on a path that loses nothing, for layers
/// of few packets, and where far more is lost than planes of bounded length can rebuild.
pub(crate) fn strides_for(
    protected_bytes: usize,
    packet_bytes: usize,
    recent: PacketCounts,
) -> Option<Strides> {
    let packet_bytes = packet_bytes.max(1);
    let packet_count = protected_bytes.div_ceil(packet_bytes) as u64;
    let cap = packet_count / PLANE_PART;
    if recent.lost == 0 || cap == 0 {
        return None;
    }
    let expected = packet_count
        .saturating_mul(PLANE_PACKETS_PER_LOST)
        .saturating_mul(recent.lost);
    let wanted = expected.div_ceil(recent.sent.max(1)).max(PLANE_PACKETS_MIN);
    if wanted > PLANE_PACKETS_MIN && wanted > cap * SHORTAGE_MAX {
        return None;
    }
    let first = wanted.min(cap);
    // About √2 times the first, and never a multiple of it.
    let second = first + first * 2 / 5 + 1;
    let bytes = |packets| usize::try_from(packets).map(|packets: usize| packets * packet_bytes);
    Some([bytes(first).ok()?, bytes(second).ok()?])
}

/// The planes of `parts`, taken as one run of bytes, one after the other.
pub(crate) fn planes_of(parts: &[&[u8]], strides: Strides) -> Vec<u8> {
    let mut planes = vec![0; strides.iter().sum()];
    let (first, second) = planes.split_at_mut(strides[0]);
    for plane in [first, second] {
        let mut column = 0;
        for part in parts {
            column = fold(plane, column, part);
        }
    }
    planes
}

/// Adds `bytes`, the first of which is in `column`; returns the column after the last.
fn fold(plane: &mut [u8], column: usize, mut bytes: &[u8]) -> usize {
    let mut column = column;
    while !bytes.is_empty() {
        let (row, rest) = bytes.split_at(bytes.len().min(plane.len() - column));
        add(&mut plane[column..column + row.len()], row);
        column = (column + row.len()) % plane.len();
        bytes = rest;
    }
    column
}

/// Exclusive or, as far as the shorter of the two reaches.
fn add(sum: &mut [u8], bytes: &[u8]) {
    for (sum, byte) in sum.iter_mut().zip(bytes) {
        *sum ^= byte;
    }
}
