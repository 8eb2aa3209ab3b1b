//! Plots as SVG files that read well on light and dark pages. A plot is made of values; nothing here
//! measures or writes files.
//!
//! plotters, which the examples use, fixes every colour; these follow the reader's colour scheme.

mod axis;
pub(crate) mod colour;
pub(crate) mod gantt;
pub(crate) mod heat_map;
pub(crate) mod line_plot;
pub(crate) mod svg;
#[cfg(target_os = "linux")]
pub(crate) mod time_plot;
