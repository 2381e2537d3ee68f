//! On the CPU, the number of stages is a multiple of the schedule's stages per rank.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline(schedule = zbv)]
struct Model {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    second: Linear,
    #[device("cpu")]
    third: Linear,
}

#[pipeline(schedule = interleaved)]
struct Nine {
    #[device("cpu")]
    layer0: Linear,
    #[device("cpu")]
    layer1: Linear,
    #[device("cpu")]
    layer2: Linear,
    #[device("cpu")]
    layer3: Linear,
    #[device("cpu")]
    layer4: Linear,
    #[device("cpu")]
    layer5: Linear,
    #[device("cpu")]
    layer6: Linear,
    #[device("cpu")]
    layer7: Linear,
    #[device("cpu")]
    layer8: Linear,
}

fn main() {}
