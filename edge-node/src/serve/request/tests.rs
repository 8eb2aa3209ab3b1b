//! Every field is read, and every error names its field and repeats nothing.

use serde_json::json;

use super::*;

fn parse(endpoint: Endpoint, body: &Value) -> Result<Request, ApiError> {
    Request::parse(endpoint, &Fields::parse(body.to_string().as_bytes())?)
}

/// A chat request with more fields.
fn chat(more: &Value) -> Result<Request, ApiError> {
    let mut body = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    parse(Endpoint::Chat, &body)
}

fn param(result: Result<Request, ApiError>) -> String {
    let body = result.err().expect("a refusal").body();
    body["error"]["param"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn every_field_is_read() {
    let request = chat(&json!({
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1,
        "presence_penalty": 0.2, "frequency_penalty": -0.3, "seed": -1, "stop": "END",
        "logprobs": true, "top_logprobs": 3, "max_tokens": 9, "max_completion_tokens": 7,
        "ignore_eos": true, "n": 1, "stream": true, "stream_options": {"include_usage": true},
        "cloud_prompt": "desk", "return_token_ids": true, "a field of tomorrow": {},
    }));
    let Ok(request) = request else {
        panic!("refused");
    };
    let expected = SamplingParams {
        temperature: 0.5,
        top_p: 0.9,
        top_k: 40,
        min_p: 0.05,
        repetition_penalty: 1.1,
        presence_penalty: 0.2,
        frequency_penalty: -0.3,
    };
    assert_eq!(request.sampling, expected);
    assert_eq!(request.seed, Some(u64::MAX));
    assert_eq!(request.stops, ["END"]);
    assert_eq!(request.top_logprobs, Some(3));
    assert_eq!(request.max_tokens, Some(7));
    assert!(request.ignore_eos && request.return_token_ids);
    assert_eq!(request.delivery, Delivery::Stream(StreamUsage::Included));
    let desk = AskedCloudPrompt::Named("desk".parse().unwrap());
    assert_eq!(request.cloud_prompt, desk);
}

#[test]
fn absent_fields_have_openais_defaults() {
    let request = chat(&json!({"stop": null, "top_k": -1, "tools": [], "cloud_prompt": false}));
    let Ok(request) = request else {
        panic!("refused");
    };
    assert_eq!(request.sampling, SamplingParams::default());
    assert_eq!(request.max_tokens, None);
    assert_eq!(request.delivery, Delivery::Whole);
    assert_eq!(request.cloud_prompt, AskedCloudPrompt::Nothing);
    let text = parse(Endpoint::Text, &json!({"prompt": "x"})).ok().unwrap();
    assert_eq!(text.max_tokens, Some(16));
    assert_eq!(text.cloud_prompt, AskedCloudPrompt::Default);
}

#[test]
fn an_error_names_its_field_and_repeats_nothing() {
    let secret = "my diagnosis";
    for (name, value) in [
        ("temperature", json!(secret)),
        ("temperature", json!(-1)),
        ("top_p", json!(0)),
        ("top_k", json!(-2)),
        ("seed", json!(secret)),
        ("stop", json!([secret, 1])),
        ("stop", json!("")),
        ("stop", json!(vec!["x"; 17])),
        ("max_tokens", json!(0)),
        ("max_completion_tokens", json!(1.5)),
        ("n", json!(2)),
        ("top_logprobs", json!(1)),
        ("stream", json!(secret)),
        ("cloud_prompt", json!("no such/name")),
        ("cloud_prompt", json!({"text": secret})),
        ("tools", json!([{"type": "function"}])),
        ("response_format", json!({"type": "json_object"})),
        ("logit_bias", json!({"1": 2})),
        ("messages", json!([])),
        ("messages", json!(secret)),
        (
            "messages[0].role",
            json!([{"role": secret, "content": secret}]),
        ),
        (
            "messages[0].content",
            json!([{"role": "user", "content": {"a": secret}}]),
        ),
        (
            "messages[0].content",
            json!([{"role": "user", "content": [{"type": "image_url"}]}]),
        ),
    ] {
        let field = name.split('[').next().unwrap();
        let refused = chat(&json!({ field: value }));
        let body = refused.as_ref().err().map(ApiError::body);
        assert_eq!(param(refused), name, "{value}");
        assert!(!format!("{body:?}").contains(secret), "{body:?}");
    }
    let broken = Fields::parse(b"{\"prompt\": \"my diagnosis\", my diagnosis");
    let broken = broken.err().unwrap().body().to_string();
    assert!(
        !broken.contains(secret) && broken.contains("column"),
        "{broken}"
    );
}

#[test]
fn a_text_prompt_is_text_or_one_list_of_ids() {
    let prompt = |prompt: Value| parse(Endpoint::Text, &json!({ "prompt": prompt }));
    let tokens = |prompt: Value| match self::prompt(Endpoint::Text, &fields(&prompt)) {
        Ok(AskedPrompt::Tokens(tokens)) => tokens.for_engine().iter().map(|t| t.0).collect(),
        _ => vec![],
    };
    fn fields(prompt: &Value) -> Fields {
        Fields::parse(json!({ "prompt": prompt }).to_string().as_bytes())
            .ok()
            .unwrap()
    }
    assert_eq!(tokens(json!([1, 2])), [1, 2]);
    assert_eq!(tokens(json!([[3, 4]])), [3, 4]);
    assert!(prompt(json!("x")).is_ok() && prompt(json!(["x"])).is_ok());
    for bad in [json!(["x", "y"]), json!([1, "y"]), json!([-1]), json!(7)] {
        assert_eq!(param(prompt(bad)), "prompt");
    }
    assert_eq!(param(parse(Endpoint::Text, &json!({}))), "prompt");
}
