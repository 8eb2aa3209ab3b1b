//! The benchmark harness: one program, a subcommand for each thing that is measured.

#![allow(clippy::print_stdout, reason = "a benchmark reports")]

mod children;
mod decode;
mod first_token;
mod link;
mod pipeline;
mod plot;
mod provenance;
mod result_dir;
mod statistics;
mod transfer;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measures edgeprompt
#[derive(Parser)]
#[command(name = "benchmarks", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Tokens per second of many sequences on one cloud prompt, relay beside paged
    Decode(decode::DecodeArgs),
    /// Time to first token of the first request on a cloud prompt, the second, and after a restart
    FirstToken(Box<first_token::FirstTokenArgs>),
    /// The edge process of `first-token`, which starts it
    #[command(hide = true)]
    FirstTokenEdge(Box<edge_node::serve::ServeArgs>),
    /// The rate at which the link emulator itself saturates on this machine
    Link(link::LinkArgs),
    /// Time to first token of cloud and edge over an emulated link, against the flow-shop model
    Pipeline(Box<pipeline::PipelineArgs>),
    /// The cloud process of `pipeline`, which starts it
    #[command(hide = true)]
    PipelineCloud(pipeline::cloud::CloudArgs),
    /// The edge process of `pipeline`, which starts it
    #[command(hide = true)]
    PipelineEdge(pipeline::edge::EdgeArgs),
    /// Layers through our transport beside a plain QUIC stream and TCP
    Transfer(transfer::TransferArgs),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Decode(args) => decode::run(&args),
        Command::FirstToken(args) => first_token::run(&args),
        Command::FirstTokenEdge(args) => first_token::serve(&args),
        Command::Link(args) => link::run(&args),
        Command::Pipeline(args) => pipeline::run(&args),
        Command::PipelineCloud(args) => pipeline::cloud::run(&args),
        Command::PipelineEdge(args) => pipeline::edge::run(&args),
        Command::Transfer(args) => transfer::run(&args),
    }
}
