//! From what was asked to tokens: everything asked is private, and it is cut from the cloud prompt
//! where whole-prompt tokenisation has a token boundary. Pure.

use edgeprompt_kv::TokenId;
use edgeprompt_model::{
    ChatMessage, ChatTemplateError, Model, ModelError, SplitError, TokenizerError, Turn,
};

use crate::private::PrivateTokens;
use crate::serve::request::AskedPrompt;

/// What to do where the cut between cloud prompt and private prompt is inside a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Seam {
    /// Compute the whole prompt here, which is exact, and say so.
    #[default]
    ComputeHere,
    /// Refuse the request.
    Strict,
}

/// The cloud prompt to continue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before<'a> {
    /// Its tokens.
    pub(crate) tokens: &'a [TokenId],
    /// Its text, if it was made from one.
    pub(crate) text: Option<&'a str>,
}

/// The tokens of a request. Deliberately not `Debug`.
#[derive(PartialEq, Eq)]
pub(crate) enum Prompt {
    /// These, after the cloud prompt if there is one.
    Private(PrivateTokens),
    /// The cloud prompt and what is private in one piece, because no token ends where they meet.
    InOnePiece(PrivateTokens),
}

/// Why a request has no tokens. No text is repeated in it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PromptingError {
    /// There is no token.
    #[error("the private prompt is empty: it needs at least one token")]
    Empty,
    /// An id is not of the model.
    #[error("a token id is outside the vocabulary of {0}")]
    OutsideVocabulary(usize),
    /// The cut is inside a token.
    #[error(transparent)]
    Cut(SplitError),
    /// The model takes ids only.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The template refuses the conversation.
    #[error(transparent)]
    Template(#[from] ChatTemplateError),
}

/// The tokens of what was asked, to continue `before`.
///
/// # Errors
/// [`PromptingError`].
pub(crate) fn prompt(
    model: &Model,
    asked: &AskedPrompt,
    before: Option<Before<'_>>,
    seam: Seam,
) -> Result<Prompt, PromptingError> {
    let prompt = match asked {
        AskedPrompt::Tokens(tokens) => Prompt::Private(token_prompt(model, tokens, before)?),
        AskedPrompt::Text(text) => text_prompt(model, text.for_tokenizer(), before, seam)?,
        AskedPrompt::Messages(messages) => {
            let rendered = rendered(model, messages)?;
            text_prompt(model, &rendered, before, seam)?
        }
    };
    let (Prompt::Private(tokens) | Prompt::InOnePiece(tokens)) = &prompt;
    match tokens.is_empty() {
        true => Err(PromptingError::Empty),
        false => Ok(prompt),
    }
}

fn token_prompt(
    model: &Model,
    tokens: &PrivateTokens,
    before: Option<Before<'_>>,
) -> Result<PrivateTokens, PromptingError> {
    let vocab_size = model.config.vocab_size;
    let tokens = tokens.for_engine();
    if tokens.iter().any(|token| token.0 as usize >= vocab_size) {
        return Err(PromptingError::OutsideVocabulary(vocab_size));
    }
    // Only the cloud prompt begins the sequence.
    let begins = model.config.bos.is_some() && tokens.first() == model.config.bos.as_ref();
    let skipped = usize::from(before.is_some() && begins);
    Ok(PrivateTokens::new(tokens[skipped..].to_vec()))
}

/// The text of a conversation without the beginning-of-sequence text of the template: tokenisation
/// begins the sequence, once.
fn rendered(model: &Model, messages: &[ChatMessage]) -> Result<String, ChatTemplateError> {
    let Some(template) = &model.chat_template else {
        let contents: Vec<&str> = messages.iter().map(|m| m.content.as_str()).collect();
        return Ok(contents.join("\n"));
    };
    let mut text = template.render(messages, Turn::AwaitingAssistant)?;
    let bos = template.bos_token();
    if !bos.is_empty() && text.starts_with(bos) {
        text.drain(..bos.len());
    }
    Ok(text)
}

fn text_prompt(
    model: &Model,
    text: &str,
    before: Option<Before<'_>>,
    seam: Seam,
) -> Result<Prompt, PromptingError> {
    let tokenizer = model.tokenizer()?;
    let Some(before) = before else {
        let tokens = with_bos(model, tokenizer.encode(text)?);
        return Ok(Prompt::Private(PrivateTokens::new(tokens)));
    };
    let cloud_text = match before.text {
        Some(text) => text.to_owned(),
        None => tokenizer.decode(before.tokens)?,
    };
    match tokenizer.private_tokens(before.tokens, &cloud_text, text) {
        Ok(tokens) => Ok(Prompt::Private(PrivateTokens::new(tokens))),
        // Without the text that the cloud prompt was made from, one piece would be a guess.
        Err(SplitError::InsideToken { .. })
            if seam == Seam::ComputeHere && before.text.is_some() =>
        {
            let whole = tokenizer.encode(&format!("{cloud_text}{text}"))?;
            Ok(Prompt::InOnePiece(PrivateTokens::new(whole)))
        }
        Err(SplitError::Tokenizer(error)) => Err(error.into()),
        Err(error @ SplitError::InsideToken { .. }) => Err(PromptingError::Cut(error)),
    }
}

/// For conversations whose template begins the sequence and whose tokenizer does not.
fn with_bos(model: &Model, mut tokens: Vec<TokenId>) -> Vec<TokenId> {
    let template = model.chat_template.as_ref();
    let begins = template.is_some_and(|template| !template.bos_token().is_empty());
    if let Some(bos) = model.config.bos.filter(|_| begins)
        && tokens.first() != Some(&bos)
    {
        tokens.insert(0, bos);
    }
    tokens
}

#[cfg(test)]
mod tests;
