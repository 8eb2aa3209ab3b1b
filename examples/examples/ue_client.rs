//! A user who follows an answer from edge to edge: asks the first edge that can be reached, reads on where
//! the session moves, and takes it to another edge if one is lost.
//!
//! `cargo run --release -p edgeprompt-examples --example ue_client -- http://127.0.0.1:8000 [URL...] PROMPT`

#![allow(clippy::print_stdout, reason = "an example shows something")]

use std::io::Write as _;

use anyhow::{Context, Result};
use clap::Parser;
use edgeprompt_transport::{TlsConnector, Trust};
use edgeprompt_ue_client::{Access, EdgeUrl, Event, Question, Session};

/// Reads an answer, wherever it moves
#[derive(Parser)]
struct Args {
    /// Edge nodes that may be asked, the first one first
    #[arg(required = true)]
    urls: Vec<EdgeUrl>,
    /// What is asked: a text to continue
    prompt: String,
    /// Longest answer, in tokens
    #[arg(long, default_value_t = 200)]
    max_tokens: usize,
    /// The API key, better in the variable
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut access = Access::default().with_tls(TlsConnector::new(Trust::Browsers)?);
    if let Some(key) = &args.api_key {
        access = access.with_key(key).context("the API key")?;
    }
    let question =
        Question::completion(&format!("{}\n", args.prompt)).with("max_tokens", args.max_tokens);
    let mut session = Session::begin(question, &args.urls, access).await?;
    eprintln!("[session {} at {}]", session.id(), session.at());
    while let Some(event) = session.next().await {
        match event {
            Event::Text(piece) => {
                print!("{}", piece.text);
                std::io::stdout().flush()?;
            }
            Event::Moved(moved) => {
                let gap = 1e3 * moved.gap.as_secs_f64();
                eprintln!("[on to {}, interrupted for {gap:.1} ms]", moved.url);
            }
            Event::Ended(_) => println!(),
            // The text so far is on the screen.
            Event::Failed(lost) => return Err(lost.into()),
        }
    }
    Ok(())
}
