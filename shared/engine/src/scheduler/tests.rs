use std::collections::BTreeMap;

use edgeprompt_kv::BlockId;
use proptest::prelude::*;

use super::*;

fn limits(max_num_seqs: usize, max_num_batched_tokens: usize, block_count: usize) -> Scheduler {
    let positive = |count| NonZeroUsize::new(count).unwrap();
    Scheduler::new(SchedulerLimits {
        max_num_seqs: positive(max_num_seqs),
        max_num_batched_tokens: positive(max_num_batched_tokens),
        max_num_waiting: 100,
        block_len: positive(4),
        block_count,
    })
}

fn row(id: SequenceId, start: usize, len: usize) -> ScheduledRow {
    ScheduledRow { id, start, len }
}

#[test]
fn generation_goes_on_beside_a_long_prompt() {
    let mut scheduler = limits(4, 8, 100);
    let short = scheduler.submit(3, 10).unwrap();
    assert_eq!(scheduler.next_step(|_| false).rows, [row(short, 0, 3)]);
    scheduler.computed(short);
    scheduler.appended(short, TokenId(0));
    let long = scheduler.submit(20, 10).unwrap();
    for (token, chunk) in [(3, 0..7), (4, 7..14), (5, 14..20)] {
        let rows = scheduler.next_step(|_| false).rows;
        assert_eq!(
            rows,
            [row(short, token, 1), row(long, chunk.start, chunk.len())]
        );
        scheduler.computed(short);
        scheduler.computed(long);
        scheduler.appended(short, TokenId(0));
    }
}

#[test]
fn a_row_under_way_holds_up_nobody_else() {
    let mut scheduler = limits(4, 8, 100);
    let suspended = scheduler.submit(20, 1).unwrap();
    assert_eq!(scheduler.next_step(|_| false).rows, [row(suspended, 0, 8)]);
    let other = scheduler.submit(5, 1).unwrap();
    assert_eq!(scheduler.next_step(|_| false).rows, [row(other, 0, 5)]);
    scheduler.computed(suspended);
    assert_eq!(scheduler.next_step(|_| false).rows, [row(suspended, 8, 8)]);
}

#[test]
fn those_that_wait_for_layers_leave_places_to_others() {
    let mut scheduler = limits(4, 100, 100);
    let waiting: Vec<_> = (0..4).map(|_| scheduler.submit(3, 1).unwrap()).collect();
    let other = scheduler.submit(3, 1).unwrap();
    let first = scheduler.next_step(|id| waiting.contains(&id));
    let rows = |ids: &[SequenceId]| ids.iter().map(|id| row(*id, 0, 3)).collect::<Vec<_>>();
    assert_eq!(first.rows, rows(&[waiting[0], waiting[1], other]));
    // Their layers are there: only places count, in the order of arrival.
    assert_eq!(scheduler.next_step(|_| false).rows, rows(&[waiting[2]]));
    scheduler.end(other);
    assert_eq!(scheduler.next_step(|_| false).rows, rows(&[waiting[3]]));
}

#[test]
fn the_last_to_come_makes_room_and_starts_again() {
    let mut scheduler = limits(4, 100, 4);
    let (first, last) = (
        scheduler.submit(8, 8).unwrap(),
        scheduler.submit(8, 8).unwrap(),
    );
    assert_eq!(scheduler.next_step(|_| false).rows.len(), 2);
    for id in [first, last] {
        scheduler.computed(id);
        scheduler.appended(id, TokenId(0));
    }
    let step = scheduler.next_step(|_| false);
    assert_eq!(step.preempted, [last]);
    assert_eq!(step.rows, [row(first, 8, 1)]);
    assert_eq!(scheduler.waiting_count(), 1);
    scheduler.end(first);
    // Its nine tokens, one of them generated, are computed in one go.
    assert_eq!(scheduler.next_step(|_| false).rows, [row(last, 0, 9)]);
}

/// However early it is released: what is before it is computed, it is not, and what follows it is.
#[test]
fn what_was_put_in_is_not_computed_again() {
    for released_after in 0..=3 {
        let mut scheduler = limits(4, 8, 100);
        let id = scheduler.submit(40, 10).unwrap();
        scheduler.hold(id, 16);
        scheduler.restore(id, 16..36).unwrap();
        let mut rows = Vec::new();
        for step in 0..6 {
            if step == released_after {
                scheduler.release(id);
            }
            rows.extend(scheduler.next_step(|_| false).rows);
            scheduler.computed(id);
        }
        let expected = [row(id, 0, 8), row(id, 8, 8), row(id, 36, 4)];
        assert_eq!(rows, expected, "released after {released_after} steps");
        scheduler.appended(id, TokenId(0));
        assert_eq!(scheduler.next_step(|_| false).rows, [row(id, 40, 1)]);
    }
}

