//! The edge as a server: many private users at once, on shared cloud prompts, behind the HTTP API
//! that OpenAI's clients speak.

mod access;
mod answering;
mod api_error;
mod args;
mod bodies;
pub mod cloud_health;
mod completions;
mod connections;
mod fields;
mod fill_log;
pub mod filling;
mod first_counts;
mod foretold;
pub mod generator;
mod listening;
pub mod neighbourly;
pub mod neighbours;
mod origins;
mod page;
mod pass_times;
pub mod plan_log;
mod planning;
mod prompting;
mod request;
mod room;
mod routes;
mod running;
pub mod segments;
mod server;
mod sessions;
mod shelf;
pub mod sources;
mod status;
mod status_line;
mod step_times;
pub mod stop;
mod stopwatch;
pub mod tally;
mod timelines;
mod tokens;
mod workers;

pub use args::{ServeArgs, defaults};
pub use running::run;
pub(crate) use running::told_to_stop;
