//! A GGUF file gives llama.cpp's greedy tokens, in one piece and split.

#![cfg(test)]

use burn::tensor::Device;
use edgeprompt_engine::{CloudSegment, Sequence, SequenceOptions};
use edgeprompt_kv::TokenId;
use edgeprompt_model::Model;
use edgeprompt_testkit::fixtures::trained_model;
use serde_json::Value;

fn ids(value: &Value) -> Vec<TokenId> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| TokenId(u32::try_from(id.as_u64().unwrap()).unwrap()))
        .collect()
}

#[test]
fn stories260k_gguf_gives_llama_cpp_tokens() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let file = folder.join("stories260K.gguf");
    let model = Model::open(&file, &Device::flex(), |_| {}).unwrap();
    let golden = std::fs::read(folder.join("golden_split.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let (cloud, private) = (ids(&case["cloud_ids"]), ids(&case["edge_ids"]));
        let expected = ids(&case["greedy_ids"]);
        let tokenizer = model.tokenizer().unwrap();
        let cloud_text = case["cloud_text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(cloud_text).unwrap(), cloud);

        let segment = CloudSegment::computed(&model, &cloud);
        let mut split = Sequence::new(&model, Some(segment), SequenceOptions::default());
        assert_eq!(split.generate_greedy(&private, expected.len()), expected);

        let whole: Vec<TokenId> = cloud.into_iter().chain(private).collect();
        let mut monolithic = Sequence::new(&model, None, SequenceOptions::default());
        assert_eq!(monolithic.generate_greedy(&whole, expected.len()), expected);
    }
}