/// Where nothing more comes, what follows what was put in is computed, also while it is held.
#[test]
fn what_does_not_come_is_computed_before_it_is_released() {
    let mut scheduler = limits(4, 8, 100);
    let id = scheduler.submit(40, 10).unwrap();
    scheduler.hold(id, 16);
    scheduler.restore(id, 16..24).unwrap();
    let mut rows = Vec::new();
    for step in 0..9 {
        if step == 3 {
            scheduler.hold(id, usize::MAX);
        }
        rows.extend(scheduler.next_step(|_| false).rows);
        scheduler.computed(id);
    }
    // The end in small steps, for it may be asked for at any moment, and never the last one, for what follows
    // it would be asked for.
    let expected = [(0, 8), (8, 8), (24, 8), (32, 2), (34, 2), (36, 2), (38, 1)];
    assert_eq!(rows, expected.map(|(start, len)| row(id, start, len)));
}

#[test]
fn what_nobody_waits_for_yet_takes_a_quarter_of_a_step() {
    let mut scheduler = limits(4, 64, 200);
    let first = scheduler.submit(64, 100).unwrap();
    let second = scheduler.submit(200, 100).unwrap();
    for id in [first, second] {
        scheduler.hold(id, usize::MAX);
    }
    // Nobody waits for anything.
    assert_eq!(
        scheduler.next_step(|_| false).rows,
        [row(first, 0, 63), row(second, 0, 1)]
    );
    scheduler.computed(first);
    scheduler.computed(second);
    // The first may be asked for now.
    assert_eq!(scheduler.next_step(|_| false).rows, [row(second, 1, 16)]);
    scheduler.computed(second);
    scheduler.release(first);
    let prompt = scheduler.submit(100, 1).unwrap();
    let rows = [row(first, 63, 1), row(second, 17, 16), row(prompt, 0, 47)];
    assert_eq!(scheduler.next_step(|_| false).rows, rows);
    for id in [first, second, prompt] {
        scheduler.computed(id);
    }
    scheduler.appended(first, TokenId(0));
    scheduler.hasten(second);
    let rows = [row(first, 64, 1), row(second, 33, 63)];
    assert_eq!(scheduler.next_step(|_| false).rows, rows);
}

#[test]
fn a_session_of_which_more_is_known_shares_the_right_blocks() {
    let mut scheduler = limits(4, 100, 100);
    let session = SessionId([1; 32]);
    let prompt: Vec<TokenId> = (0..6).map(TokenId).collect();
    let id = scheduler.submit_in(session, &prompt, 40).unwrap();
    scheduler.next_step(|_| false);
    scheduler.computed(id);
    scheduler.hold(id, usize::MAX);
    let known: Vec<TokenId> = (6..30).map(TokenId).collect();
    scheduler.extended(id, &known);
    scheduler.release(id);
    scheduler.next_step(|_| false);
    scheduler.computed(id);
    let again = [prompt, known].concat();
    let next = scheduler.submit_in(session, &again, 1).unwrap();
    let rows = scheduler.next_step(|_| false).rows;
    assert!(rows.contains(&row(next, 28, 2)), "{rows:?}");
}

#[test]
fn what_can_never_fit_is_refused_at_once() {
    let mut scheduler = limits(4, 8, 3);
    assert!(scheduler.submit(12, 1).is_ok());
    let refused = scheduler.submit(12, 2).unwrap_err();
    let (token_count, token_count_max) = (13, 12);
    assert_eq!(
        refused,
        AdmissionError::NeverFits {
            token_count,
            token_count_max
        }
    );
}

/// A request of the model: what it still has to generate.
#[derive(Clone, Debug)]
struct Request {
    session: Option<u8>,
    /// All known tokens.
    tokens: Vec<TokenId>,
    prompt_len: usize,
    generated: usize,
    max_tokens: usize,
    computed: usize,
}

#[derive(Clone, Debug)]
enum Action {
    /// Which session, the length of the prompt, how many tokens of it are those that every prompt
    /// begins with, and the most tokens to generate.
    Submit(Option<u8>, usize, usize, usize),
    Cancel(prop::sample::Index),
    /// A step in which the rows of some sequences stay under way.
    Step(u8),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        2 => (proptest::option::of(0..2u8), 1..30usize, 0..30usize, 1..12usize).prop_map(
            |(session, prompt, common, max)| Action::Submit(session, prompt, common, max),
        ),
        1 => any::<prop::sample::Index>().prop_map(Action::Cancel),
        4 => any::<u8>().prop_map(Action::Step),
    ];
    proptest::collection::vec(action, 0..80)
}

/// Every request as a scheduler's user sees it.
#[derive(Default)]
struct Naive {
    requests: BTreeMap<SequenceId, Request>,
    under_way: BTreeMap<SequenceId, ScheduledRow>,
    /// What was last written to each slot: whose tokens it follows from, up to its own.
    written: BTreeMap<(BlockId, usize), (Owner, Vec<TokenId>)>,
    next_token: u32,
}

/// Who may read what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Session(u8),
    Sequence(SequenceId),
}

impl Request {
    fn owner(&self, id: SequenceId) -> Owner {
        self.session.map_or(Owner::Sequence(id), Owner::Session)
    }
}

