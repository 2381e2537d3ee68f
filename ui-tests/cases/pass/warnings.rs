//! Each warning can be allowed, and structs that are nearly wrong give none.
#![deny(warnings)]

use pipe_runtime::nn::{Concat, Linear};
use pipe_runtime::pipeline;

#[pipeline(chunks = 1, checkpoint = except_last, allow(single_stage, except_last_of_one_chunk, name_differs_by_case))]
pub struct Single {
    #[device("cuda:0")]
    #[layer(name = "Encode")]
    encode: Linear,
}

#[pipeline(allow(short_skip,))]
pub struct Short {
    #[device("cuda:0")]
    encode: Linear,
    #[stash(level = output)]
    middle: Linear,
    #[device("cuda:1")]
    #[pop(level)]
    merge: Concat,
}

/// Short skips whose boundary cannot move: a stage would be empty, or it cuts a spread array.
#[pipeline(checkpoint = except_last)]
pub struct NoOtherPlace {
    #[device("cuda:0")]
    #[stash(level = output)]
    encode: Linear,
    #[device("cuda:1")]
    #[pop(level)]
    merge: Concat,
    #[devices("cuda:2", "cuda:3")]
    #[stash(last = output)]
    blocks: [Linear; 4],
    #[device("cuda:4")]
    #[pop(last)]
    more: Concat,
}

/// A skip over other layers, and one inside a stage.
#[pipeline(chunks = 1, checkpoint = always)]
pub struct Skips {
    #[device("cuda:0")]
    #[stash(far = output)]
    encode: Linear,
    #[stash(near = input)]
    middle: Linear,
    #[pop(near)]
    merge: Concat,
    #[device("cuda:1")]
    head: Linear,
    #[pop(far)]
    #[layer(name = "Merge_far")]
    merge_2: Concat,
}

/// A block, which has no stages.
#[pipeline(chunks = 1)]
pub struct Block {
    layer: Linear,
}

fn main() {}
