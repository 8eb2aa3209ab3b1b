//! What the target prefills, what the source sends, and when: from the cost of a token on the link and
//! on the target to a plan for all users that leave together. Nothing here measures or sends.
//!
//! A [`Scenario`](scenario::Scenario) says who leaves when and what things cost; a
//! [`Strategy`](strategy::Strategy) makes a [`Plan`](plan::Plan) of it; [`choose`](choose::choose) is
//! the whole thing as a running node needs it. `docs/HANDOVER.md` has the formulas.

pub mod choose;
pub mod common_len;
pub mod kv_size;
pub mod link_rate;
mod meeting;
pub mod meeting_point;
pub mod number;
pub mod optimum;
pub mod paper;
pub mod plan;
pub mod prefill;
pub mod prefill_fit;
pub mod scenario;
mod search;
pub mod strategy;
mod timeline;
pub mod transmission;
mod work;
