//! Views of weights that layers keep from the first forward on.

use std::cell::OnceCell;

use super::*;

type View = fn(&Tensor) -> Vec<Tensor>;

/// A layer that keeps views of its weight.
struct Keeps {
    weight: Tensor,
    view: View,
    kept: OnceCell<Vec<Tensor>>,
}

impl Layer<Tensor> for Keeps {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        x * size(self.kept.get_or_init(|| (self.view)(&self.weight)))
    }
}

fn size(kept: &[Tensor]) -> Tensor {
    kept.iter().map(|view| (view.abs() + 1.).log().sum(Kind::Float)).sum()
}

#[pipeline(chunks = 4)]
struct Keeping {
    #[device("cpu")]
    first: Linear,
    keeps: Keeps,
    #[device("cpu")]
    last: Linear,
}

/// Each operator of libtorch that returns a view, of a weight of `[4, 1, 3, 2]`.
const VIEWS: [(&str, View); 27] = [
    ("alias", |w| vec![w.alias()]),
    ("as_strided", |w| vec![w.as_strided([4, 3], [6, 2], None)]),
    ("chunk", |w| w.chunk(2, 0)),
    ("conj", |w| vec![w.view_as_complex().conj()]),
    ("diagonal", |w| vec![w.diagonal(0, 0, 2)]),
    ("expand", |w| vec![w.expand([4, 5, 3, 2], false)]),
    ("imag of conj", |w| vec![w.view_as_complex().conj().imag()]),
    ("movedim", |w| vec![w.movedim(0, 2)]),
    ("narrow", |w| vec![w.narrow(2, 1, 2)]),
    ("permute", |w| vec![w.permute([3, 1, 0, 2])]),
    ("real", |w| vec![w.view_as_complex().real()]),
    ("reshape", |w| vec![w.reshape([12, 2])]),
    ("reshape of a transposed", |w| vec![w.transpose(0, 1).reshape([4, 3, 2])]),
    ("select", |w| vec![w.select(0, 2)]),
    ("slice", |w| vec![w.slice(0, 1, 4, 2)]),
    ("split", |w| w.split(3, 0)),
    ("split_with_sizes", |w| w.split_with_sizes([1, 3], 0)),
    ("squeeze", |w| vec![w.squeeze()]),
    ("squeeze_dim", |w| vec![w.squeeze_dim(1)]),
    ("tensor_split", |w| w.tensor_split(2, 2)),
    ("tr", |w| vec![w.view([12, 2]).tr()]),
    ("transpose", |w| vec![w.transpose(0, 3)]),
    ("unbind", |w| w.unbind(0)),
    ("unfold", |w| vec![w.unfold(0, 2, 1)]),
    ("unsqueeze", |w| vec![w.unsqueeze(0)]),
    ("view", |w| vec![w.view([2, 12])]),
    ("view_as_real", |w| vec![w.view_as_complex().view_as_real()]),
];

#[test]
fn a_view_of_a_weight_may_be_kept() {
    let _serial = pipe_tests::serial();
    for ((name, view), mode) in VIEWS.into_iter().flat_map(|view| MODES.map(|mode| (view, mode))) {
        let vars = Keeping::vars(&Devices::cpu(2)).unwrap();
        let (first, last) = (linear(vars.first(), 8, 8), linear(vars.last(), 8, 8));
        let weight = vars.keeps().randn("w", &[4, 1, 3, 2], 0., 1.);
        let (x, y) = (rows(8), rows(8));
        let plain = mse(&(x.apply(&first) * size(&view(&weight))).apply(&last), &y);
        let expected = Tensor::run_backward(&[plain], &[&weight], false, false).remove(0);
        let keeps = Keeps { weight: weight.shallow_clone(), view, kept: OnceCell::new() };
        let mut pipe = Keeping { first, keeps, last }.pipe(&vars).checkpoint(mode).build().unwrap();
        for step in 1..=2 {
            pipe.train_step(&x, &y, mse).unwrap_or_else(|error| panic!("{name}, {mode}, step {step}: {error}"));
            let found = weight.grad();
            assert!(found.allclose(&(&expected * step), 1e-4, 1e-6, false), "{name}, {mode}, step {step}");
        }
    }
}
