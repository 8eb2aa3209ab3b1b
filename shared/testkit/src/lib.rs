//! What tests share and the product never uses: oracles in f64, fixtures, an emulated link, and
//! the way to models outside the repository.

pub mod counting_allocator;
pub mod emulator;
pub mod fixtures;
pub mod oracle;
pub mod printable;
