//! Small layers for test models.

use pipe_runtime::{Context, Layer};
use tch::nn::{self, Func, FuncT, Linear, Path};
use tch::{Kind, Tensor};

/// Creates a linear layer.
pub fn linear(path: Path<'_>, inputs: i64, outputs: i64) -> Linear {
    nn::linear(path, inputs, outputs, Default::default())
}

/// Creates a layer without parameters.
pub fn func(f: impl Fn(&Tensor) -> Tensor + Send + 'static) -> Func<'static> {
    nn::func(f)
}

/// Creates a dropout layer.
pub fn dropout(p: f64) -> FuncT<'static> {
    nn::func_t(move |x, train| x.dropout(p, train))
}

/// A layer that computes `tanh(input) + skip * 0.5` from `(input, skip)`.
#[derive(Debug)]
pub struct Merge;

impl Layer<(Tensor, Tensor)> for Merge {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x.tanh() + skip * 0.5
    }
}

/// A layer that returns `(output, a, b)`: ReLU, sigmoid and square of a linear map.
#[derive(Debug)]
pub struct Fork(pub Linear);

impl Layer<Tensor> for Fork {
    type Out = (Tensor, Tensor, Tensor);

    fn run(&self, x: Tensor, _cx: &Context) -> Self::Out {
        let x = x.apply(&self.0);
        (x.relu(), x.sigmoid(), x.square())
    }
}

/// A layer that takes `(input, a, b, c, d)`.
#[derive(Debug)]
pub struct Merge4;

impl Layer<(Tensor, Tensor, Tensor, Tensor, Tensor)> for Merge4 {
    type Out = Tensor;

    fn run(&self, (x, a, b, c, d): (Tensor, Tensor, Tensor, Tensor, Tensor), _cx: &Context) -> Tensor {
        x * a + b * c.tanh() - d
    }
}

/// A layer that stashes its output's sigmoid in every second micro-batch, and `None` in the others.
#[derive(Debug)]
pub struct Sometimes(pub Linear);

impl Layer<Tensor> for Sometimes {
    type Out = (Tensor, Option<Tensor>);

    fn run(&self, x: Tensor, cx: &Context) -> Self::Out {
        let x = x.apply(&self.0);
        let skip = cx.micro_batch().is_multiple_of(2).then(|| x.sigmoid());
        (x, skip)
    }
}

/// A layer that multiplies by the skip if there is one.
#[derive(Debug)]
pub struct MergeSome;

impl Layer<(Tensor, Option<Tensor>)> for MergeSome {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Option<Tensor>), _cx: &Context) -> Tensor {
        match skip {
            Some(skip) => x * skip,
            None => x,
        }
    }
}

/// What [`Split`] gives: integers, then tensors with gradients, then values that are not tensors.
pub type Mixed = (Tensor, (Tensor, Vec<Tensor>), [Tensor; 2], String, Option<i64>);

/// A layer that splits one tensor into a value of many parts.
#[derive(Debug)]
pub struct Split(pub Linear);

impl Layer<Tensor> for Split {
    type Out = Mixed;

    fn run(&self, x: Tensor, _cx: &Context) -> Mixed {
        let x = x.apply(&self.0);
        let order = x.argsort(-1, false);
        (order, (x.sin(), vec![x.cos(), x.detach()]), [x.tanh(), x.relu()], "mixed".into(), Some(3))
    }
}

/// A layer that changes some parts of a [`Mixed`].
#[derive(Debug)]
pub struct Stir(pub Linear);

impl Layer<Mixed> for Stir {
    type Out = Mixed;

    fn run(&self, (order, (a, rest), [b, c], text, number): Mixed, _cx: &Context) -> Mixed {
        let a = a.gather(-1, &order, false).apply(&self.0);
        (order, (a, rest), [b * 2., c], text, number)
    }
}

/// A layer that combines a [`Mixed`] into one tensor.
#[derive(Debug)]
pub struct Unite;

impl Layer<Mixed> for Unite {
    type Out = Tensor;

    fn run(&self, (order, (a, rest), [b, _unused], text, number): Mixed, _cx: &Context) -> Tensor {
        assert_eq!((text.as_str(), number), ("mixed", Some(3)));
        let weights = order.to_kind(Kind::Float) * 0.1;
        a * weights + &rest[0] * &rest[1] + b
    }
}
