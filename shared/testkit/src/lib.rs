//! What tests share and the product never uses: oracles in f64, fixtures, and the way to models
//! outside the repository.

pub mod fixtures;
pub mod oracle;
