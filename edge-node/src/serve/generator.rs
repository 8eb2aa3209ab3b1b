//! The thread that computes: it owns the engine, and everybody else sends it generations and gets
//! tokens back. Tensor work stays off the async threads.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use edgeprompt_engine::{
    Engine, EngineLimits, Finish, Generation, Output, PassEvent, ScheduledRow, SequenceId,
    ShardShape, SubmitError,
};
use edgeprompt_model::Model;
use tokio::sync::{mpsc, oneshot};

use crate::crew::foreman::{self, Foreman, ForemanConfig};
use crate::crew::gate::Newcomer;
use crate::crew::roster::Roster;
use crate::serve::tally::{Load, PromptTokens, Tally};
use crate::serve::timelines::Recorder;

mod moving;

use moving::Moving;
pub(crate) use moving::{Begun, Mover};

/// How long the engine waits for something to do while others compute with it: they may leave, and jobs
/// may be on their way.
const WATCH_PERIOD: Duration = Duration::from_millis(500);
const MIGRATION_PERIOD: Duration = Duration::from_millis(2);

/// Why there is no generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// It is refused.
    #[error(transparent)]
    Refused(#[from] SubmitError),
    /// The computing thread is gone; its log says why.
    #[error("the engine has stopped: restart the edge node, its log says why")]
    Stopped,
}

/// A way to the computing thread. Clones share it; the thread ends with the last.
#[derive(Clone, Debug)]
pub struct Generator {
    commands: Sender<Command>,
    tally: Tally,
    thread: Arc<JoinHandle<()>>,
}

enum Command {
    Submit {
        generation: Box<Generation>,
        recorder: Option<Recorder>,
        /// Of one that was begun elsewhere.
        begun: Option<Begun>,
        taken_in: oneshot::Sender<Result<Submitted, SubmitError>>,
    },
    Cancel(SequenceId),
    /// Something about a generation that is on its way to or from another node.
    Moving(SequenceId, Moving),
    /// A layer of a cloud prompt has come.
    Wake,
    /// Others may compute with this node from now on.
    Lead(ForemanConfig, Roster, oneshot::Sender<ShardShape>),
    /// Somebody lends a device.
    Admit(Box<Newcomer>),
}

struct Submitted {
    id: SequenceId,
    outputs: mpsc::Receiver<Output>,
}

/// The tokens of one generation as they come. Dropping it ends the generation and frees its blocks.
///
/// Deliberately not `Debug`: the tokens follow from the private prompt.
pub struct Tokens {
    submitted: Submitted,
    commands: Sender<Command>,
}

impl Generator {
    /// Starts the computing thread; returns once that has its memory.
    ///
    /// # Errors
    /// What the system says if there is no thread to be had.
    pub fn start(model: Arc<Model>, limits: EngineLimits) -> std::io::Result<Self> {
        let (commands, received) = channel();
        let tally = Tally::default();
        let counted = tally.clone();
        let (made, is_made) = channel();
        let thread = thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                let worker = Worker::new(model, limits, counted);
                worker.gauge();
                // Whoever started it waits.
                let _ = made.send(());
                worker.run(&received);
            })?;
        // It takes the memory of all blocks, which may last: nobody is told before that it can generate,
        // and another edge would take it for dead. If it has panicked, every generation says so.
        let _ = is_made.recv();
        Ok(Self {
            commands,
            tally,
            thread: Arc::new(thread),
        })
    }

    /// Begins a generation.
    ///
    /// # Errors
    /// [`GenerateError`].
    pub async fn generate(&self, generation: Generation) -> Result<Tokens, GenerateError> {
        self.submit(generation, (None, None)).await
    }

    /// Takes in a generation that was begun elsewhere, and holds it.
    ///
    /// # Errors
    /// [`GenerateError`].
    pub(crate) async fn hold(
        &self,
        generation: Generation,
        begun: Begun,
    ) -> Result<Tokens, GenerateError> {
        self.submit(generation, (None, Some(begun))).await
    }

    /// As [`Generator::generate`]; writes down when what happened.
    ///
    /// # Errors
    /// [`GenerateError`].
    pub(crate) async fn generate_recorded(
        &self,
        generation: Generation,
        recorder: Recorder,
    ) -> Result<Tokens, GenerateError> {
        self.submit(generation, (Some(recorder), None)).await
    }

    async fn submit(
        &self,
        generation: Generation,
        (recorder, begun): (Option<Recorder>, Option<Begun>),
    ) -> Result<Tokens, GenerateError> {
        let (taken_in, answer) = oneshot::channel();
        let submit = Command::Submit {
            generation: Box::new(generation),
            recorder,
            begun,
            taken_in,
        };
        self.commands
            .send(submit)
            .map_err(|_| GenerateError::Stopped)?;
        let submitted = answer.await.map_err(|_| GenerateError::Stopped)??;
        Ok(Tokens {
            submitted,
            commands: self.commands.clone(),
        })
    }

    /// Lets others compute with this node, who are in the roster then; the shape of what they compute.
    ///
    /// # Errors
    /// [`GenerateError::Stopped`].
    pub(crate) async fn lead(
        &self,
        config: ForemanConfig,
        roster: Roster,
    ) -> Result<ShardShape, GenerateError> {
        let (reply, answer) = oneshot::channel();
        // An engine that has stopped does not answer.
        let _ = self.commands.send(Command::Lead(config, roster, reply));
        answer.await.map_err(|_| GenerateError::Stopped)
    }

    /// Somebody lends a device.
    pub(crate) fn admit(&self, newcomer: Newcomer) {
        // An engine that has stopped needs nobody.
        let _ = self.commands.send(Command::Admit(Box::new(newcomer)));
    }

    /// Whether the thread still computes: it stops early only by a panic.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// What the thread has done and is doing.
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Says that a layer of a cloud prompt has come.
    pub fn wake(&self) {
        // Nobody waits for a layer in an engine that has stopped.
        let _ = self.commands.send(Command::Wake);
    }
}

