//! One answer on its way to a client: tokens become text that ends at stop strings and never splits
//! a character, with what is to be told about them.
//!
//! A client that goes, or reads nothing any more, ends its generation and holds up nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeprompt_engine::{Finish, Output};
use edgeprompt_kv::TokenId;
use edgeprompt_model::{Model, TextStream, TextTokenizer, TokenizerError};
use edgeprompt_protocol::AnswerToken;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::private::PrivateTokens;
use crate::serve::api_error::ApiError;
use crate::serve::generator::Tokens;
use crate::serve::segments::SharedPrompt;
use crate::serve::sessions::{Entry, MovedTo, News, Reader, bare};
use crate::serve::stop::{Matched, StopMatcher};
use crate::serve::stopwatch::{KvCame, Stopwatch, Times};
use crate::serve::timelines::Recorder;

/// Pieces of one answer that wait for a slow client; its tokens wait in a queue of their own.
const PIECES_MAX: usize = 16;

/// How long nothing may be said before a stream says that it lives; proxies give up after about a
/// minute.
const QUIET_MAX: Duration = Duration::from_secs(15);

/// A part of an answer. Deliberately not `Debug`: it follows from the private prompt.
#[derive(Default)]
pub(crate) struct Piece {
    /// Its text.
    pub(crate) text: String,
    /// The tokens that it was made of.
    pub(crate) tokens: Vec<TokenId>,
    /// How probable they were, if that was asked for.
    pub(crate) logprobs: Vec<TokenLogprob>,
}

impl Piece {
    /// Puts what came later behind.
    pub(crate) fn append(&mut self, later: Self) {
        self.text += &later.text;
        self.tokens.extend(later.tokens);
        self.logprobs.extend(later.logprobs);
    }
}

/// How probable one token was.
pub(crate) struct TokenLogprob {
    /// The token as text.
    pub(crate) text: String,
    /// ln of its probability, if that is known: a reader who brings tokens brings no more than them.
    pub(crate) logprob: Option<f32>,
    /// The most probable tokens in its place.
    pub(crate) top: Vec<(String, f32)>,
}

/// Why an answer ended, in OpenAI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FinishReason {
    /// The model ended it, or a stop string did.
    Stop,
    /// It is as long as was asked for, or as there is room.
    Length,
}

impl FinishReason {
    /// Every reason there is.
    pub(crate) const ALL: [Self; 2] = [Self::Stop, Self::Length];

    /// As OpenAI and the metric's label spell it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// The end of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) reason: FinishReason,
    pub(crate) times: Times,
}

/// What a client is told.
pub(crate) enum Heard {
    /// A part of the answer.
    Piece(Piece),
    /// It goes on elsewhere.
    Moved(MovedTo),
    /// Nothing yet, but it will come.
    Quiet,
    /// That was all.
    Ended(Ended),
    /// There will be no more.
    Failed(ApiError),
}

/// What is told beside the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Details {
    pub(crate) logprobs: bool,
    pub(crate) token_ids: bool,
}

/// An answer that has begun. Deliberately not `Debug`.
pub(crate) struct Answering {
    pub(crate) model: Arc<Model>,
    pub(crate) tokens: TokenSource,
    /// Tokens of the answer that the client has.
    pub(crate) heard: PrivateTokens,
    /// The cloud prompt that it builds on.
    pub(crate) cloud: Option<SharedPrompt>,
    /// The end of the prompt: spacing depends on it.
    pub(crate) context: PrivateTokens,
    pub(crate) stops: Vec<String>,
    pub(crate) details: Details,
    pub(crate) stopwatch: Stopwatch,
    pub(crate) recorder: Recorder,
    /// The client's place, held until the answer ends, here and at its session.
    pub(crate) place: Arc<OwnedSemaphorePermit>,
}

/// Where the tokens of an answer come from.
pub(crate) enum TokenSource {
    /// This node's engine.
    Engine(Tokens),
    /// A session, which may move.
    Session(Reader),
}

/// What comes of it.
enum Next {
    Token(Entry),
    Moved(MovedTo),
    /// Nothing more.
    Nothing(&'static str),
}

impl TokenSource {
    /// Nobody wants more.
    fn finish(self) {
        if let Self::Session(reader) = self {
            reader.finish();
        }
    }

    /// A session goes on when its reader has gone, an engine's answer ends with it.
    fn hold(&self, place: &Arc<OwnedSemaphorePermit>) {
        if let Self::Session(reader) = self {
            reader.hold(place);
        }
    }

