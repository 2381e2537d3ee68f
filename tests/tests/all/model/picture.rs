//! The picture of a plan, as the book shows it.

use expect_test::expect_file;
use pipe_runtime::{Context, Layer, Mean, pipeline};
use tch::Tensor;
use tch::nn::{Embedding, LayerNorm, Linear};

/// Mixes its input with the memory, and adds to a sum.
struct Decoder;

impl Layer<(Tensor, Tensor)> for Decoder {
    type Out = (Tensor, Tensor);

    fn run(&self, (x, memory): (Tensor, Tensor), _: &Context) -> (Tensor, Tensor) {
        let out = x + memory;
        let penalty = out.square().mean(out.kind());
        (out, penalty)
    }
}

/// Adds a skip to its input.
struct Join;

impl Layer<(Tensor, Tensor)> for Join {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _: &Context) -> Tensor {
        x + skip
    }
}

// ANCHOR: model
#[pipeline(sum(penalty: Mean), chunks = 8)]
struct Translate {
    #[device("cuda:0")]
    #[stash(tokens = output)]
    embed: Embedding,
    #[repeat]
    #[recompute]
    encode: [Linear; 2],
    #[lend(memory = output)]
    norm: LayerNorm,
    #[devices("cuda:1", "cuda:2")]
    #[read(memory)]
    #[sum(penalty)]
    decode: [Decoder; 6],
    #[pop(tokens)]
    join: Join,
    #[device("cuda:3")]
    head: Linear,
}
// ANCHOR_END: model

#[test]
fn a_plan_draws_its_stages_and_the_ways_of_values() {
    let _serial = pipe_tests::serial();
    expect_file!["../../../../docs/plan.svg"].assert_eq(&Translate::PLAN.to_svg());
}

#[test]
fn names_are_text_in_a_picture() {
    let _serial = pipe_tests::serial();
    #[pipeline]
    struct Named {
        #[layer(name = "a<b&c")]
        _layer: Linear,
    }
    let picture = Named::PLAN.to_svg();
    assert!(picture.contains(">a&lt;b&amp;c</text>") && picture.contains(">any device</text>"), "{picture}");
}
