//! What goes wrong.

#[derive(Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) lost: f64,
    pub(crate) repeated: f64,
    pub(crate) delay_ms_max: u64,
    pub(crate) crashes_per_second: f64,
    pub(crate) cuts_per_second: f64,
}

impl Faults {
    pub(crate) const NONE: Self = Self {
        lost: 0.0,
        repeated: 0.0,
        delay_ms_max: 5,
        crashes_per_second: 0.0,
        cuts_per_second: 0.0,
    };
}
