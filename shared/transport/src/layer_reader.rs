//! Reads one layer's stream to its end, or as far as its parity makes up for the rest. Which fetch the
//! layer belongs to is [`Routes`](crate::layer_router::Routes)' to know.

use std::future::{pending, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use edgeprompt_kv::LayerHasher;
use edgeprompt_protocol::{
    LAYER_HEADER_BYTES, LAYER_TRAILER_BYTES, LayerTrailer, PARITY_HEADER_BYTES,
};
use quinn::{Chunk, ReadError, RecvStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::close::LinkLost;
use crate::layer_router::Arriving;
use crate::layer_stream::LayerProblem;
use crate::parity::{GAPS_MAX, Gaps, Repair, Strides};

/// Bytes of a layer that are hashed at a time.
const HASHED_BYTES_MIN: usize = 64 << 10;

/// A parity that has begun to come.
pub(crate) struct IncomingParity {
    /// Bytes of its planes, which fit the layer.
    pub(crate) strides: Strides,
    /// What follows its header.
    pub(crate) stream: RecvStream,
}

/// What a layer is read from.
pub(crate) struct LayerSource<'a> {
    /// Its stream, after the header.
    pub(crate) stream: &'a mut RecvStream,
    /// Its parity, if one comes.
    pub(crate) parity: oneshot::Receiver<IncomingParity>,
    /// Measures the link.
    pub(crate) arriving: Arriving<'a>,
    /// How long nothing may come.
    pub(crate) patience: Duration,
}

/// A layer of which every byte is there, as its digest says.
pub(crate) struct WholeLayer {
    pub(crate) payload: Bytes,
    pub(crate) trailer: LayerTrailer,
    /// Of payload and trailer, what did not come and was rebuilt from the parity.
    pub(crate) rebuilt_bytes: usize,
}

/// Payload and trailer as they fill.
struct Filling {
    bytes: BytesMut,
    payload_bytes: usize,
    /// Bytes without a gap.
    filled: usize,
    hashed: usize,
    hasher: LayerHasher,
}

/// What happened next while bytes are read in order.
enum InOrder {
    Read(Result<Option<usize>, ReadError>),
    Parity(Option<IncomingParity>),
}

/// What happened next while they are read as they come.
enum AsTheyCome {
    Layer(Result<Option<Chunk>, ReadError>),
    Parity(Option<Chunk>),
    /// All that has arrived is read.
    Drained,
}

impl LayerSource<'_> {
    /// Reads a layer with so many bytes of payload, hashing as the bytes come.
    ///
    /// # Errors
    /// [`LayerProblem`].
    pub(crate) async fn read(
        mut self,
        payload_bytes: usize,
        hasher: LayerHasher,
    ) -> Result<WholeLayer, LayerProblem> {
        let mut filling = Filling {
            bytes: BytesMut::zeroed(payload_bytes + LAYER_TRAILER_BYTES),
            payload_bytes,
            filled: 0,
            hashed: 0,
            hasher,
        };
        let rebuilt_bytes = match self.read_in_order(&mut filling).await? {
            Some(parity) => self.read_as_they_come(&mut filling, parity).await?,
            None => 0,
        };
        filling.finish(rebuilt_bytes)
    }

    /// Reads until the stream ends, or until its parity comes: then something sent before that is
    /// missing.
    async fn read_in_order(
        &mut self,
        filling: &mut Filling,
    ) -> Result<Option<IncomingParity>, LayerProblem> {
        let mut expects_parity = true;
        loop {
            let is_whole = filling.filled == filling.bytes.len();
            // One more byte than there should be: the read that fills a layer is not its last.
            let mut beyond = [0];
            let place = match &mut filling.bytes[filling.filled..] {
                [] => &mut beyond[..],
                place => place,
            };
            let step = async {
                // One read takes all that has arrived: packet by packet, timers and locks would
                // cost more than the bytes.
                tokio::select! {
                    biased;
                    read = self.stream.read(place) => InOrder::Read(read),
                    parity = &mut self.parity, if expects_parity => InOrder::Parity(parity.ok()),
                }
            };
            let step = timeout(self.patience, step).await;
            match step.map_err(|_| LayerProblem::Stalled)? {
                InOrder::Read(read) => match read? {
                    None if is_whole => return Ok(None),
                    None => return Err(LayerProblem::Truncated),
                    Some(_) if is_whole => return Err(LayerProblem::Overlong),
                    Some(count) => {
                        self.arriving.count(count);
                        filling.advance(count);
                    }
                },
                InOrder::Parity(Some(parity)) => return Ok(Some(parity)),
                InOrder::Parity(None) => expects_parity = false,
            }
        }
    }

    /// Reads on, in whatever order bytes come, until nothing is missing; returns how many bytes the
    /// parity has brought. The stream may have more: whoever drops it stops it.
    async fn read_as_they_come(
        &mut self,
        filling: &mut Filling,
        parity: IncomingParity,
    ) -> Result<usize, LayerProblem> {
        let mut missing = Gaps::of(filling.filled..filling.bytes.len());
        let mut repair = Repair::new(parity.strides);
        let mut parity = Some(parity.stream);
        let (mut rebuilt_bytes, mut has_news) = (0, true);
        while !missing.is_empty() {
            let step = async {
                tokio::select! {
                    biased;
                    chunk = self.stream.read_chunk(usize::MAX, false) => AsTheyCome::Layer(chunk),
                    chunk = next_of(&mut parity) => AsTheyCome::Parity(chunk),
                    () = ready(()), if has_news => AsTheyCome::Drained,
                }
            };
            let step = timeout(self.patience, step).await;
            match step.map_err(|_| LayerProblem::Stalled)? {
                AsTheyCome::Layer(chunk) => {
                    let chunk = chunk?.ok_or(LayerProblem::Truncated)?;
                    self.arriving.count(chunk.bytes.len());
                    filling.place(&chunk, &mut missing)?;
                    has_news = true;
                }
                AsTheyCome::Parity(chunk) => {
                    let used = chunk.is_some_and(|chunk| {
                        let offset = place_of(&chunk, PARITY_HEADER_BYTES);
                        offset.is_some_and(|offset| repair.receive(offset, &chunk.bytes).is_ok())
                    });
                    // Whole, or of no use: the layer may still come by itself.
                    if !used {
                        parity = None;
                    }
                    has_news = true;
                }
                AsTheyCome::Drained => {
                    let count = repair.rebuild(&mut filling.bytes, &mut missing);
                    self.arriving.count(count);
                    rebuilt_bytes += count;
                    has_news = false;
                }
            }
        }
        filling.filled = filling.bytes.len();
        Ok(rebuilt_bytes)
    }
}

