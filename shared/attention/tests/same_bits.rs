//! On the processor a query gets the same bits however it is computed: in a prompt, in pieces of one,
//! alone or beside others, over a segment or over blocks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use edgeprompt_attention::{
    BlockPlace, BlockRow, KvBlocks, KvView, Mask, PartialAttention, partial_attention,
};
use edgeprompt_kv::TokenRange;
use edgeprompt_testkit::oracle::{Problem, Shape};
use proptest::prelude::*;

fn shapes() -> impl Strategy<Value = Shape> {
    // Groups of few rows and of many, and prompts of more than one span of keys.
    let tokens = prop_oneof![6 => 1..=150usize, 1 => 1000..=1100usize];
    let head_dim = prop_oneof![(1..=20usize).prop_map(|half| 2 * half), Just(64)];
    (1..=2usize, 1..=5usize, head_dim, tokens).prop_map(|(kv_heads, group, head_dim, tokens)| {
        Shape {
            q_heads: kv_heads * group,
            kv_heads,
            head_dim,
            tokens,
        }
    })
}

fn tensor(numbers: Vec<f32>, shape: [usize; 3]) -> Tensor<3> {
    Tensor::from_data(TensorData::new(numbers, shape), &Device::flex())
}

fn queries(problem: &Problem, tokens: Range<usize>) -> Tensor<3> {
    let shape = [tokens.len(), problem.shape.q_heads, problem.shape.head_dim];
    tensor(problem.queries(tokens, 0), shape)
}

fn segment(problem: &Problem, tokens: Range<usize>) -> KvView {
    let shape = [problem.shape.kv_heads, tokens.len(), problem.shape.head_dim];
    KvView {
        keys: tensor(problem.keys(tokens.clone(), 0), shape),
        values: tensor(problem.values(tokens), shape),
    }
}

fn token_range(tokens: &Range<usize>) -> TokenRange {
    let position = |token| u32::try_from(token).unwrap();
    TokenRange::new(position(tokens.start), position(tokens.end))
}

fn bits(part: PartialAttention) -> Vec<Vec<u32>> {
    let tokens = part.output.dims()[0];
    let output: Vec<f32> = part.output.into_data().try_to_vec().unwrap();
    let lse: Vec<f32> = part.lse.into_tensor().into_data().try_to_vec().unwrap();
    let of_tokens = output
        .chunks(output.len() / tokens)
        .zip(lse.chunks(lse.len() / tokens));
    of_tokens
        .map(|(output, lse)| output.iter().chain(lse).map(|it| it.to_bits()).collect())
        .collect()
}

/// The tokens in pieces, as long as `lens` say in turn.
fn pieces(token_count: usize, lens: &[usize]) -> Vec<Range<usize>> {
    let mut pieces: Vec<Range<usize>> = Vec::new();
    for len in lens.iter().cycle() {
        let start = pieces.last().map_or(0, |piece| piece.end);
        if start == token_count {
            break;
        }
        pieces.push(start..token_count.min(start + len));
    }
    pieces
}

/// Blocks that hold all tokens, not in order, and the table of them.
fn blocks(problem: &Problem, block_len: usize) -> (KvBlocks, Vec<usize>) {
    let Shape {
        kv_heads,
        head_dim,
        tokens,
        ..
    } = problem.shape;
    let count = tokens.div_ceil(block_len);
    let table: Vec<usize> = (0..count).rev().map(|index| index * 2 + 1).collect();
    let mut blocks = KvBlocks::zeros([2 * count, kv_heads, block_len, head_dim], &Device::flex());
    let place = |token: usize| BlockPlace {
        block: table[token / block_len],
        slot: token % block_len,
    };
    let places: Arc<[_]> = (0..tokens).map(place).collect();
    let KvView { keys, values } = segment(problem, 0..tokens);
    blocks.write(&places, &keys.swap_dims(0, 1), &values.swap_dims(0, 1));
    (blocks, table)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_token_gets_the_same_bits_in_a_prompt_in_pieces_and_alone(
        shape in shapes(),
        lens in proptest::collection::vec(1..=90usize, 1..6),
        block_len in prop_oneof![1..=24usize, Just(16)],
        seed: u64,
    ) {
        let problem = Problem::random(shape, 1.0, seed);
        let all = 0..shape.tokens;
        let whole_mask = Mask::causal(token_range(&all), token_range(&all), &Device::flex());
        let q = queries(&problem, all.clone());
        let whole = bits(partial_attention(&q, &segment(&problem, all), &whole_mask));
        for piece in pieces(shape.tokens, &lens) {
            let seen = 0..piece.end;
            let mask = Mask::causal(token_range(&piece), token_range(&seen), &Device::flex());
            let q = queries(&problem, piece.clone());
            let found = bits(partial_attention(&q, &segment(&problem, seen), &mask));
            prop_assert_eq!(found, &whole[piece]);
        }
        // As when they are decoded side by side.
        let (blocks, table) = blocks(&problem, block_len);
        let some: Vec<usize> = (0..shape.tokens).rev().step_by(shape.tokens.div_ceil(9)).collect();
        let rows = some.iter().map(|token| BlockRow {
            blocks: table.clone(),
            token_count: token + 1,
        });
        let of_rows = some.iter().map(|token| queries(&problem, *token..token + 1));
        let found = bits(blocks.attend(&Tensor::cat(of_rows.collect(), 0), &rows.collect()));
        for (token, found) in some.into_iter().zip(found) {
            prop_assert_eq!(found, &whole[token][..]);
        }
    }

    #[test]
    fn rows_of_a_shared_segment_get_the_same_bits_in_any_company(
        shape in shapes(),
        row_count in 1..=70usize,
        block_len in prop_oneof![1..=24usize, Just(16)],
        seed: u64,
    ) {
        let problem = Problem::random(shape, 1.0, seed);
        let segment = segment(&problem, 0..shape.tokens);
        let row = |row: usize| queries(&problem, row % shape.tokens..row % shape.tokens + 1);
        let rows = Tensor::cat((0..row_count).map(row).collect(), 0);
        let together = bits(partial_attention(&rows, &segment, &Mask::all_visible()));
        let (blocks, table) = blocks(&problem, block_len);
        let in_blocks = BlockRow { blocks: table, token_count: shape.tokens };
        let in_blocks: Arc<[_]> = std::iter::repeat_n(in_blocks, row_count).collect();
        prop_assert_eq!(&bits(blocks.attend(&rows, &in_blocks)), &together);
        for (index, together) in together.iter().enumerate() {
            let alone = bits(partial_attention(&row(index), &segment, &Mask::all_visible()));
            prop_assert_eq!(&alone[0], together);
        }
    }
}