    /// Cancel-safe.
    async fn next(&mut self) -> Next {
        match self {
            Self::Engine(tokens) => match tokens.next().await {
                Some(Output {
                    chosen,
                    finish,
                    shared_len,
                    ..
                }) => Next::Token(Entry {
                    token: AnswerToken {
                        token: chosen.token,
                        logprob: Some(chosen.logprob),
                        top: chosen.top,
                    },
                    finish,
                    shared_len,
                }),
                None => Next::Nothing("the engine has stopped: the edge node's log says why"),
            },
            Self::Session(reader) => match reader.next().await {
                News::Entry(_, entry) => Next::Token(entry),
                News::Moved(moved) => Next::Moved(moved),
                News::Broken => Next::Nothing(
                    "the session is lost, for no edge node that had it answers any more: ask again",
                ),
            },
        }
    }
}

/// Why nothing more is said.
enum Silence {
    /// Nobody listens.
    Gone,
    Failed(ApiError),
}

impl From<TokenizerError> for Silence {
    fn from(error: TokenizerError) -> Self {
        Self::Failed(ApiError::failed(error.to_string()))
    }
}

/// How an answer ended here.
enum Spoken {
    Ended(Ended),
    Moved(MovedTo),
}

impl Answering {
    /// Says the answer to whoever holds what this returns.
    pub(crate) fn begin(self) -> mpsc::Receiver<Heard> {
        let (to, heard) = mpsc::channel(PIECES_MAX);
        tokio::spawn(async move {
            let last = match self.speak(&to).await {
                Ok(Spoken::Ended(ended)) => Heard::Ended(ended),
                Ok(Spoken::Moved(moved)) => Heard::Moved(moved),
                Err(Silence::Failed(error)) => Heard::Failed(error),
                Err(Silence::Gone) => return,
            };
            // Whoever is gone misses nothing.
            let _ = to.send(last).await;
        });
        heard
    }

    async fn speak(mut self, to: &mpsc::Sender<Heard>) -> Result<Spoken, Silence> {
        let (place, recorder) = (self.place, self.recorder);
        self.tokens.hold(&place);
        let model = Arc::clone(&self.model);
        let mut voice = Voice::new(model.tokenizer().ok(), &self.context, self.stops);
        if voice.resume(self.heard.for_engine())? == Said::StopString {
            // Only the word that it ends was lost on the way.
            self.tokens.finish();
            let watch = (self.stopwatch, self.cloud, recorder);
            let ended = end(voice, to, FinishReason::Stop, watch).await?;
            return Ok(Spoken::Ended(ended));
        }
        loop {
            let next = tokio::select! {
                () = to.closed() => return Err(Silence::Gone),
                () = broken(&mut self.cloud) => {
                    self.tokens.finish();
                    let message = "the cloud prompt cannot be completed: the edge node's log says why";
                    return Err(Silence::Failed(ApiError::failed(message)));
                }
                next = self.tokens.next() => next,
                () = tokio::time::sleep(QUIET_MAX) => {
                    tell(to, Heard::Quiet).await?;
                    continue;
                }
            };
            let Entry {
                token,
                finish,
                shared_len,
            } = match next {
                Next::Token(entry) => entry,
                Next::Moved(moved) => {
                    if let Some(piece) = voice.take_rest() {
                        tell(to, Heard::Piece(piece)).await?;
                    }
                    return Ok(Spoken::Moved(moved));
                }
                Next::Nothing(message) => return Err(Silence::Failed(ApiError::failed(message))),
            };
            self.stopwatch.share(shared_len);
            if finish == Some(Finish::EndToken) {
                self.stopwatch.end_token();
                let watch = (self.stopwatch, self.cloud, recorder);
                let ended = end(voice, to, FinishReason::Stop, watch).await?;
                return Ok(Spoken::Ended(ended));
            }
            self.stopwatch.token();
            if voice.say(token, self.details)? == Said::StopString {
                self.tokens.finish();
                let watch = (self.stopwatch, self.cloud, recorder);
                let ended = end(voice, to, FinishReason::Stop, watch).await?;
                return Ok(Spoken::Ended(ended));
            }
            if finish == Some(Finish::Length) {
                let watch = (self.stopwatch, self.cloud, recorder);
                let ended = end(voice, to, FinishReason::Length, watch).await?;
                return Ok(Spoken::Ended(ended));
            }
            if let Some(piece) = voice.take_if_worth_telling(self.details) {
                tell(to, Heard::Piece(piece)).await?;
            }
        }
    }
}

async fn broken(cloud: &mut Option<SharedPrompt>) {
    match cloud {
        Some(cloud) => cloud.filling.broken().await,
        None => std::future::pending().await,
    }
}

async fn tell(to: &mpsc::Sender<Heard>, heard: Heard) -> Result<(), Silence> {
    to.send(heard).await.map_err(|_| Silence::Gone)
}

async fn end(
    voice: Voice<'_>,
    to: &mpsc::Sender<Heard>,
    reason: FinishReason,
    (stopwatch, cloud, recorder): (Stopwatch, Option<SharedPrompt>, Recorder),
) -> Result<Ended, Silence> {
    let (piece, by_stop_string) = voice.finish()?;
    tell(to, Heard::Piece(piece)).await?;
    let reason = match by_stop_string {
        Said::StopString => FinishReason::Stop,
        Said::Text => reason,
    };
    let came = cloud.map(|cloud| KvCame {
        origin: cloud.origin(),
        codec: cloud.dtype,
    });
    let times = stopwatch.stop(reason, (came, recorder.kv_times(Instant::now())));
    Ok(Ended { reason, times })
}

/// Whether an answer goes on after what was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Text,
    StopString,
}