impl Tokens {
    /// Moves the generation.
    pub(crate) fn mover(&self) -> Mover {
        Mover {
            id: self.submitted.id,
            commands: self.commands.clone(),
        }
    }

    /// Ends the generation, and overwrites what is its own of keys and values.
    pub(crate) fn wipe(self) {
        self.mover().tell(Moving::Wipe);
    }

    /// The next token; `None` after the last, and without a last one if the engine has stopped.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Output> {
        self.submitted.outputs.recv().await
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        // A generation that has ended is unknown to the engine, and so is one of a stopped engine.
        let _ = self.commands.send(Command::Cancel(self.submitted.id));
    }
}

/// A generation without a token yet.
struct Expected {
    prompt: PromptTokens,
    recorder: Option<Recorder>,
}

/// Nobody is left to command.
struct Hungup;

/// The other side, on the thread.
struct Worker {
    engine: Engine,
    outputs: HashMap<SequenceId, mpsc::Sender<Output>>,
    expected: HashMap<SequenceId, Expected>,
    tally: Tally,
    /// Looks after those that compute with this node.
    foreman: Option<Foreman>,
}

impl Worker {
    fn new(model: Arc<Model>, limits: EngineLimits, tally: Tally) -> Self {
        Self {
            engine: Engine::new(model, limits),
            outputs: HashMap::new(),
            expected: HashMap::new(),
            tally,
            foreman: None,
        }
    }

    fn run(mut self, commands: &Receiver<Command>) {
        let mut step_took = Duration::ZERO;
        loop {
            if let Err(Hungup) = self.obey_waiting(commands, step_took) {
                return;
            }
            let began_at = Instant::now();
            self.gauge();
            let expected = &self.expected;
            let mut watch = self.tally.step_times().watch();
            let mut record = |event, rows: &[ScheduledRow]| {
                watch.heard(event, rows);
                note(expected, event, rows);
            };
            let stepped = self.engine.step_told(&mut record);
            self.tally.step_times().note(&watch);
            step_took = began_at.elapsed();
            let token_count = stepped.as_ref().map_or(0, Vec::len);
            let is_idle = stepped.is_none();
            // Before anything is planned, which takes its time.
            let outputs = stepped.into_iter().flatten();
            outputs.for_each(|output| self.tell(output));
            if let Some(foreman) = &mut self.foreman {
                foreman.after_step(&mut self.engine, token_count);
            }
            if is_idle {
                // Nothing to compute before something happens.
                match self.wait(commands) {
                    Ok(Some(command)) => self.obey(command),
                    Ok(None) => {}
                    Err(Hungup) => return,
                }
            }
        }
    }

