//! Where to take the keys and values of a public prompt from, and how long that should take. Pure: what
//! has been measured in, a plan with its prediction out.
//!
//! A source that was not measured lately is tried if no nearer one is known to be the best: that is how
//! it is measured, and patience ends what takes too long.
//!
//! Nothing private is an input: what an edge asks for is seen by others.

use std::time::Duration;

use edgeprompt_kv::{KvDtype, KvGeometry, LayerIndex};
use edgeprompt_transport::LinkEstimate;

use crate::fetch_plan::{LayerCosts, felt};
use crate::prefill_speed::PrefillSpeed;
use crate::wire_codec::{Codecs, encoding};

mod first_token;

pub use first_token::PrivateWork;

/// What is known of a cloud, or a neighbour, and of the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloudEstimate {
    /// The way.
    pub link: LinkEstimate,
    /// How fast it computed the layer that came last; no time at all if that was stored.
    pub speed: PrefillSpeed,
}

/// How fast a disk gave what was read last, verification included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadSpeed {
    /// So many bytes of keys and values.
    pub bytes: usize,
    /// In this time.
    pub time: Duration,
}

/// What is known of the speed of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known<T> {
    /// Nothing.
    Unmeasured,
    /// What was measured lately.
    Measured(T),
}

impl<T> From<Option<T>> for Known<T> {
    fn from(measured: Option<T>) -> Self {
        measured.map_or(Self::Unmeasured, Self::Measured)
    }
}

/// The prompt to be brought in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    geometry: KvGeometry,
    token_count: usize,
}

impl Job {
    /// A prompt of so many tokens.
    pub const fn new(geometry: KvGeometry, token_count: usize) -> Self {
        Self {
            geometry,
            token_count,
        }
    }

    const fn layer_numbers(&self) -> usize {
        self.layer_bytes(KvDtype::F32) / size_of::<f32>()
    }

    const fn layer_bytes(&self, dtype: KvDtype) -> usize {
        self.geometry.layer_bytes(self.token_count, dtype)
    }
}

/// A disk that has the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDisk {
    /// The number format in which it has it.
    pub dtype: KvDtype,
    /// How fast it is.
    pub speed: Known<ReadSpeed>,
}

/// Whether this edge can compute the prompt's layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tokens {
    /// It knows the prompt's tokens.
    Known,
    /// Whoever sends the layers will say what they are of.
    #[default]
    Unknown,
}

/// A neighbour that may have the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which one.
    pub index: usize,
    /// The number format in which it is asked for it.
    pub dtype: KvDtype,
    /// How fast it is.
    pub speed: Known<CloudEstimate>,
}

/// A cloud that serves the prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromCloud {
    /// The number formats in which it may be asked for it.
    pub codecs: Codecs,
    /// How fast it is.
    pub speed: Known<CloudEstimate>,
}

/// From where a prompt can be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// It is in memory.
    pub is_in_memory: bool,
    /// This disk has it.
    pub disk: Option<OnDisk>,
    /// Neighbours, in the order of preference.
    pub peers: Vec<Peer>,
    /// The cloud serves it.
    pub cloud: Option<FromCloud>,
    /// Computing it here.
    pub tokens: Tokens,
}

/// Where a prompt's layers are to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// They are in memory.
    Memory,
    /// This disk.
    Disk,
    /// The neighbour with this index.
    Peer(usize),
    /// The cloud streams all of them.
    Cloud,
    /// All are computed here.
    Local,
    /// The layers before this one are computed here while the cloud streams the others.
    Hybrid(LayerIndex),
}

impl Source {
    /// Every label there is.
    pub const LABELS: [&str; 6] = ["memory", "disk", "peer", "cloud", "local", "hybrid"];

    /// As a metric's label and as clients are told.
    pub const fn label(self) -> &'static str {
        let place = match self {
            Self::Memory => 0,
            Self::Disk => 1,
            Self::Peer(_) => 2,
            Self::Cloud => 3,
            Self::Local => 4,
            Self::Hybrid(_) => 5,
        };
        Self::LABELS[place]
    }
}