/// Turns tokens into pieces.
struct Voice<'a> {
    tokenizer: Option<&'a TextTokenizer>,
    stream: Option<TextStream<'a>>,
    stops: StopMatcher,
    /// The token before the next one.
    previous: Option<TokenId>,
    piece: Piece,
    said: Said,
}

impl<'a> Voice<'a> {
    fn new(
        tokenizer: Option<&'a TextTokenizer>,
        context: &PrivateTokens,
        stops: Vec<String>,
    ) -> Self {
        let context = context.for_engine();
        Self {
            tokenizer,
            stream: tokenizer.map(|tokenizer| TextStream::after(tokenizer, context)),
            stops: StopMatcher::new(stops),
            previous: context.last().copied(),
            piece: Piece::default(),
            said: Said::Text,
        }
    }

    /// As if it had said these tokens: what is held back of them, and where stop strings may begin,
    /// follows from them alone.
    fn resume(&mut self, heard: &[TokenId]) -> Result<Said, TokenizerError> {
        let nothing = Details {
            logprobs: false,
            token_ids: false,
        };
        for token in heard {
            self.say(bare(*token), nothing)?;
        }
        self.piece = Piece::default();
        Ok(self.said)
    }

    /// What is not told yet, except for text that is held back.
    fn take_rest(&mut self) -> Option<Piece> {
        let piece = std::mem::take(&mut self.piece);
        (!piece.tokens.is_empty()).then_some(piece)
    }

    fn say(&mut self, said: AnswerToken, details: Details) -> Result<Said, TokenizerError> {
        if details.logprobs {
            let logprob = self.logprob(&said);
            self.piece.logprobs.push(logprob);
        }
        let token = said.token;
        self.piece.tokens.push(token);
        self.previous = Some(token);
        if let Some(stream) = &mut self.stream {
            let text = stream.push(token)?;
            self.add(&text);
        }
        Ok(self.said)
    }

    fn add(&mut self, text: &str) {
        let Matched { text, stopped } = self.stops.push(text);
        self.piece.text += &text;
        if stopped {
            self.said = Said::StopString;
        }
    }

    fn take_if_worth_telling(&mut self, details: Details) -> Option<Piece> {
        // Without a tokenizer there is nothing but tokens.
        let tokens_matter = details.token_ids || self.tokenizer.is_none();
        let is_worth_it = tokens_matter || !self.piece.text.is_empty();
        is_worth_it.then(|| std::mem::take(&mut self.piece))
    }

    /// The last piece, and whether what was held back had a stop string in it.
    fn finish(mut self) -> Result<(Piece, Said), TokenizerError> {
        if self.said == Said::StopString {
            return Ok((self.piece, self.said));
        }
        if let Some(stream) = self.stream.take() {
            let rest = stream.finish()?;
            self.add(&rest);
        }
        if self.said == Said::Text {
            self.piece.text += &self.stops.finish();
        }
        Ok((self.piece, self.said))
    }

    fn logprob(&self, said: &AnswerToken) -> TokenLogprob {
        let text = |token: TokenId| {
            let tokenizer = self.tokenizer?;
            // Decoders write the first token of a text differently.
            let mut tokens: Vec<TokenId> = self.previous.into_iter().collect();
            let before = tokenizer.decode(&tokens).ok()?;
            tokens.push(token);
            let now = tokenizer.decode(&tokens).ok()?;
            Some(now.strip_prefix(&before)?.to_owned())
        };
        let text = |token: TokenId| text(token).unwrap_or_default();
        TokenLogprob {
            text: text(said.token),
            logprob: said.logprob,
            top: said
                .top
                .iter()
                .map(|(token, logprob)| (text(*token), *logprob))
                .collect(),
        }
    }
}
