//! The edge node: it keeps the private prompt, fuses its attention with the cloud prompt's at
//! every layer, and generates.

pub mod answer;
pub mod ask;
pub mod audit;
pub mod cloud_prompt;
pub mod crew;
pub mod demo;
pub mod disk_cache;
pub mod doctor;
pub mod fetch_plan;
mod forwarding;
pub mod handover;
pub mod kv;
pub mod kv_origin;
pub mod layer_bar;
pub mod link;
mod model_question;
pub mod own_speed;
pub mod patience;
pub mod planned_fetch;
pub mod planner;
pub mod prefill_speed;
pub mod private;
pub mod prompts;
mod public_layers;
pub mod remembered;
pub mod serve;
mod speech;
pub mod uplink;
pub mod wire_codec;
pub mod worker;