    /// Does what waits. What copies keys and values goes on for as long as the step before took, and once
    /// at least: whoever copies asks again at once, and those who generate here would wait for all of it.
    fn obey_waiting(
        &mut self,
        commands: &Receiver<Command>,
        copying_max: Duration,
    ) -> Result<(), Hungup> {
        let mut copying = Duration::ZERO;
        loop {
            let command = match commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Hungup),
            };
            let copies = matches!(&command, Command::Moving(_, moving) if moving.copies());
            let began_at = Instant::now();
            self.obey(command);
            if copies {
                copying += began_at.elapsed();
                if copying >= copying_max {
                    return Ok(());
                }
            }
        }
    }

    /// The next command; nothing if it is time to look after those that compute with this node.
    fn wait(&self, commands: &Receiver<Command>) -> Result<Option<Command>, Hungup> {
        let is_watching = self.foreman.as_ref().is_some_and(Foreman::has_hands);
        let is_migrating = self.engine.spread().is_some_and(|it| it.awaits_workers());
        let period = match (is_watching, is_migrating) {
            (false, _) => {
                let command = commands.recv();
                return command.map(Some).map_err(|_| Hungup);
            }
            (true, true) => MIGRATION_PERIOD,
            (true, false) => WATCH_PERIOD,
        };
        match commands.recv_timeout(period) {
            Ok(command) => Ok(Some(command)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Hungup),
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Submit {
                generation,
                recorder,
                begun,
                taken_in,
            } => {
                // Room for every token, so that a slow reader holds up nobody: a token is small.
                let room = NonZeroUsize::new(generation.max_tokens).unwrap_or(NonZeroUsize::MIN);
                let room = room.get().min(self.engine.context_len_max());
                let prompt = prompt_tokens(&generation);
                let submitted = match begun {
                    None => self.engine.submit(*generation),
                    Some(Begun {
                        answered,
                        compute_max,
                    }) => self.engine.submit_held(*generation, &answered, compute_max),
                };
                let submitted = submitted.map(|id| {
                    let (sender, outputs) = mpsc::channel(room);
                    self.outputs.insert(id, sender);
                    self.expected.insert(id, Expected { prompt, recorder });
                    Submitted { id, outputs }
                });
                // Whoever asked may be gone.
                if let Err(Ok(unwanted)) = taken_in.send(submitted) {
                    self.forget(unwanted.id);
                }
            }
            Command::Cancel(id) => self.forget(id),
            Command::Moving(id, moving) => self.move_one(id, moving),
            Command::Wake => {}
            Command::Lead(config, roster, reply) => {
                let time = foreman::time(config.own_percent);
                self.engine.open_to_workers(foreman::SLICE_COUNT, time);
                self.foreman = Some(Foreman::new(&self.engine, config, roster));
                // Whoever asked may be gone.
                let _ = reply.send(self.engine.shard_shape().clone());
            }
            Command::Admit(newcomer) => {
                if let Some(foreman) = &mut self.foreman {
                    foreman.admit(&mut self.engine, *newcomer);
                }
            }
        }
    }

    fn forget(&mut self, id: SequenceId) {
        self.outputs.remove(&id);
        self.expected.remove(&id);
        self.engine.cancel(id);
    }

    fn tell(&mut self, output: Output) {
        let (id, ended) = (output.id, output.finish.is_some());
        if output.finish != Some(Finish::EndToken) {
            self.tally.token();
        }
        if let Some(Expected { prompt, recorder }) = self.expected.remove(&id) {
            self.tally.prompt(prompt.sharing(output.shared_len));
            if let Some(recorder) = recorder {
                recorder.first_token(Instant::now());
            }
        }
        if let Some(sender) = self.outputs.get(&id) {
            // A reader that has gone cancels.
            let _ = sender.try_send(output);
        }
        if ended {
            self.outputs.remove(&id);
        }
    }

    fn gauge(&self) {
        self.tally.note_where_kv_is(&self.engine);
        let (running, waiting) = self.engine.counts();
        let (blocks_used, blocks_all) = self.engine.block_usage();
        self.tally.load(Load {
            running,
            waiting,
            blocks_used,
            blocks_all,
        });
    }
}

/// A prompt's tokens by where their keys and values are when the engine takes it in.
fn prompt_tokens(generation: &Generation) -> PromptTokens {
    let computed = generation.prompt.len();
    let (here, coming) = match &generation.segment {
        Some(segment) if segment.is_complete() => (segment.range().len(), 0),
        Some(segment) => (0, segment.range().len()),
        None => (0, 0),
    };
    PromptTokens {
        here,
        coming,
        computed,
    }
}

fn note(expected: &HashMap<SequenceId, Expected>, event: PassEvent, rows: &[ScheduledRow]) {
    // Most steps are nobody's first token.
    if expected.is_empty() {
        return;
    }
    let now = Instant::now();
    let expected = rows.iter().filter_map(|row| expected.get(&row.id));
    for recorder in expected.filter_map(|expected| expected.recorder.as_ref()) {
        recorder.heard(event, now);
    }
}

#[cfg(test)]
mod tests;
