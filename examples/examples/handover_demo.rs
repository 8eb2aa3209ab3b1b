//! Two edges, one cloud, one user who moves every 40 tokens: prints how long each move interrupted the
//! answer, and checks the text against the one of a user who stays.
//!
//! `cargo run --release -p edgeprompt-examples --example handover_demo`

#![allow(clippy::print_stdout, reason = "an example shows something")]

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use edgeprompt_examples::edges::{self, Edges, served, whole};
use edgeprompt_ue_client::{Access, Edge, Event, Question, Session};

const TOKENS: usize = 400;
const TOKENS_BETWEEN_MOVES: usize = 40;

/// The next move begins 40 tokens after the one before has ended, which takes as long as some dozens: an answer
/// moves about six times.
const MOVES_MIN: usize = 3;

/// The model answers in a quarter of a second: on a busy machine that may be over before enough moves.
const ATTEMPTS_MAX: usize = 20;

fn main() -> ExitCode {
    if let Some(code) = served() {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("handover_demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run() -> Result<()> {
    let cluster = Edges::start(2)?;
    let edges = &cluster.edges[..];
    // The model would end sooner: its context has 512 tokens, its answers a dozen.
    let question =
        Question::completion("I am Omar. I am on the teal plan. How much does it cost?\n")
            .with("max_tokens", TOKENS)
            .with("temperature", 0)
            .with("ignore_eos", true);
    let begin = |urls| Session::begin(question.clone(), urls, Access::default());
    let urls: Vec<_> = edges.iter().map(|edge| edge.url.clone()).collect();
    let expected = whole(begin(&urls).await?).await?;

    let mut moves_all = 0;
    for _ in 0..ATTEMPTS_MAX {
        let (text, moves) = follow(begin(&urls).await?, edges).await?;
        ensure!(
            text == expected,
            "the text differs from the one without moves"
        );
        moves_all += moves;
        if moves_all >= MOVES_MIN {
            println!("the same text as without moves");
            return Ok(());
        }
    }
    bail!("{ATTEMPTS_MAX} answers ended before they had moved {MOVES_MIN} times")
}

/// Reads an answer and moves on and on: its text, and how often it moved.
async fn follow(mut session: Session, edges: &[edges::Edge]) -> Result<(String, usize)> {
    println!("session {} at {}", session.id(), session.at());
    let (mut text, mut count, mut moving) = (String::new(), 0, None);
    let (mut at, mut moves, mut moved_at) = (0, 0, 0);
    while let Some(event) = session.next().await {
        match event {
            Event::Text(piece) => {
                text += &piece.text;
                count += piece.token_ids.len();
                if moving.is_none() && count >= moved_at + TOKENS_BETWEEN_MOVES {
                    let (from, id) = (edges[at].url.clone(), session.id().to_string());
                    let target = edges[1 - at].target.clone();
                    moving = Some(tokio::spawn(async move {
                        Edge::new(from, Access::default())
                            .hand_over(&id, &target)
                            .await
                    }));
                }
            }
            Event::Moved(moved) => {
                (at, moved_at, moves) = (1 - at, count, moves + 1);
                let how = match moving.take() {
                    // It may have moved on before its first node could say how.
                    Some(moving) => moving
                        .await?
                        .map_or_else(|_| "moved on".to_owned(), |it| it.strategy),
                    None => "taken over".to_owned(),
                };
                let gap = 1e3 * moved.gap.as_secs_f64();
                println!(
                    "token {count:>3}: on to {}, {how}, interrupted for {gap:.1} ms",
                    moved.url
                );
            }
            Event::Ended(_) => {}
            Event::Failed(lost) => return Err(lost.into()),
        }
    }
    println!("{count} tokens, {moves} moves");
    Ok((text, moves))
}
