//! Private tokens and what is computed of them cannot be printed, not even by accident.

use edgeprompt_engine::{ForwardPass, PrivateKv, Sequence, SequenceOptions};
use edgeprompt_testkit::printable::{Probe, Unprintable};

#[test]
fn what_holds_private_text_is_not_debug() {
    const {
        assert!(Probe::<SequenceOptions>::IS_PRINTABLE, "the probe works");
        assert!(!Probe::<PrivateKv>::IS_PRINTABLE);
        assert!(!Probe::<ForwardPass>::IS_PRINTABLE);
        assert!(!Probe::<Sequence<'static>>::IS_PRINTABLE);
    }
}
