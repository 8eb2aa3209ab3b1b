//! One case: a prompt, a cut and a fault, all drawn from a seed.

use std::num::NonZeroU8;
use std::time::Duration;

use edge_node::patience::Patience;
use edgeprompt_kv::TokenId;
use edgeprompt_model::Model;
use edgeprompt_testkit::emulator::{
    BitRate, DirectionProfile, EmulatedLink, Probability, Reordering,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing listens.
    Unreachable,
    /// The cloud refuses.
    Refuse(RefusalKind),
    /// The cloud ends the request without an answer.
    NoAnswer,
    /// The manifest is of something else.
    Manifest(WrongManifest),
    /// The cloud is gone after so many layers, and says so.
    Die { after: usize },
    /// The link is closed after so many layers.
    CloseLink { after: usize, when: When },
    /// The cloud gives up after so many layers.
    Abandon { after: usize, when: When },
    /// The cloud sends so many layers, then nothing.
    Silence { after: usize, when: When },
    /// The bytes of one layer are not its own.
    Stream {
        layer: usize,
        damage: StreamDamage,
        when: When,
    },
    /// The layers come in another order.
    Shuffled { order: Vec<usize> },
    /// The link is cut after so many layers, for ever: the cloud is killed.
    Cut { after: usize },
    /// The link is cut at some moment, for ever.
    CutAt(Duration),
    /// The link drops everything for a while.
    CutAndResume { after: usize, pause: Duration },
    /// The link stands still for a while.
    StallAndResume { after: usize, pause: Duration },
    /// Datagrams are damaged.
    Corrupt(Probability),
    /// Datagrams are lost.
    Loss(Probability),
    /// Datagrams overtake each other.
    Reorder(Reordering),
}

/// Which fetches a fault meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    First,
    Always,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum RefusalKind {
    Busy,
    Internal,
    PublicPrompt,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum WrongManifest {
    Geometry,
    Model,
    Tokens,
    Layers,
    Fetch,
}

/// Places are fractions of the stream, in millionths.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StreamDamage {
    Flip { at_ppm: usize, bits: NonZeroU8 },
    Truncate { at_ppm: usize },
    Reset { at_ppm: usize },
    Stall { at_ppm: usize },
    Overlong { byte_count: usize },
    OtherPayload,
}

pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) fault: Fault,
    pub(crate) patience: Patience,
    pub(crate) public: Vec<TokenId>,
    pub(crate) private: Vec<TokenId>,
    pub(crate) max_tokens: usize,
}

/// The link of a case, fast and short but for its fault.
pub(crate) fn link_of(case: &Case) -> EmulatedLink {
    let rate = BitRate::megabits_per_second(400);
    let mut direction = DirectionProfile::constant(rate, Duration::from_micros(200));
    match case.fault {
        Fault::Loss(loss) => direction.loss = loss,
        Fault::Reorder(reordering) => direction.reordering = reordering,
        _ => {}
    }
    EmulatedLink::symmetric(direction, case.seed)
}

impl Fault {
    /// What the cases of a kind have in common.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refuse(_) => "refuse",
            Self::NoAnswer => "no answer",
            Self::Manifest(_) => "wrong manifest",
            Self::Die { .. } => "die",
            Self::CloseLink { .. } => "close the link",
            Self::Abandon { .. } => "abandon",
            Self::Silence { .. } => "silence",
            Self::Stream { damage, .. } => match damage {
                StreamDamage::Flip { .. } => "flip a byte",
                StreamDamage::Truncate { .. } => "truncate a stream",
                StreamDamage::Reset { .. } => "reset a stream",
                StreamDamage::Stall { .. } => "stall a stream",
                StreamDamage::Overlong { .. } => "overlong stream",
                StreamDamage::OtherPayload => "another payload",
            },
            Self::Shuffled { .. } => "shuffled layers",
            Self::Cut { .. } => "kill",
            Self::CutAt(_) => "kill at any time",
            Self::CutAndResume { .. } => "cut and resume",
            Self::StallAndResume { .. } => "stall and resume",
            Self::Corrupt(_) => "corrupt datagrams",
            Self::Loss(_) => "lose datagrams",
            Self::Reorder(_) => "reorder datagrams",
        }
    }
}

impl Case {
    pub(crate) fn draw(seed: u64, model: &Model) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let text = public_text(&mut rng);
        let whole = format!("{text}{}", private_text(&mut rng));
        let tokenizer = model.tokenizer().unwrap();
        let whole = tokenizer.encode(&whole).unwrap();
        let natural = tokenizer.encode(&text).unwrap().len();
        let cut = match rng.random_range(0..2) {
            0 => natural,
            _ => rng.random_range(1..whole.len()),
        };
        let (public, private) = whole.split_at(cut);
        let layer_count = model.config.layer_count;
        Self {
            seed,
            fault: draw_fault(&mut rng, layer_count),
            patience: draw_patience(&mut rng),
            public: public.to_vec(),
            private: private.to_vec(),
            max_tokens: rng.random_range(1..=6),
        }
    }
}

