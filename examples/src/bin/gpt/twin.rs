//! The GPT in plain tch: the whole batch at once, and attention written out.

use tch::{Device, Kind, Tensor};

use crate::{Block, Gpt, HEADS, WIDTH};

/// Logits without dropout.
pub fn forward(net: &Gpt, bytes: &Tensor) -> Tensor {
    let mut x = bytes.apply(&net.words) + net.places.0.narrow(0, 0, bytes.size()[1]);
    for block in &net.blocks {
        x = &x + attention(block, &x.apply(&block.norms[0]));
        x = &x + x.apply(&block.norms[1]).apply(&block.wide).gelu("tanh").apply(&block.narrow);
    }
    x.apply(&net.norm).matmul(&net.words.ws.tr())
}

fn attention(block: &Block, x: &Tensor) -> Tensor {
    let length = x.size()[1];
    let heads = |part: Tensor| part.view([-1, length, HEADS, WIDTH / HEADS]).transpose(1, 2);
    let [q, k, v] = <[Tensor; 3]>::try_from(x.apply(&block.qkv).chunk(3, -1)).expect("three parts").map(heads);
    let later = Tensor::ones([length, length], (Kind::Bool, Device::Cpu)).triu(1);
    let scores = q.matmul(&k.transpose(2, 3)) / ((WIDTH / HEADS) as f64).sqrt();
    let weights = scores.masked_fill(&later, f64::NEG_INFINITY).softmax(-1, Kind::Float);
    weights.matmul(&v).transpose(1, 2).reshape(x.size()).apply(&block.mix)
}
