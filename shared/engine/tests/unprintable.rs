//! Private tokens and what is computed of them cannot be printed, not even by accident.

use std::fmt::Debug;
use std::marker::PhantomData;

use edgeprompt_engine::{ForwardPass, PrivateKv, Sequence, SequenceOptions};

struct Probe<T>(PhantomData<T>);

/// What a probe says of every type, unless it can say better.
trait Unprintable {
    const IS_PRINTABLE: bool = false;
}

impl<T> Unprintable for Probe<T> {}

/// An inherent constant is preferred to that of a trait.
impl<T: Debug> Probe<T> {
    const IS_PRINTABLE: bool = true;
}

#[test]
fn what_holds_private_text_is_not_debug() {
    const {
        assert!(Probe::<SequenceOptions>::IS_PRINTABLE, "the probe works");
        assert!(!Probe::<PrivateKv>::IS_PRINTABLE);
        assert!(!Probe::<ForwardPass>::IS_PRINTABLE);
        assert!(!Probe::<Sequence<'static>>::IS_PRINTABLE);
    }
}
