//! Plans against slower and simpler ways to the same: brute force, a link that is simulated bit by bit,
//! every split in every order.

#![cfg(test)]

mod common_len;
mod draw;
mod hostile;
mod optimum;
mod paper;
mod schedule;
mod split;
mod transmission;
