//! The encoder-decoder in plain tch: the whole batch at once, and attention written out.

use tch::{Device, Kind, Tensor};

use crate::{Attention, HEADS, Input, LENGTH, Translate, WIDTH};

/// Logits of the next token, `[rows, TOKENS, positions]`.
pub fn forward(net: &Translate, (source, mask, target): &Input) -> Tensor {
    let not_later = Tensor::ones([LENGTH, LENGTH], (Kind::Bool, Device::Cpu)).tril(0);
    let x = source.apply(&net.embed) + &net.encode.1;
    let memory = &x + attention(&net.encode.0, &x, &x, mask);
    let mut x = target.apply(&net.embed) + &net.begin.0;
    for layer in &net.decode {
        x = &x + attention(&layer.own, &x, &x, &not_later);
        x = &x + attention(&layer.cross, &x, &memory, mask);
        x = &x + x.apply(&layer.feed[0]).relu().apply(&layer.feed[1]);
    }
    x.apply(&net.norm).matmul(&net.embed.ws.tr()).transpose(1, 2)
}

/// Attention of `x` to what is `seen` of `other`.
fn attention(Attention([q, k, v, out]): &Attention, x: &Tensor, other: &Tensor, seen: &Tensor) -> Tensor {
    let heads = |x: Tensor| x.view([-1, LENGTH, HEADS, WIDTH / HEADS]).transpose(1, 2);
    let [q, k, v] = [x.apply(q), other.apply(k), other.apply(v)].map(heads);
    let scores = q.matmul(&k.transpose(2, 3)) / ((WIDTH / HEADS) as f64).sqrt();
    let weights = scores.masked_fill(&seen.logical_not(), f64::NEG_INFINITY).softmax(-1, Kind::Float);
    weights.matmul(&v).transpose(1, 2).reshape(x.size()).apply(out)
}
