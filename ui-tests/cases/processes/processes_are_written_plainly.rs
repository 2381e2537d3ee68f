//! `process = N` stands after the device, and a list of processes after several devices.

use pipe_runtime::nn::Linear;
use pipe_runtime::pipeline;

#[pipeline]
struct Words {
    #[device("cpu", process = "0")]
    text: Linear,
    #[device("cpu", proces = 1)]
    misspelt: Linear,
    #[device("cpu", process = [1])]
    listed: Linear,
    #[devices("cpu", process = 1, "cpu")]
    blocks: [Linear; 4],
}

fn main() {}