impl Filling {
    /// So many more bytes are there, without a gap.
    fn advance(&mut self, count: usize) {
        self.filled += count;
        let hashable = self.filled.min(self.payload_bytes);
        // Less at a time would leave most of the hash's lanes empty.
        if hashable - self.hashed >= HASHED_BYTES_MIN {
            self.hasher.update(&self.bytes[self.hashed..hashable]);
            self.hashed = hashable;
        }
    }

    /// Bytes from somewhere. None of them is hashed yet: what is hashed came in order.
    fn place(&mut self, chunk: &Chunk, missing: &mut Gaps) -> Result<(), LayerProblem> {
        let start = place_of(chunk, LAYER_HEADER_BYTES).ok_or(LayerProblem::Overlong)?;
        let end = start.checked_add(chunk.bytes.len());
        let end = end.ok_or(LayerProblem::Overlong)?;
        let place = self.bytes.get_mut(start..end);
        place
            .ok_or(LayerProblem::Overlong)?
            .copy_from_slice(&chunk.bytes);
        missing.fill(start..end);
        if missing.count() > GAPS_MAX {
            return Err(LayerProblem::Scattered);
        }
        Ok(())
    }

    /// The layer, if it is what its digest says.
    fn finish(mut self, rebuilt_bytes: usize) -> Result<WholeLayer, LayerProblem> {
        let rest = &self.bytes[self.hashed..self.payload_bytes];
        self.hasher.update(rest);
        let end = self.bytes.split_off(self.payload_bytes);
        let mut trailer = [0; LAYER_TRAILER_BYTES];
        trailer.copy_from_slice(&end);
        let trailer = LayerTrailer::decode(&trailer)?;
        if self.hasher.finish() != trailer.digest {
            return Err(LayerProblem::Corrupt);
        }
        Ok(WholeLayer {
            payload: self.bytes.freeze(),
            trailer,
            rebuilt_bytes,
        })
    }
}

/// Where a chunk's bytes belong, counted from the end of the stream's header.
fn place_of(chunk: &Chunk, header_bytes: usize) -> Option<usize> {
    usize::try_from(chunk.offset)
        .ok()?
        .checked_sub(header_bytes)
}

/// The next bytes of a stream, `None` at its end; for ever if there is no stream.
async fn next_of(stream: &mut Option<RecvStream>) -> Option<Chunk> {
    match stream {
        Some(stream) => stream.read_chunk(usize::MAX, false).await.ok().flatten(),
        None => pending().await,
    }
}

impl From<ReadError> for LayerProblem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Lost(LinkLost::from(error)),
            ReadError::Reset(_)
            | ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => Self::Truncated,
        }
    }
}