impl Naive {
    fn step(&mut self, scheduler: &mut Scheduler, keep: u8) -> Result<usize, TestCaseError> {
        let step = scheduler.next_step(|_| false);
        for id in &step.preempted {
            self.under_way.remove(id);
            self.requests.get_mut(id).unwrap().computed = 0;
        }
        let tokens: usize = step.rows.iter().map(|row| row.len).sum();
        prop_assert!(tokens <= 16, "{step:?}");
        for row in &step.rows {
            let request = &self.requests[&row.id];
            let is_first = request.computed == 0;
            let shares = is_first && request.session.is_some() && row.start % 4 == 0;
            prop_assert!(
                row.start == request.computed || shares,
                "tokens are computed in order"
            );
            for token in 0..row.start {
                let place = scheduler.table(row.id).unwrap().place(token);
                let written = &self.written[&place];
                let expected = (request.owner(row.id), request.tokens[..=token].to_vec());
                prop_assert_eq!(written, &expected, "a block that is not of this sequence");
            }
            let known = request.prompt_len + request.generated;
            prop_assert!(row.len > 0 && row.start + row.len <= known);
            let table = scheduler.table(row.id).unwrap();
            prop_assert!(table.capacity() >= row.start + row.len);
            let twice = self.under_way.insert(row.id, *row);
            prop_assert!(twice.is_none(), "a row while another is under way");
        }
        prop_assert!(scheduler.running_count() <= 5);
        let done: Vec<_> = self.under_way.keys().copied().collect();
        for (index, id) in done.into_iter().enumerate() {
            if keep >> (index % 8) & 1 == 0 {
                self.finish_row(scheduler, id);
            }
        }
        Ok(tokens)
    }

    fn finish_row(&mut self, scheduler: &mut Scheduler, id: SequenceId) {
        let row = self.under_way.remove(&id).unwrap();
        let request = self.requests.get_mut(&id).unwrap();
        for token in row.start..row.start + row.len {
            let place = scheduler.table(id).unwrap().place(token);
            let written = (request.owner(id), request.tokens[..=token].to_vec());
            self.written.insert(place, written);
        }
        scheduler.computed(id);
        request.computed = row.start + row.len;
        if request.computed < request.prompt_len + request.generated {
            return;
        }
        request.generated += 1;
        if request.generated == request.max_tokens {
            self.requests.remove(&id);
            scheduler.end(id);
        } else {
            self.next_token += 1;
            let token = TokenId(1000 + self.next_token % 3);
            request.tokens.push(token);
            scheduler.appended(id, token);
        }
    }
}

proptest! {
    #[test]
    fn every_request_ends_and_no_block_is_lost(actions in actions()) {
        let mut scheduler = limits(5, 16, 10);
        let mut naive = Naive::default();
        for action in actions {
            match action {
                Action::Submit(session, prompt_len, common, max_tokens) => {
                    let fits = prompt_len + max_tokens - 1 <= 40;
                    let common = common.min(prompt_len);
                    naive.next_token += 1;
                    let own = 100 + naive.next_token;
                    let tokens: Vec<_> = (0..prompt_len)
                        .map(|index| TokenId(if index < common { 1 } else { own }))
                        .collect();
                    let submitted = match session {
                        Some(session) => {
                            scheduler.submit_in(SessionId([session; 32]), &tokens, max_tokens)
                        }
                        None => scheduler.submit(prompt_len, max_tokens),
                    };
                    prop_assert_eq!(submitted.is_ok(), fits);
                    if let Ok(id) = submitted {
                        let request = Request {
                            session,
                            tokens,
                            prompt_len,
                            generated: 0,
                            max_tokens,
                            computed: 0,
                        };
                        naive.requests.insert(id, request);
                    }
                }
                Action::Cancel(index) if !naive.requests.is_empty() => {
                    let ids: Vec<_> = naive.requests.keys().copied().collect();
                    let id = ids[index.index(ids.len())];
                    naive.requests.remove(&id);
                    naive.under_way.remove(&id);
                    scheduler.end(id);
                }
                Action::Cancel(_) => {}
                Action::Step(keep) => {
                    naive.step(&mut scheduler, keep)?;
                }
            }
            let known = scheduler.running_count() + scheduler.waiting_count();
            prop_assert_eq!(known, naive.requests.len());
        }
        let left: usize = naive.requests.values().map(|request| request.prompt_len + request.max_tokens).sum();
        // What is under way ends, and with it everything: the first to come is never held up.
        let mut steps = 0;
        while !naive.requests.is_empty() {
            naive.step(&mut scheduler, 0)?;
            steps += 1;
            prop_assert!(steps <= 10 + 40 * left, "no end in sight");
        }
        prop_assert_eq!(scheduler.block_usage().0, 0);
        while scheduler.cache.evict(&mut scheduler.pool) {}
        prop_assert_eq!(scheduler.pool.free_count(), 10, "no block is lost");
    }
}