/// One way to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Course {
    source: Source,
    /// The number format in which its layers come, if any come.
    codec: Option<KvDtype>,
    /// What its layers take; `None` if that was not measured.
    costs: Option<LayerCosts>,
    /// Layers before this one are computed here.
    first: LayerIndex,
}

impl Course {
    fn time(&self) -> Option<Duration> {
        self.costs.map(|costs| costs.time(self.first.0))
    }

    fn time_with(&self, work: Duration) -> Option<Duration> {
        self.costs.map(|costs| costs.time_with(self.first.0, work))
    }
}

/// Where to take layers from, and what that should take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    course: Course,
    /// Until the last layer is there, by the best of the sources that were not chosen.
    best_other: Option<Duration>,
}

impl Plan {
    /// Where they are to come from.
    pub const fn source(&self) -> Source {
        self.course.source
    }

    /// The number format in which layers are to come; `None` if none are.
    pub const fn codec(&self) -> Option<KvDtype> {
        self.course.codec
    }

    /// The first layer that is not computed here; the number of layers if all are.
    pub const fn first_to_fetch(&self) -> LayerIndex {
        self.course.first
    }

    /// Until the last layer is here; `None` if nothing is known of the source.
    pub fn until_last_layer(&self) -> Option<Duration> {
        self.course.time_with(Duration::ZERO)
    }

    /// Until the edge is done with the last layer, if it works for so long on each once it is there;
    /// `None` if nothing is known of the source.
    pub fn until_done(&self, work: Duration) -> Option<Duration> {
        self.course.time_with(work)
    }

    /// How much longer it took until the last layer was there than the best alternative should have
    /// taken; `None` if none was known.
    pub fn regret(&self, actual: Duration) -> Option<Duration> {
        Some(actual.saturating_sub(self.best_other?))
    }
}

/// Plans for one model on this edge.
#[derive(Clone, Copy, Debug)]
pub struct Planner {
    speed: PrefillSpeed,
}

impl Planner {
    /// Plans for an edge that computes at `speed`.
    pub const fn new(speed: PrefillSpeed) -> Self {
        Self { speed }
    }

    /// How long this edge computes one layer over so many tokens.
    pub fn computing(&self, token_count: usize) -> Duration {
        self.speed.layer(token_count)
    }

    /// The best way to have a prompt; `None` if there is none. Of equally good ones, the nearest.
    ///
    /// By what was measured, none of memory, disk, neighbours, cloud and computing here would be
    /// faster by more than scheduling makes of it; of the cloud's number formats that are about as fast,
    /// the one that loses least. Working on both sides is planned where it saves a
    /// tenth.
    pub fn plan(&self, job: &Job, ways: &Ways) -> Option<Plan> {
        let singles = self.singles(job, ways);
        // Nearest first, so that the first of equals is the nearest.
        let measured = singles.iter().enumerate();
        let measured = measured.filter_map(|(place, it)| Some((felt(it.time()?), place)));
        let best = measured.min().map(|(_, place)| place);
        let untried = singles.iter().position(|it| it.costs.is_none());
        let place = match (untried, best) {
            (Some(untried), Some(best)) => untried.min(best),
            (untried, best) => untried.or(best)?,
        };
        let mut course = singles[place];
        let streamed = singles.iter().filter(|it| it.source == Source::Cloud);
        let shared = streamed.filter_map(|cloud| Self::shared(cloud, ways.tokens));
        let shared = shared.min_by_key(|shared| shared.time().map(felt));
        if let Some(shared) = shared.filter(|_| untried != Some(place))
            && felt(shared.time()?) < felt(course.time()?)
        {
            course = shared;
        }
        let others = singles.iter().filter(|it| it.source != course.source);
        let others = others.filter_map(|it| it.time_with(Duration::ZERO));
        Some(Plan {
            course,
            best_other: others.min(),
        })
    }