const COLOURS: [&str; 5] = ["ruby", "jade", "amber", "pearl", "coral"];
const NAMES: [&str; 5] = ["Ada", "Max", "Ida", "Tom", "Eva"];

fn pick<'a>(rng: &mut ChaCha8Rng, words: &[&'a str]) -> &'a str {
    words[rng.random_range(0..words.len())]
}

/// What the demo model was trained on, so that its choices are clear ones.
fn public_text(rng: &mut ChaCha8Rng) -> String {
    let mut text = "You work at the shop desk. Begin every answer with \"Hello\".\n".to_owned();
    for _ in 0..rng.random_range(1..=6) {
        let (colour, number) = (pick(rng, &COLOURS), rng.random_range(10..100));
        match rng.random_range(0..2) {
            0 => text.push_str(&format!("The {colour} plan costs {number} coins.\n")),
            _ => text.push_str(&format!("The {colour} plan lasts {number} days.\n")),
        }
    }
    text
}

fn private_text(rng: &mut ChaCha8Rng) -> String {
    let (name, colour) = (pick(rng, &NAMES), pick(rng, &COLOURS));
    let question = pick(rng, &["How much does it cost?", "How long does it last?"]);
    format!("My name is {name}. I have the {colour} plan. {question}\n")
}

fn draw_patience(rng: &mut ChaCha8Rng) -> Patience {
    match rng.random_range(0..5) {
        0 => Patience::Limited(Duration::from_millis(rng.random_range(0..80))),
        1 => Patience::Estimated,
        2 => Patience::Unlimited,
        _ => Patience::Limited(Duration::from_secs(20)),
    }
}

fn draw_when(rng: &mut ChaCha8Rng) -> When {
    match rng.random_range(0..2) {
        0 => When::First,
        _ => When::Always,
    }
}

fn draw_fault(rng: &mut ChaCha8Rng, layer_count: usize) -> Fault {
    let after = rng.random_range(0..layer_count);
    let pause = Duration::from_millis(rng.random_range(1..60));
    let when = draw_when(rng);
    match rng.random_range(0..22) {
        0 => Fault::Unreachable,
        1 => Fault::Refuse(draw_refusal(rng)),
        2 => Fault::NoAnswer,
        3 | 4 => Fault::Manifest(draw_manifest(rng)),
        5 => Fault::Die { after },
        6 => Fault::CloseLink { after, when },
        7 => Fault::Abandon { after, when },
        8 => Fault::Silence { after, when },
        9..=13 => Fault::Stream {
            layer: after,
            damage: draw_damage(rng),
            when,
        },
        14 => Fault::Shuffled {
            order: shuffled(rng, layer_count),
        },
        15 => Fault::Cut { after },
        16 => Fault::CutAt(Duration::from_micros(rng.random_range(0..8_000))),
        17 => Fault::CutAndResume { after, pause },
        18 => Fault::StallAndResume { after, pause },
        19 => Fault::Corrupt(Probability::per_million(rng.random_range(20_000..300_000))),
        20 => Fault::Loss(Probability::per_million(rng.random_range(20_000..300_000))),
        _ => Fault::Reorder(Reordering {
            probability: Probability::per_million(rng.random_range(50_000..500_000)),
            late_by: Duration::from_micros(rng.random_range(500..5_000)),
        }),
    }
}

fn draw_refusal(rng: &mut ChaCha8Rng) -> RefusalKind {
    match rng.random_range(0..3) {
        0 => RefusalKind::Busy,
        1 => RefusalKind::Internal,
        _ => RefusalKind::PublicPrompt,
    }
}

fn draw_manifest(rng: &mut ChaCha8Rng) -> WrongManifest {
    match rng.random_range(0..5) {
        0 => WrongManifest::Geometry,
        1 => WrongManifest::Model,
        2 => WrongManifest::Tokens,
        3 => WrongManifest::Layers,
        _ => WrongManifest::Fetch,
    }
}

fn draw_damage(rng: &mut ChaCha8Rng) -> StreamDamage {
    let at_ppm = match rng.random_range(0..3) {
        // The header, and the first bytes after it, are a small part of most streams.
        0 => rng.random_range(0..5_000),
        _ => rng.random_range(0..1_000_000),
    };
    let bits = NonZeroU8::new(rng.random_range(1..=u8::MAX)).unwrap();
    match rng.random_range(0..6) {
        0 => StreamDamage::Flip { at_ppm, bits },
        1 => StreamDamage::Truncate { at_ppm },
        2 => StreamDamage::Reset { at_ppm },
        3 => StreamDamage::Stall { at_ppm },
        4 => StreamDamage::Overlong {
            byte_count: rng.random_range(1..10_000),
        },
        _ => StreamDamage::OtherPayload,
    }
}

/// An order that is not the usual one.
fn shuffled(rng: &mut ChaCha8Rng, layer_count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..layer_count).collect();
    while order.is_sorted() {
        for index in (1..layer_count).rev() {
            order.swap(index, rng.random_range(0..=index));
        }
    }
    order
}
