//! The cloud node: it computes the keys and values of public prompts, layer by layer, and sends
//! each layer to the edges as soon as it exists.
//!
//! It never sees a private prompt: what reaches it is defined by `edgeprompt_protocol`'s
//! `CloudRequest`, which has no place for one.

pub mod compute;
pub mod job_queue;
pub mod library;
pub mod metrics_listener;
pub mod prompt_limit;
pub mod reload;
mod resolve;
pub mod running;
pub mod serve;
pub mod served_prompt;
pub mod service;
#[cfg(test)]
mod tests;