    /// Every source by itself, the nearest first.
    fn singles(&self, job: &Job, ways: &Ways) -> Vec<Course> {
        let all = LayerIndex(0);
        let course = |source, codec, costs| Course {
            source,
            codec,
            costs,
            first: all,
        };
        let nothing = self.costs(job, Duration::ZERO);
        let memory = ways
            .is_in_memory
            .then(|| course(Source::Memory, None, Some(nothing)));
        let disk = ways.disk.map(|OnDisk { dtype, speed }| {
            let costs = match speed {
                Known::Unmeasured => None,
                Known::Measured(speed) => {
                    Some(self.costs(job, speed.time_of(job.layer_bytes(dtype))))
                }
            };
            course(Source::Disk, Some(dtype), costs)
        });
        let peers = ways.peers.iter().map(|peer| {
            let costs = self.streaming(job, (peer.speed, peer.dtype));
            course(Source::Peer(peer.index), Some(peer.dtype), costs)
        });
        let cloud = ways.cloud.into_iter().flat_map(|cloud| {
            let codecs = match cloud.speed {
                // Of what is not known to be fast, as little as may be.
                Known::Unmeasured => Codecs::Only(cloud.codecs.smallest()),
                Known::Measured(_) => cloud.codecs,
            };
            codecs.to_ask_for().map(move |dtype| {
                let costs = self.streaming(job, (cloud.speed, dtype));
                course(Source::Cloud, Some(dtype), costs)
            })
        });
        let local = (ways.tokens == Tokens::Known).then_some(Course {
            source: Source::Local,
            codec: None,
            costs: Some(nothing),
            first: LayerIndex(job.geometry.layer_count()),
        });
        let near = memory.into_iter().chain(disk).chain(peers);
        near.chain(cloud).chain(local).collect()
    }

    /// This edge and the cloud, where sharing the work pays.
    fn shared(cloud: &Course, tokens: Tokens) -> Option<Course> {
        let costs = cloud.costs.filter(|_| tokens == Tokens::Known)?;
        let first = costs.first_to_fetch();
        (first.0 > 0 && first.0 < costs.layer_count).then_some(Course {
            source: Source::Hybrid(first),
            costs: Some(costs),
            first,
            ..*cloud
        })
    }

    /// Layers are encoded beside what is computed and sent. Of two machines in a row that take the same
    /// time for every layer, the slower one sets the pace, and the other is waited for once.
    fn streaming(
        &self,
        job: &Job,
        (speed, dtype): (Known<CloudEstimate>, KvDtype),
    ) -> Option<LayerCosts> {
        let Known::Measured(CloudEstimate { link, speed }) = speed else {
            return None;
        };
        let sending = time_of(job.layer_bytes(dtype), link.rate.bytes_per_second());
        let encoding = encoding(dtype, job.layer_numbers());
        Some(LayerCosts {
            computing_in_cloud: speed.layer(job.token_count),
            latency: link.rtt.saturating_add(encoding.min(sending)),
            ..self.costs(job, encoding.max(sending))
        })
    }

    /// Layers that are there at once and take so long to come.
    fn costs(&self, job: &Job, sending: Duration) -> LayerCosts {
        LayerCosts {
            layer_count: job.geometry.layer_count(),
            computing: self.speed.layer(job.token_count),
            computing_in_cloud: Duration::ZERO,
            sending,
            latency: Duration::ZERO,
        }
    }
}

impl ReadSpeed {
    /// Reading so many bytes.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    fn time_of(&self, bytes: usize) -> Duration {
        let seconds = self.time.as_secs_f64() * bytes as f64 / self.bytes.max(1) as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn time_of(bytes: usize, bytes_per_second: u64) -> Duration {
    let seconds = bytes as f64 / bytes_per_second.max(1) as f64;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
