//! Processes: the same device in another process is another one, and opens a stage of its own.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Two {
    #[device("cuda:0", process = 0)]
    first: Linear,
    second: Linear,
    #[device("cuda:0", process = 1,)]
    third: Linear,
    #[stage]
    fourth: Linear,
}

#[pipeline(schedule = zbv, chunks = 4)]
struct ThereAndBack {
    #[devices("cpu", "cpu", "cpu", "cpu", process = [0, 1, 1, 0])]
    blocks: [Linear; 8],
}

#[pipeline]
struct All {
    #[devices("cuda:0" = 2, "cuda:1" = 1, process = 0)]
    blocks: Vec<Linear>,
    #[device("cpu", process = 1)]
    head: Linear,
}

const _: () = assert!(Two::STAGES == 3 && ThereAndBack::STAGES == 4 && All::STAGES == 3);

fn main() {}
