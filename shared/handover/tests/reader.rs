//! The reader of a session: which word of which node counts, and what it asks for next.

use std::time::Duration;

use edgeprompt_handover::session::{Claim, ClaimReply, Epoch, Patience, Ue, UeAction, Verdict};

const NOW: Duration = Duration::from_secs(1);
const BEFORE: Epoch = Epoch { claim: 0, hop: 7 };
const EPOCH: Epoch = Epoch { claim: 1, hop: 2 };

/// Reads from node 0, has had 5 tokens, and knows node 1.
fn reader() -> Ue<u8> {
    let mut ue = Ue::resuming(NOW, 0, (EPOCH, 5), Patience::default());
    ue.know(1);
    ue
}

fn asked(ue: &mut Ue<u8>) -> Option<(u8, Claim, Epoch, usize)> {
    match ue.poll_action()? {
        UeAction::Claim {
            node,
            claim,
            epoch,
            from,
        } => Some((node, claim, epoch, from)),
        UeAction::Fail(failure) => panic!("{failure}"),
    }
}

#[test]
fn only_the_next_token_of_the_owner_is_taken() {
    let mut ue = reader();
    assert_eq!(ue.handle_token(NOW, 1, EPOCH, 5), Verdict::Stale);
    assert_eq!(ue.handle_token(NOW, 0, BEFORE, 5), Verdict::Stale);
    assert_eq!(ue.handle_token(NOW, 0, EPOCH, 4), Verdict::Repeated);
    assert_eq!(ue.handle_token(NOW, 0, EPOCH, 6), Verdict::Early);
    assert_eq!((ue.next(), ue.epoch()), (5, EPOCH));
    assert_eq!(ue.handle_token(NOW, 0, EPOCH, 5), Verdict::Accepted);
    assert_eq!(ue.next(), 6);
}

#[test]
fn an_end_counts_once_every_token_has_come() {
    let mut ue = reader();
    ue.handle_end(NOW, 1, EPOCH, 5);
    ue.handle_end(NOW, 0, BEFORE, 5);
    assert!(!ue.has_ended());
    ue.handle_end(NOW, 0, EPOCH, 6);
    assert!(!ue.has_ended());
    assert_eq!(asked(&mut ue), Some((0, Claim::Attach, EPOCH, 5)));
    ue.handle_claim_reply(NOW, 0, (ClaimReply::Granted(EPOCH), None));
    assert_eq!(ue.handle_token(NOW, 0, EPOCH, 5), Verdict::Accepted);
    ue.handle_end(NOW, 0, EPOCH, 6);
    assert!(ue.has_ended());
}

#[test]
fn a_node_that_falls_quiet_is_asked_again_before_the_right_is_claimed() {
    let (mut ue, patience) = (reader(), Patience::default());
    ue.handle_alive(NOW * 2, 0, BEFORE);
    assert_eq!(ue.poll_timeout(), Some(NOW + patience.answer));
    ue.handle_alive(NOW * 2, 0, EPOCH);
    let quiet = NOW * 2 + patience.answer;
    assert_eq!(ue.poll_timeout(), Some(quiet));
    ue.handle_timeout(quiet);
    assert_eq!(asked(&mut ue), Some((0, Claim::Attach, EPOCH, 5)));
    // Said again under the same right, then claimed from the other one under a new one.
    ue.handle_timeout(quiet + patience.repeat);
    assert_eq!(asked(&mut ue), Some((0, Claim::Attach, EPOCH, 5)));
    ue.handle_timeout(quiet + patience.answer);
    assert_eq!(
        asked(&mut ue),
        Some((1, Claim::Take, EPOCH.next_claim(), 5))
    );
}

#[test]
fn a_right_is_claimed_once_and_an_old_answer_gives_none() {
    let (mut ue, patience) = (reader(), Patience::default());
    ue.handle_lost(NOW, 0);
    let first = EPOCH.next_claim();
    assert_eq!(asked(&mut ue), Some((1, Claim::Take, first, 5)));
    ue.handle_timeout(NOW + patience.repeat);
    let second = first.next_claim();
    assert_eq!(asked(&mut ue), Some((1, Claim::Take, second, 5)));
    ue.handle_claim_reply(NOW, 1, (ClaimReply::Granted(first), None));
    assert_eq!(ue.handle_token(NOW, 1, second, 5), Verdict::Stale);
    ue.handle_claim_reply(NOW, 0, (ClaimReply::Granted(second), None));
    assert_eq!(ue.handle_token(NOW, 1, second, 5), Verdict::Stale);
    ue.handle_claim_reply(NOW, 1, (ClaimReply::Granted(second), None));
    assert_eq!(ue.handle_token(NOW, 1, second, 5), Verdict::Accepted);
}

#[test]
fn a_later_right_than_its_own_is_claimed_over() {
    let mut ue = reader();
    ue.handle_lost(NOW, 0);
    assert!(asked(&mut ue).is_some());
    let later = Epoch { claim: 9, hop: 1 };
    ue.handle_claim_reply(NOW, 1, (ClaimReply::Stale(later), None));
    assert_eq!(
        asked(&mut ue),
        Some((0, Claim::Take, later.next_claim(), 5))
    );
}

#[test]
fn a_redirect_counts_from_the_owner_and_under_a_later_right() {
    let mut ue = reader();
    ue.handle_redirect(NOW, 1, EPOCH.next_hop(), 2);
    ue.handle_redirect(NOW, 0, EPOCH, 2);
    ue.handle_redirect(NOW, 0, BEFORE, 2);
    assert_eq!(asked(&mut ue), None);
    ue.handle_redirect(NOW, 0, EPOCH.next_hop(), 2);
    assert_eq!(
        asked(&mut ue),
        Some((2, Claim::Attach, EPOCH.next_hop(), 5))
    );
}

#[test]
fn a_session_may_move_often_as_long_as_tokens_come() {
    let (mut ue, mut epoch) = (reader(), EPOCH);
    for moves in 0..100 {
        let (from, to) = (moves % 2, 1 - moves % 2);
        epoch = epoch.next_hop();
        ue.handle_redirect(NOW, from, epoch, to);
        let next = ue.next();
        assert_eq!(asked(&mut ue), Some((to, Claim::Attach, epoch, next)));
        ue.handle_claim_reply(NOW, to, (ClaimReply::Granted(epoch), None));
        assert_eq!(ue.handle_token(NOW, to, epoch, next), Verdict::Accepted);
    }
}
