//! Shows an answer while it is generated: the layer bar until the first token, then the text.

use std::io::{self, Write};

use edgeprompt_kv::TokenId;
use edgeprompt_model::{TextStream, TextTokenizer, TokenizerError};

use crate::answer::Event;
use crate::layer_bar::LayerBar;

/// Why an answer could not be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpeechError {
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The output is gone.
    #[error("the answer cannot be written: {0}")]
    Output(#[from] io::Error),
}

/// An answer on its way to a reader.
pub(crate) struct Speech<'a, W> {
    text: Option<TextStream<'a>>,
    bar: LayerBar,
    out: W,
    said: Result<(), SpeechError>,
}

impl<'a, W: Write> Speech<'a, W> {
    /// The text that follows `context`, or no text without a tokenizer.
    pub(crate) fn new(
        tokenizer: Option<&'a TextTokenizer>,
        context: &[TokenId],
        layer_count: usize,
        out: W,
    ) -> Self {
        let text = tokenizer.map(|tokenizer| TextStream::after(tokenizer, context));
        Self {
            text,
            bar: LayerBar::new(layer_count),
            out,
            said: Ok(()),
        }
    }

    /// Shows an event.
    pub(crate) fn hear(&mut self, event: Event) {
        self.bar.show(event);
        if let (Event::Token(token), true) = (event, self.said.is_ok()) {
            self.said = self.say(token);
        }
    }

    /// Ends the answer's line, or says why it could not be shown.
    pub(crate) fn finish(mut self) -> Result<(), SpeechError> {
        self.said?;
        if let Some(text) = self.text {
            let rest = text.finish()?;
            write!(self.out, "{rest}")?;
            writeln!(self.out)?;
        }
        Ok(())
    }

    fn say(&mut self, token: TokenId) -> Result<(), SpeechError> {
        if let Some(text) = &mut self.text {
            write!(self.out, "{}", text.push(token)?)?;
            self.out.flush()?;
        }
        Ok(())
    }
}
