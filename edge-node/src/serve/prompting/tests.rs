//! On the built-in model: the parts always join to what one machine would tokenise.

use burn::tensor::Device;
use edgeprompt_model::ChatTemplate;

use super::*;
use crate::private::PrivateText;

const CLOUD_TEXT: &str = "The desk is open. Answer in one line.\n";

fn model() -> Model {
    Model::demo(&Device::flex()).unwrap()
}

fn text(text: &str) -> AskedPrompt {
    AskedPrompt::Text(PrivateText::new(text.to_owned()))
}

fn chat(messages: &[(&str, &str)]) -> AskedPrompt {
    let message = |(role, content): &(&str, &str)| ChatMessage {
        role: (*role).to_owned(),
        content: (*content).to_owned(),
    };
    AskedPrompt::Messages(messages.iter().map(message).collect())
}

/// What is asked after the cloud prompt of `cloud_text`, as tokens.
fn after(model: &Model, cloud_text: &str, asked: &AskedPrompt, seam: Seam) -> Prompt {
    let tokens = model.tokenizer().unwrap().encode(cloud_text).unwrap();
    let before = Before {
        tokens: &tokens,
        text: Some(cloud_text),
    };
    prompt(model, asked, Some(before), seam).unwrap()
}

fn ids(prompt: &Prompt) -> Vec<TokenId> {
    let (Prompt::Private(tokens) | Prompt::InOnePiece(tokens)) = prompt;
    tokens.for_engine().to_vec()
}

#[test]
fn both_parts_join_to_the_whole_prompts_tokens() {
    let model = model();
    let tokenizer = model.tokenizer().unwrap();
    let asked = text("My name is Ada.");
    let private = after(&model, CLOUD_TEXT, &asked, Seam::Strict);
    assert!(matches!(private, Prompt::Private(_)));
    let whole = tokenizer
        .encode(&format!("{CLOUD_TEXT}My name is Ada."))
        .unwrap();
    let joined = [tokenizer.encode(CLOUD_TEXT).unwrap(), ids(&private)].concat();
    assert_eq!(joined, whole);
}

#[test]
fn a_cut_inside_a_token_is_computed_in_one_piece_or_refused() {
    let model = model();
    let tokenizer = model.tokenizer().unwrap();
    let word = "The name";
    let whole = tokenizer.encode(word).unwrap();
    let cut = (1..word.len()).find(|cut| {
        let head = tokenizer.encode(&word[..*cut]).unwrap();
        !whole.starts_with(&head)
    });
    let (head, tail) = word.split_at(cut.expect("a token of several letters"));
    let here = after(&model, head, &text(tail), Seam::ComputeHere);
    assert!(matches!(here, Prompt::InOnePiece(_)));
    assert_eq!(ids(&here), whole);
    let head_tokens = tokenizer.encode(head).unwrap();
    let before = |text| {
        Some(Before {
            tokens: &head_tokens,
            text,
        })
    };
    for (before, seam) in [
        (before(Some(head)), Seam::Strict),
        (before(None), Seam::ComputeHere),
    ] {
        let refused = prompt(&model, &text(tail), before, seam).err();
        assert!(matches!(refused, Some(PromptingError::Cut(_))));
    }
}

#[test]
fn a_sequence_has_one_beginning() {
    let mut model = model();
    let bos = model.config.bos.expect("the built-in model has one");
    let source =
        "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    let template = ChatTemplate::new(source, "<s>".to_owned(), String::new()).unwrap();
    model.chat_template = Some(template);
    let count = |tokens: &[TokenId]| tokens.iter().filter(|token| **token == bos).count();
    let asked = chat(&[("system", "Be kind."), ("user", "Hi")]);
    let alone = prompt(&model, &asked, None, Seam::Strict).unwrap();
    assert_eq!((ids(&alone)[0], count(&ids(&alone))), (bos, 1));
    let private = after(&model, CLOUD_TEXT, &asked, Seam::Strict);
    assert_eq!(count(&ids(&private)), 0);
    let rendered = text("system: Be kind.\nuser: Hi\n");
    assert!(private == after(&model, CLOUD_TEXT, &rendered, Seam::Strict));
    let asked = AskedPrompt::Tokens(PrivateTokens::new(vec![bos, TokenId(9)]));
    assert_eq!(
        ids(&after(&model, CLOUD_TEXT, &asked, Seam::Strict)),
        [TokenId(9)]
    );
    assert_eq!(
        ids(&prompt(&model, &asked, None, Seam::Strict).unwrap()),
        [bos, TokenId(9)]
    );
}

#[test]
fn without_a_template_contents_are_lines() {
    let model = model();
    let asked = chat(&[("system", "Be kind."), ("user", "Hi")]);
    let joined = text("Be kind.\nHi");
    assert!(
        after(&model, CLOUD_TEXT, &asked, Seam::Strict)
            == after(&model, CLOUD_TEXT, &joined, Seam::Strict)
    );
}

#[test]
fn what_is_no_prompt_is_refused() {
    let model = model();
    let refused = |asked: &AskedPrompt| prompt(&model, asked, None, Seam::Strict).err();
    let ids = |ids: &[u32]| {
        AskedPrompt::Tokens(PrivateTokens::new(
            ids.iter().copied().map(TokenId).collect(),
        ))
    };
    assert!(matches!(refused(&ids(&[])), Some(PromptingError::Empty)));
    let outside = refused(&ids(&[1, 1 << 20]));
    assert!(matches!(
        outside,
        Some(PromptingError::OutsideVocabulary(_))
    ));
}
