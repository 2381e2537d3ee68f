//! Formulas that layers and their twins share: functions of tensors, without state.

use tch::{Kind, Tensor};

/// Tokens per row.
pub const TOKENS: i64 = 5;

/// Numbers per token. A row has 30 floats, so micro-batches begin at any multiple of 8 bytes.
pub const WIDTH: i64 = 6;

/// Entries of an embedding's table.
pub const WORDS: i64 = 7;

pub(super) const HEADS: i64 = 2;

/// Rows of a queue.
pub(super) const QUEUE: i64 = 3;

/// Applies a linear map and `tanh`.
pub(super) fn mix(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Tensor {
    x.linear(weight, Some(bias)).tanh()
}

/// Selects the last token of each row: `[rows, 1, WIDTH]`.
pub(super) fn last_token(x: &Tensor) -> Tensor {
    x.narrow(1, x.size()[1] - 1, 1)
}

pub(super) fn low_rank(x: &Tensor, weight: &Tensor, a: &Tensor, b: &Tensor) -> Tensor {
    x + last_token(x).matmul(&(weight + a.matmul(b))).tanh()
}

pub(super) fn summed_weights(x: &Tensor, weight: &Tensor, other: &Tensor, gain: &Tensor) -> Tensor {
    x + x.matmul(&(weight + other)).tanh() * gain.sum(Kind::Float)
}

pub(super) fn normalised_weight(x: &Tensor, weight: &Tensor, gain: &Tensor) -> Tensor {
    let length = weight.square().sum_dim_intlist([0_i64].as_slice(), true, Kind::Float).sqrt();
    x + last_token(x).matmul(&(weight / length * gain))
}

/// Runs one step of the power iteration, and returns the two singular vectors.
pub(super) fn power_iteration(weight: &Tensor, u: &Tensor) -> (Tensor, Tensor) {
    let unit = |vector: Tensor| &vector / (vector.norm() + 1e-6);
    let weight = weight.detach();
    let v = unit(weight.tr().mv(u));
    (unit(weight.mv(&v)), v)
}

pub(super) fn spectral(x: &Tensor, weight: &Tensor, (u, v): (&Tensor, &Tensor)) -> Tensor {
    let largest = u.dot(&weight.mv(v));
    x * 0.5 + x.matmul(&(weight / largest)).tanh()
}

/// Maps each token to the index of a word.
pub(super) fn words(x: &Tensor) -> Tensor {
    (x.detach().select(2, 0) * 2.).floor().clamp(-3., 3.).to_kind(Kind::Int64) + 3
}

pub(super) fn sparse_and_dense(x: &Tensor, table: &Tensor) -> Tensor {
    let scores = x.matmul(&table.tr());
    let chosen = scores.argmax(-1, false);
    let found = Tensor::embedding(table, &chosen, -1, false, true);
    x * 0.5 + found * 0.3 + scores.mean_dim([-1_i64].as_slice(), true, Kind::Float)
}

pub(super) fn forces(x: &Tensor, weight: &Tensor) -> Tensor {
    let positions = x.detach().set_requires_grad(true);
    let energy = positions.matmul(weight).tanh().square().sum(Kind::Float);
    let forces = Tensor::run_backward(&[energy], &[&positions], true, true).remove(0);
    x - forces * 0.3
}

pub(super) fn slope_penalty(x: &Tensor, weight: &Tensor) -> Tensor {
    let x = if x.requires_grad() { x.shallow_clone() } else { x.detach().set_requires_grad(true) };
    let y = x.matmul(weight).tanh();
    let slope = Tensor::run_backward(&[y.sum(Kind::Float)], &[&x], true, true).remove(0);
    x * 0.5 + y + slope.square() * 0.1
}

pub(super) fn inner_steps(x: &Tensor, weight: &Tensor, gain: &Tensor) -> Tensor {
    let (goal, weight) = (x.detach(), weight.detach());
    let mut found = goal.zeros_like().set_requires_grad(true);
    for _ in 0..2 {
        let loss = (found.matmul(&weight).tanh() - &goal).square().sum(Kind::Float);
        loss.backward();
        let step = found.grad() * 0.1;
        let _ = tch::no_grad(|| found.g_sub_(&step));
        found.zero_grad();
    }
    x + found.detach() * gain
}

pub(super) fn fast_weight(x: &Tensor, weight: &Tensor) -> Tensor {
    let weight = match weight.requires_grad() {
        true => weight.shallow_clone(),
        false => weight.detach().set_requires_grad(true),
    };
    let loss = (x.matmul(&weight).tanh() - x.detach() * 0.5).square().mean(Kind::Float);
    let slope = Tensor::run_backward(&[loss], &[&weight], true, true).remove(0);
    x * 0.5 + x.matmul(&(weight - slope * 0.5)).tanh()
}

pub(super) fn own_leaf(x: &Tensor, weight: &Tensor) -> Tensor {
    let positions = x.detach().set_requires_grad(true);
    x * 0.5 + (positions * weight).sin()
}

/// Self-attention with a mask or bias that is added to the scores.
pub(super) fn attention(x: &Tensor, weight: &Tensor, mask: &Tensor) -> Tensor {
    let heads = |part: &Tensor| part.reshape([-1, TOKENS, HEADS, WIDTH / HEADS]).transpose(1, 2);
    let parts = x.matmul(weight).chunk(3, -1);
    let [q, k, v] = [0, 1, 2].map(|part: usize| heads(&parts[part]));
    let found = Tensor::scaled_dot_product_attention(&q, &k, &v, Some(mask), 0., false, None, false);
    x * 0.5 + found.transpose(1, 2).reshape([-1, TOKENS, WIDTH])
}

/// Looks up the bias of each pair of tokens by their distance: from `[HEADS, 2 TOKENS - 1]` to
/// `[HEADS, TOKENS, TOKENS]`.
pub(super) fn distance_bias(table: &Tensor) -> Tensor {
    let positions = Tensor::arange(TOKENS, (Kind::Int64, table.device()));
    let distance = positions.unsqueeze(0) - positions.unsqueeze(1) + (TOKENS - 1);
    table.index_select(1, &distance.view([-1])).view([HEADS, TOKENS, TOKENS])
}

/// Mask with which each token sees itself and the tokens before it: zero there, and minus infinity
/// elsewhere.
pub(super) fn causal_mask() -> Tensor {
    let infinite = Tensor::full([TOKENS, TOKENS], f64::NEG_INFINITY, (Kind::Float, tch::Device::Cpu));
    infinite.triu(1)
}

/// Rotations by position and frequency, `[TOKENS, WIDTH / 2]`.
pub(super) fn rotations() -> Tensor {
    let options = (Kind::Float, tch::Device::Cpu);
    let angle = Tensor::arange(TOKENS, options).unsqueeze(1) * Tensor::arange(WIDTH / 2, options).exp2() * 0.1;
    Tensor::polar(&angle.ones_like(), &angle)
}

/// Views pairs of numbers as complex numbers.
pub(super) fn as_complex(x: &Tensor) -> Tensor {
    x.contiguous().view([-1, TOKENS, WIDTH / 2, 2]).view_as_complex()
}

/// Views complex numbers as pairs of numbers.
pub(super) fn as_real(x: &Tensor) -> Tensor {
    x.view_as_real().reshape([-1, TOKENS, WIDTH])
}

pub(super) fn complex_weights(x: &Tensor, weight: &Tensor, constant: &Tensor) -> Tensor {
    let turned = as_complex(x).matmul(weight) * constant;
    x * 0.5 + as_real(&turned).tanh()
}

/// Runs four experts. The first two may get tokens, up to the capacity. The third runs on an empty
/// tensor, and the fourth is left out.
pub(super) fn experts(x: &Tensor, gate: &Tensor, weights: &[Tensor; 4]) -> Tensor {
    let tokens = x.reshape([-1, WIDTH]);
    let closed = Tensor::from_slice(&[0_f32, 0., -1e4, -1e4]);
    let scores = tokens.matmul(gate) + closed;
    let (choice, share) = (scores.argmax(-1, false), scores.softmax(-1, Kind::Float));
    let capacity = (tokens.size()[0] + 1) / 2;
    let mut sum = &tokens * 0.5;
    for (expert, weight) in weights.iter().enumerate() {
        let expert = expert as i64;
        let places = choice.eq(expert).nonzero().view([-1]);
        let places = places.narrow(0, 0, places.size()[0].min(capacity));
        if places.size()[0] == 0 && expert != 2 {
            continue;
        }
        let found = tokens.index_select(0, &places).matmul(weight).tanh();
        let found = found * share.select(1, expert).index_select(0, &places).unsqueeze(1);
        sum = sum.index_add(0, &places, &found);
    }
    sum.view([-1, TOKENS, WIDTH])
}

/// Adds the value that was kept from the micro-batches before.
pub(super) fn with_kept(x: &Tensor, weight: &Tensor, kept: Option<&Tensor>) -> Tensor {
    let x = x * weight;
    match kept {
        Some(kept) => (x + kept).tanh(),
        None => x.tanh(),
    }
}

/// Computes the value to keep for the next micro-batch.
pub(super) fn to_keep(y: &Tensor, kept: Option<&Tensor>) -> Tensor {
    let mean = y.detach().mean_dim([0_i64].as_slice(), true, Kind::Float);
    match kept {
        Some(kept) => mean * 0.5 + kept * 0.5,
        None => mean,
    }
}

pub(super) fn twice(x: &Tensor, weight: &Tensor) -> Tensor {
    x + x.matmul(weight).tanh().matmul(weight)
}

/// A gated layer after a norm. Each product saves the output of a norm or an activation, whole, a
/// part of it, transposed, or changed in place.
pub(super) fn chains(x: &Tensor, inner: &Tensor, outer: &Tensor, gain: &Tensor) -> Tensor {
    let half = WIDTH / 2;
    let normal = x.layer_norm([WIDTH], Some(gain), None::<&Tensor>, 1e-5, false);
    let wide = normal.matmul(inner);
    let gate = wide.silu().leaky_relu();
    let gated = (&gate * wide.gelu("tanh")).relu();
    let left = gated.narrow(-1, 0, half).elu().matmul(&outer.narrow(0, 0, half));
    // What the product before has saved is a part of a copy.
    let copied = gated.transpose(0, 1).contiguous().transpose(0, 1);
    let mut changed = gated.softplus();
    let _ = changed.g_add_(&gate.sigmoid());
    x * 0.5 + left + (changed * copied.tanh() + normal.mish().relu_()).hardswish().matmul(outer)
}

pub(super) fn in_place_view(x: &Tensor, weight: &Tensor) -> Tensor {
    let y = x * weight;
    let mut left = y.narrow(2, 0, 2);
    let _ = left.g_mul_(&x.narrow(2, 2, 2));
    y.sin() + x * 0.5
}

pub(super) fn cut(x: &Tensor, weight: &Tensor) -> Tensor {
    x.detach().matmul(weight).tanh()
}

/// Mean over rows and tokens.
pub(super) fn mean(x: &Tensor) -> Tensor {
    x.detach().mean_dim([0_i64, 1].as_slice(), false, Kind::Float)
}

/// Adds the mean of a queue.
pub(super) fn with_queue(x: &Tensor, gain: &Tensor, queue: &Tensor) -> Tensor {
    (x * gain + queue.mean_dim([0_i64].as_slice(), false, Kind::Float)).tanh()
}

/// Applies a weight, and the one that follows it.
pub(super) fn two_weights(x: &Tensor, weight: &Tensor, slow: &Tensor) -> Tensor {
    x.matmul(weight).tanh() + x.matmul(slow) * 0.5
}
