//! The benchmark harness: one program, a subcommand for each thing that is measured.

#![allow(clippy::print_stdout, reason = "a benchmark reports")]

mod arrivals;
mod children;
mod codecs;
mod dataset;
mod decode;
mod distribution;
mod first_token;
mod handover;
mod http;
mod link;
mod link_profile;
mod pipeline;
mod placement;
mod plot;
mod provenance;
mod report;
mod result_dir;
mod scale;
mod serve;
mod serving;
mod sharegpt;
#[cfg(target_os = "linux")]
mod soak;
mod statistics;
mod transfer;

use std::process::ExitCode;

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
    /// `cloud-node serve`, as a process of the subcommands that need one
    #[command(hide = true)]
    CloudNodeServe(Box<serving::CloudNodeArgs>),
    /// What each number format of keys and values costs and what it does to answers
    Codecs(codecs::CodecsArgs),
    /// Tokens per second of many sequences on one cloud prompt, relay beside paged
    Decode(decode::DecodeArgs),
    /// `edge-node serve`, as a process of the subcommands that need one
    #[command(hide = true)]
    EdgeNodeServe(Box<serving::EdgeNodeArgs>),
    /// `edge-node worker`, as a process of the subcommands that need one
    #[command(hide = true)]
    EdgeNodeWorker(Box<serving::WorkerNodeArgs>),
    /// Time to first token of the first request on a cloud prompt, the second, and after a restart
    FirstToken(Box<first_token::FirstTokenArgs>),
    /// Sessions that move from one edge node to the next: what each way to bring them there costs
    Handover(handover::HandoverArgs),
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
    /// Where attention heads run on many devices: our planner beside the paper's and others
    Placement(Box<placement::PlacementArgs>),
    /// One page of all results of a folder, with their plots
    Report(report::ReportArgs),
    /// Requests to a server with OpenAI's API, ours or another, and what vLLM's `bench serve` says of it
    Serve(Box<serve::ServeArgs>),
    /// Tokens per second of groups of requests on one cloud prompt: EdgePrompt beside PagedAttention
    /// and RelayAttention
    Sharegpt(Box<sharegpt::ShareGptArgs>),
    /// The edge process of `sharegpt`, which starts it
    #[command(hide = true)]
    SharegptEdge(sharegpt::edge::EdgeArgs),
    /// Many streaming users for minutes, while the cloud, the link and the disk fail
    #[cfg(target_os = "linux")]
    Soak(Box<soak::SoakArgs>),
    /// Layers through our transport beside a plain QUIC stream and TCP
    Transfer(transfer::TransferArgs),
}

fn main() -> Result<ExitCode> {
    let done = match Cli::parse().command {
        Command::CloudNodeServe(args) => serving::cloud(&args),
        Command::Codecs(args) => codecs::run(&args),
        Command::Decode(args) => decode::run(&args),
        Command::EdgeNodeServe(args) => serving::edge(&args),
        Command::EdgeNodeWorker(args) => serving::worker(&args),
        Command::FirstToken(args) => first_token::run(&args),
        Command::Handover(args) => handover::run(&args),
        Command::Link(args) => link::run(&args),
        Command::Pipeline(args) => pipeline::run(&args),
        Command::PipelineCloud(args) => pipeline::cloud::run(&args),
        Command::PipelineEdge(args) => pipeline::edge::run(&args),
        Command::Placement(args) => placement::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Serve(args) => return Ok(serve::run(&args)),
        Command::Sharegpt(args) => sharegpt::run(&args),
        Command::SharegptEdge(args) => sharegpt::edge::run(&args),
        #[cfg(target_os = "linux")]
        Command::Soak(args) => soak::run(&args),
        Command::Transfer(args) => transfer::run(&args),
    };
    done.map(|()| ExitCode::SUCCESS)
}
