//! The edge as a server: many private users at once, on shared cloud prompts, behind the HTTP API
//! that OpenAI's clients speak.

mod access;
mod answering;
mod api_error;
mod args;
mod bodies;
mod completions;
mod connections;
mod fields;
pub mod filling;
pub mod generator;
pub mod neighbourly;
pub mod neighbours;
mod listening;
mod prompting;
mod request;
mod routes;
mod running;
pub mod segments;
mod server;
mod shelf;
pub mod sources;
mod status;
pub mod stop;
mod stopwatch;
pub mod tally;
mod tokens;

pub use args::ServeArgs;
pub use running::run;
