//! Models whose layers add up values: single layers, arrays and blocks, recomputed or not.

use pipe_runtime::{Context, Devices, Layer, Mean, Sum, Vars, pipeline};
use tch::nn::{Linear, Path};
use tch::{Kind, Tensor};

use super::{Mirrored, WIDTH, Weights, mean_square};
use crate::layers::linear;

/// What flows on from an expert, and its penalty: a mean over the rows.
pub fn expert(x: &Tensor, weight: &Tensor, bias: &Tensor) -> (Tensor, Tensor) {
    let y = x.linear(weight, Some(bias)).tanh();
    let penalty = y.square().mean_dim(1, false, Kind::Float).mean(Kind::Float);
    (y, penalty)
}

fn expert_of(x: &Tensor, layer: &Linear) -> (Tensor, Tensor) {
    expert(x, &layer.ws, layer.bs.as_ref().unwrap())
}

/// A sum over the rows.
fn used(x: &Tensor) -> Tensor {
    x.sin().sum(Kind::Float)
}

/// Adds its penalty.
#[derive(Debug)]
pub struct Gate(pub Linear);

impl Layer<Tensor> for Gate {
    type Out = (Tensor, Tensor);

    fn run(&self, x: Tensor, _cx: &Context) -> (Tensor, Tensor) {
        expert_of(&x, &self.0)
    }
}

/// Reads a scale, and adds to both sums.
struct Expert(Linear);

impl Layer<(Tensor, Tensor)> for Expert {
    type Out = (Tensor, Tensor, Tensor);

    fn run(&self, (x, scale): (Tensor, Tensor), _cx: &Context) -> (Tensor, Tensor, Tensor) {
        let (x, penalty) = expert_of(&(x * scale), &self.0);
        let used = used(&x);
        (x, penalty, used)
    }
}

/// Adds what it uses, and stashes.
struct Split;

impl Layer<Tensor> for Split {
    type Out = (Tensor, Tensor, Tensor);

    fn run(&self, x: Tensor, _cx: &Context) -> (Tensor, Tensor, Tensor) {
        (x.cos(), used(&x), x)
    }
}

/// Takes what was stashed.
struct Join;

impl Layer<(Tensor, Tensor)> for Join {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x * skip
    }
}

/// Adds up inside, and hands the sum on.
#[pipeline(sum(penalty: Tensor))]
struct Block {
    #[sum(penalty)]
    one: Gate,
    between: Linear,
    #[sum(penalty)]
    two: Gate,
}

impl Block {
    fn new(path: Path<'_>) -> Self {
        let linear = |name: &str| linear(&path / name, WIDTH, WIDTH);
        Self { one: Gate(linear("one")), between: linear("between"), two: Gate(linear("two")) }
    }
}

/// What the models give: rows, a mean and a sum over them.
pub type Output = (Tensor, Mean, Sum);

/// The same model, with or without `#[recompute]` on its layers, and with an array of this length
/// over these devices.
macro_rules! experts {
    ($(#[$doc:meta])* $name:ident, $vars:ident, [$length:tt; $($device:tt),*] $(, #[$again:ident])?) => {
        $(#[$doc])*
        #[pipeline(sum(balance: Mean, used: Sum))]
        pub struct $name {
            #[device("cpu")]
            #[lend(scale = output)]
            first: Linear,
            $(#[$again])?
            #[sum(balance)]
            gate: Gate,
            $(#[$again])?
            #[devices($($device),*)]
            #[read(scale)]
            #[sum(balance, used)]
            experts: [Expert; $length],
            $(#[$again])?
            #[repeat]
            plain: [Linear; 2],
            between: Linear,
            $(#[$again])?
            #[device("cpu")]
            #[repeat]
            #[sum(balance)]
            blocks: Vec<Block>,
            #[sum(used)]
            #[stash(skip)]
            split: Split,
            $(#[$again])?
            after: Linear,
            #[pop(skip)]
            join: Join,
        }

        impl Mirrored for $name {
            type Vars = $vars;

            fn make(devices: &Devices) -> (Self, $vars) {
                let vars = Self::vars(devices).expect("the devices are as many as the stages, or fewer");
                let linear = |path| linear(path, WIDTH, WIDTH);
                let model = Self {
                    first: linear(vars.first()),
                    gate: Gate(linear(vars.gate())),
                    experts: vars.experts().map(|path| Expert(linear(path))),
                    plain: vars.plain().map(linear),
                    between: linear(vars.between()),
                    blocks: vars.blocks(2).into_iter().map(Block::new).collect(),
                    split: Split,
                    after: linear(vars.after()),
                    join: Join,
                };
                (model, vars)
            }

            fn plain(vars: &Vars, x: &Tensor, _chunks: usize) -> Output {
                plain(vars, x)
            }

            fn loss(output: &Output) -> Tensor {
                loss(output)
            }

            fn tensors((output, Mean(balance), Sum(used)): &Output) -> Vec<&Tensor> {
                vec![output, balance, used]
            }
        }
    };
}

experts!(
    /// The model over four stages, without recomputed layers.
    Kept,
    KeptVars,
    [5; "cpu", "cpu"]
);
experts!(
    /// The model over four stages, in which layers that add are recomputed.
    Again,
    AgainVars,
    [5; "cpu", "cpu"],
    #[recompute]
);
experts!(
    /// The model over eight stages, without recomputed layers.
    LongKept,
    LongKeptVars,
    [6; "cpu", "cpu", "cpu", "cpu", "cpu", "cpu"]
);
experts!(
    /// The model over eight stages, in which layers that add are recomputed.
    LongAgain,
    LongAgainVars,
    [6; "cpu", "cpu", "cpu", "cpu", "cpu", "cpu"],
    #[recompute]
);

/// The model in plain tch.
pub fn plain(vars: &Vars, x: &Tensor) -> Output {
    let weights = Weights::of(vars);
    let adds = |x: &Tensor, name: &str| {
        let [weight, bias] = weights.linear(name);
        expert(x, weight, bias)
    };
    let scale = weights.dense(x, "first");
    let (mut x, mut balance) = adds(&scale, "gate");
    let mut sum: Option<Tensor> = None;
    for name in weights.array("experts") {
        let (y, penalty) = adds(&(x * &scale), &name);
        sum = Some(sum.map_or_else(|| used(&y), |sum| sum + used(&y)));
        (x, balance) = (y, balance + penalty);
    }
    x = ["plain.0", "plain.1", "between"].iter().fold(x, |x, name| weights.dense(&x, name));
    for number in 0..2 {
        let (y, one) = adds(&x, &format!("blocks.{number}.one"));
        let between = weights.dense(&y, &format!("blocks.{number}.between"));
        let (y, two) = adds(&between, &format!("blocks.{number}.two"));
        (x, balance) = (y, balance + (one + two));
    }
    let sum = sum.expect("the array is not empty") + used(&x);
    (weights.dense(&x.cos(), "after") * &x, Mean(balance), Sum(sum))
}

/// A mean over the rows.
pub fn loss((output, Mean(balance), Sum(used)): &Output) -> Tensor {
    mean_square(output) + balance * 0.3 + used * 0.2 / output.size()[0]
}
