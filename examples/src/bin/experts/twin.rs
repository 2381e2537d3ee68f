//! The mixture of experts in plain tch: the whole batch at once, and each expert on its rows alone.

use tch::{Device, Kind, Tensor};

use crate::{EXPERTS, Experts, Model};

/// Logits, balance and used rows.
pub fn forward(net: &Model, x: &Tensor) -> (Tensor, Tensor, Tensor) {
    let mut x = x.apply(&net.embed);
    let (mut balance, mut used) = (Tensor::from(0f32), Tensor::zeros([EXPERTS], (Kind::Int64, Device::Cpu)));
    for layer in &net.layers {
        let input = x.apply(&layer.norm);
        let likes = input.apply(&layer.gate).softmax(-1, Kind::Float);
        let (like, chosen) = likes.max_dim(-1, false);
        for expert in 0..EXPERTS {
            let rows = chosen.eq(expert).nonzero().squeeze_dim(-1);
            let found = of_expert(layer, expert, &input.index_select(0, &rows));
            x = x.index_add(0, &rows, &(found * like.index_select(0, &rows).unsqueeze(-1)));
        }
        balance += balance_of(&likes, &chosen);
        used += chosen.bincount::<Tensor>(None, EXPERTS);
    }
    (x.apply(&net.norm).apply(&net.head), balance, used)
}

fn of_expert(layer: &Experts, expert: i64, rows: &Tensor) -> Tensor {
    rows.matmul(&layer.wide.get(expert)).gelu("none").matmul(&layer.narrow.get(expert))
}

/// The balance is not a mean over rows, so this one computes it by micro-batch, too.
fn balance_of(likes: &Tensor, chosen: &Tensor) -> Tensor {
    let of_part = |(likes, chosen): (Tensor, Tensor)| {
        let rows = chosen.size()[0] as f64;
        let share = chosen.bincount::<Tensor>(None, EXPERTS).to_kind(Kind::Float) / rows;
        let balance = (share * likes.mean_dim(0, false, Kind::Float)).sum(Kind::Float) * EXPERTS;
        balance * rows
    };
    let parts = likes.chunk(4, 0).into_iter().zip(chosen.chunk(4, 0));
    parts.map(of_part).sum::<Tensor>() / chosen.size()[0]
}
