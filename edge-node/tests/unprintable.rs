//! What holds private text cannot be printed, and a panic in the middle of an answer does not
//! print it either.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
// All of it is test code, so a panic is a failed test.
#![cfg(test)]

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use edge_node::answer::{Answer, Cloud, Event, Question, Stop, answer};
use edge_node::audit::canary::Canary;
use edge_node::audit::findings::Session;
use edge_node::audit::prompts::{MadeUp, made_up};
use edge_node::patience::Patience;
use edge_node::private::{PrivateIds, PrivateText, PrivateTokens};
use edgeprompt_engine::SequenceOptions;
use edgeprompt_kv::TokenId;
use edgeprompt_model::{ComputeDevice, Model};
use edgeprompt_testkit::printable::{Probe, Unprintable};

#[test]
fn what_holds_private_text_is_not_debug() {
    const {
        assert!(Probe::<Stop>::IS_PRINTABLE, "the probe works");
        assert!(!Probe::<PrivateText>::IS_PRINTABLE);
        assert!(!Probe::<PrivateIds>::IS_PRINTABLE);
        assert!(!Probe::<PrivateTokens>::IS_PRINTABLE);
        assert!(!Probe::<Question<'static>>::IS_PRINTABLE);
        assert!(!Probe::<Event>::IS_PRINTABLE);
        assert!(!Probe::<Answer>::IS_PRINTABLE);
        assert!(!Probe::<Canary>::IS_PRINTABLE);
        assert!(!Probe::<MadeUp>::IS_PRINTABLE);
        assert!(!Probe::<Session>::IS_PRINTABLE);
    }
}

/// What a panic says while `private` is answered.
fn panic_of(model: &Model, private: &PrivateTokens, on: impl FnMut(Event)) -> String {
    let said = Arc::new(Mutex::new(String::new()));
    let (hearing, usual) = (Arc::clone(&said), take_hook());
    set_hook(Box::new(move |info| {
        let backtrace = std::backtrace::Backtrace::force_capture();
        hearing
            .lock()
            .unwrap()
            .push_str(&format!("{info}\n{backtrace}"));
    }));
    let question = Question {
        model,
        private,
        options: SequenceOptions::default(),
        max_tokens: 4,
        stop: Stop::AtLengthOnly,
        patience: Patience::Unlimited,
        asked_at: Instant::now(),
    };
    let answered = catch_unwind(AssertUnwindSafe(|| answer(&question, Cloud::Absent, on)));
    set_hook(usual);
    assert!(answered.is_err(), "it was to panic");
    let said = said.lock().unwrap().clone();
    assert!(said.contains("panicked at"), "{said}");
    said
}

// One test, as the hook is the whole process's.
#[test]
fn a_panic_does_not_print_the_private_prompt() {
    let device = ComputeDevice::default().open().unwrap();
    let model = Model::demo(&device).unwrap();
    let made = made_up(&model, 1, 200).unwrap();
    let said = panic_of(&model, &made.private, |event| {
        if matches!(event, Event::Token(_)) {
            panic!("a terminal that fails");
        }
    });
    assert!(said.contains("a terminal that fails"));
    assert_eq!(made.canary.found_in_text(&said), None);

    // A token that the model does not have: nothing in the program lets one through so far.
    let outside = 7_654_321;
    let private = PrivateTokens::new(vec![TokenId(5), TokenId(outside)]);
    let said = panic_of(&model, &private, |_| {});
    assert!(!said.contains(&outside.to_string()), "{said}");
}
