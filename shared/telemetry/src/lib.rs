//! What a node tells about itself: metrics, logs, and the timeline of one request.
//!
//! * [`names`]: every metric, its unit and its buckets, in one table.
//! * [`exporter`]: the recorder behind those metrics, and their Prometheus text.
//! * [`tracing_setup`]: logs on stderr.
//! * [`timeline`]: when each layer was computed, sent, waited for and used in one request.
//! * [`flow_shop`]: what the same request should have taken, by formula.
//! * [`gantt`]: a timeline drawn in a terminal.
//! * [`memory`]: the most memory that the process has held.
//!
//! This crate opens no socket, starts no thread, and knows neither tensors nor an async runtime.
//! Who serves the metrics text, and under which address, is the node's business.

pub mod exporter;
pub mod flow_shop;
pub mod gantt;
pub mod memory;
mod milliseconds;
pub mod names;
pub mod timeline;
pub mod tracing_setup;
