//! A model that lends values which each micro-batch has of another form, and adds up values that
//! are not single numbers with a gradient.

use pipe_runtime::{Context, Devices, Layer, Sum, Vars, pipeline};
use tch::nn::Linear;
use tch::{Device, Kind, Tensor};

use super::{Mirrored, WIDTH, Weights, mean_square};
use crate::layers::{MergeSome, linear};

/// A list that is longer in some micro-batches than in others, and rows that are.
type Ragged = (Vec<Tensor>, Tensor);

/// The most tensors in a list.
const LEVELS: usize = 3;

/// Gives rows, what only even micro-batches have, and what is ragged.
struct Tear(Linear);

impl Layer<Tensor> for Tear {
    type Out = (Tensor, Option<Tensor>, Ragged);

    fn run(&self, x: Tensor, cx: &Context) -> Self::Out {
        let number = cx.micro_batch();
        let y = x.apply(&self.0).tanh();
        let maybe = number.is_multiple_of(2).then(|| y.sin());
        let levels = (0..number % (LEVELS + 1)).map(|level| level_of(&y, level)).collect();
        let narrow = y.narrow(1, 0, 1 + number as i64 % WIDTH);
        (y, maybe, (levels, narrow))
    }
}

fn level_of(y: &Tensor, level: usize) -> Tensor {
    (y * (level + 1) as f64).cos()
}

/// Goes on with the rows.
struct Rows;

impl Layer<(Tensor, Option<Tensor>, Ragged)> for Rows {
    type Out = Tensor;

    fn run(&self, (x, ..): (Tensor, Option<Tensor>, Ragged), _cx: &Context) -> Tensor {
        x
    }
}

/// Reads all of it. Adds the sum over the rows, and their number.
struct Gather(Linear);

impl Layer<(Tensor, Option<Tensor>, Ragged)> for Gather {
    type Out = (Tensor, Tensor, Tensor);

    fn run(&self, (x, maybe, (levels, narrow)): (Tensor, Option<Tensor>, Ragged), _cx: &Context) -> Self::Out {
        let x = x.apply(&self.0).tanh();
        let x = maybe.map_or_else(|| x.shallow_clone(), |maybe| &x + maybe);
        let x = levels.iter().fold(x, |x, level| x + level * 0.2);
        let x = x * narrow.sum_dim_intlist(1, true, Kind::Float).cos();
        let (columns, count) = (columns(&x), Tensor::from(x.size()[0]));
        (x, columns, count)
    }
}

fn columns(x: &Tensor) -> Tensor {
    x.sum_dim_intlist(0, false, Kind::Float)
}

/// What the model gives: rows, the sums of their columns, and a count.
pub type Output = (Tensor, Sum, Sum);

/// The model, over eight stages. The layer that lends is recomputed, and some of those that read.
#[pipeline(sum(columns: Sum, count: Sum))]
pub struct Uneven {
    #[device("cpu")]
    first: Linear,
    #[recompute]
    #[lend(maybe = output.1, ragged = output.2)]
    tear: Tear,
    rows: Rows,
    #[read(maybe, ragged)]
    #[sum(columns, count)]
    near: Gather,
    #[devices("cpu", "cpu", "cpu", "cpu", "cpu", "cpu")]
    #[recompute(4)]
    #[read(maybe, ragged)]
    #[sum(columns, count)]
    gather: [Gather; 6],
    #[device("cpu")]
    #[read(maybe)]
    merge: MergeSome,
    last: Linear,
}

impl Mirrored for Uneven {
    type Vars = UnevenVars;

    fn make(devices: &Devices) -> (Self, UnevenVars) {
        let vars = Self::vars(devices).expect("the devices are as many as the stages, or fewer");
        let linear = |path| linear(path, WIDTH, WIDTH);
        let model = Self {
            first: linear(vars.first()),
            tear: Tear(linear(vars.tear())),
            rows: Rows,
            near: Gather(linear(vars.near())),
            gather: vars.gather().map(|path| Gather(linear(path))),
            merge: MergeSome,
            last: linear(vars.last()),
        };
        (model, vars)
    }

    /// What a micro-batch does not have is multiplied by 0 in its rows.
    fn plain(vars: &Vars, x: &Tensor, chunks: usize) -> Output {
        let weights = Weights::of(vars);
        let rows = x.size()[0];
        let number = Tensor::arange(rows, (Kind::Int64, Device::Cpu)).unsqueeze(1);
        let number = number.floor_divide_scalar(rows.unsigned_abs().div_ceil(chunks as u64) as i64);
        let y = weights.dense(&weights.dense(x, "first"), "tear").tanh();
        let (maybe, even) = (y.sin(), number.remainder(2).eq(0));
        let has_level = |level: usize| number.remainder(LEVELS as i64 + 1).gt(level as i64);
        let levels = (0..LEVELS).map(|level| level_of(&y, level) * has_level(level));
        let levels = levels.sum::<Tensor>() * 0.2;
        let narrow = &y * Tensor::arange(WIDTH, (Kind::Int64, Device::Cpu)).le_tensor(&number.remainder(WIDTH));
        let scale = narrow.sum_dim_intlist(1, true, Kind::Float).cos();
        let (mut x, mut sum, mut count) = (y, Tensor::from(0_f32), 0);
        for name in ["near".into()].into_iter().chain(weights.array("gather")) {
            x = (weights.dense(&x, &name).tanh() + &maybe * &even + &levels) * &scale;
            (sum, count) = (sum + columns(&x), count + rows);
        }
        let x = &x * maybe.where_self(&even, &Tensor::from(1_f32));
        (weights.dense(&x, "last"), Sum(sum), Sum(Tensor::from(count)))
    }

    fn loss((output, Sum(columns), _): &Output) -> Tensor {
        mean_square(output) + columns.mean(Kind::Float) / output.size()[0]
    }

    fn tensors((output, Sum(columns), Sum(count)): &Output) -> Vec<&Tensor> {
        vec![output, columns, count]
    }
}
