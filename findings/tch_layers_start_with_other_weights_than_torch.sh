#!/usr/bin/env bash
# tch 0.24.0 with torch 2.11.0: the weights with which `nn::linear`, `nn::conv2d` and `nn::lstm` start.
#
# Guess: those of PyTorch's layers of the same name, within a bound of 1 / sqrt(inputs), or of
# 1 / sqrt(hidden size) for the LSTM.
# Seen: a linear or convolution weight lies within sqrt(6 / inputs), 2.45 times PyTorch's bound: tch has
# the gain of a ReLU behind each layer. So ten linear layers without an activation make a signal 31
# times as large, where PyTorch's make it 1/236. Biases of convolutions are 0, and those of linear
# layers are as PyTorch's. The LSTM's weights have the same bound by their own inputs, its biases are 0.
# `Init::Kaiming` with `NonLinearity::ExplicitGain(1. / 3f64.sqrt())` gives PyTorch's bound.
# Who is hit: whoever moves a model from PyTorch and starts from random weights with the same settings:
# the first losses, and the learning rate that trains, are others, without a word.
#
# Needs Cargo, a C++ compiler, Python 3 with pip and some 6 GB in the temporary folder. Fails if the behaviour changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.11.0 numpy==2.3.5
export PATH="$folder/env/bin:$PATH" LIBTORCH_USE_PYTORCH=1
LD_LIBRARY_PATH="$(python -c 'import os, torch; print(os.path.dirname(torch.__file__))')/lib"
export LD_LIBRARY_PATH
mkdir -p "$folder/crate/src"
cat >"$folder/crate/Cargo.toml" <<'TOML'
[package]
name = "weights"
version = "0.1.0"
edition = "2021"
[dependencies]
tch = "=0.24.0"
TOML
cat >"$folder/crate/src/main.rs" <<'RUST'
use tch::nn::init::{FanInOut, NonLinearity, NormalOrUniform};
use tch::nn::{self, Init, LinearConfig, Module, VarStore};
use tch::{Device, Kind, Tensor};

/// The largest weight, which is near the bound that they are drawn within.
fn bound(name: &str, weight: &Tensor) {
    println!("{name}: {:.3}", weight.abs().max().double_value(&[]));
}

fn main() {
    tch::manual_seed(0);
    let store = VarStore::new(Device::Cpu);
    let path = store.root();
    let linear = nn::linear(&path / "linear", 100, 1000, Default::default());
    bound("linear weight", &linear.ws);
    bound("linear bias", linear.bs.as_ref().unwrap());
    let conv = nn::conv2d(&path / "conv", 100, 100, 3, Default::default());
    bound("conv weight", &conv.ws);
    bound("conv bias", conv.bs.as_ref().unwrap());
    let _lstm = nn::lstm(&path / "lstm", 100, 400, Default::default());
    let variables = store.variables();
    bound("lstm weight of inputs", &variables["lstm.weight_ih_l0"]);
    bound("lstm weight of the state", &variables["lstm.weight_hh_l0"]);
    bound("lstm bias", &variables["lstm.bias_ih_l0"]);
    let gain = NonLinearity::ExplicitGain(1. / 3f64.sqrt());
    let ws_init = Init::Kaiming { dist: NormalOrUniform::Uniform, fan: FanInOut::FanIn, non_linearity: gain };
    let config = LinearConfig { ws_init, ..Default::default() };
    bound("linear weight with this gain", &nn::linear(&path / "gain", 100, 1000, config).ws);

    let mut x = Tensor::randn([1000, 100], (Kind::Float, Device::Cpu));
    for number in 0..10 {
        let config = LinearConfig { bias: false, ..Default::default() };
        x = nn::linear(&path / "deep" / number, 100, 100, config).forward(&x);
    }
    println!("ten layers make it larger: {}", x.std(true).double_value(&[]) > 20.);
}
RUST
cat >"$folder/weights.py" <<'PYTHON'
import torch
from torch import nn

torch.manual_seed(0)


def bound(name, weight):
    print(f"{name}: {weight.abs().max().item():.3f}")


linear, conv, lstm = nn.Linear(100, 1000), nn.Conv2d(100, 100, 3), nn.LSTM(100, 400)
bound("linear weight", linear.weight)
bound("linear bias", linear.bias)
bound("conv weight", conv.weight)
bound("conv bias", conv.bias)
bound("lstm weight of inputs", lstm.weight_ih_l0)
bound("lstm weight of the state", lstm.weight_hh_l0)
bound("lstm bias", lstm.bias_ih_l0)
x = torch.randn(1000, 100)
for _ in range(10):
    x = nn.Linear(100, 100, bias=False)(x)
print(f"ten layers make it smaller: {x.std().item() < 0.01}")
PYTHON
echo "PyTorch"
python "$folder/weights.py" | tee "$folder/theirs"
echo "tch"
(cd "$folder/crate" && cargo run --quiet 2>&1) | tee "$folder/out"
diff - "$folder/theirs" <<'TEXT' || { echo "changed: PyTorch"; exit 1; }
linear weight: 0.100
linear bias: 0.100
conv weight: 0.033
conv bias: 0.033
lstm weight of inputs: 0.050
lstm weight of the state: 0.050
lstm bias: 0.050
ten layers make it smaller: True
TEXT
diff - "$folder/out" <<'TEXT' || { echo "changed: tch"; exit 1; }
linear weight: 0.245
linear bias: 0.100
conv weight: 0.082
conv bias: 0.000
lstm weight of inputs: 0.245
lstm weight of the state: 0.122
lstm bias: 0.000
linear weight with this gain: 0.100
ten layers make it larger: true
TEXT
echo "as found: a linear weight's bound is sqrt(6) times PyTorch's"
