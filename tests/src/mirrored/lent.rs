//! Models that lend values to layers of their own stage and of others, recomputed or not.

use pipe_runtime::{Context, Devices, Layer, Vars, pipeline};
use tch::nn::{Linear, Path};
use tch::{Device, Kind, Tensor};

use super::{Mirrored, WIDTH, Weights, mean_square};
use crate::layers::linear;

/// Lends its second input, and goes on with the first.
struct First;

impl Layer<(Tensor, Option<Tensor>)> for First {
    type Out = Tensor;

    fn run(&self, (x, _): (Tensor, Option<Tensor>), _cx: &Context) -> Tensor {
        x
    }
}

/// Reads what is lent: a memory and a mask, which may be absent.
struct Decode(Linear);

impl Layer<(Tensor, Tensor, Option<Tensor>)> for Decode {
    type Out = Tensor;

    fn run(&self, (x, memory, mask): (Tensor, Tensor, Option<Tensor>), _cx: &Context) -> Tensor {
        decode(&x, &memory, mask.as_ref(), &self.0.ws, self.0.bs.as_ref().unwrap())
    }
}

fn decode(x: &Tensor, memory: &Tensor, mask: Option<&Tensor>, weight: &Tensor, bias: &Tensor) -> Tensor {
    let x = x.linear(weight, Some(bias)) + memory.tanh() * x;
    mask.map_or_else(|| x.shallow_clone(), |mask| &x * mask)
}

/// Takes a weight beside its input.
struct Tied;

impl Layer<(Tensor, Tensor)> for Tied {
    type Out = Tensor;

    fn run(&self, (x, weight): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x.matmul(&weight)
    }
}

/// Takes the mask and a skip.
struct Join;

impl Layer<(Tensor, Option<Tensor>, Tensor)> for Join {
    type Out = Tensor;

    fn run(&self, (x, mask, skip): (Tensor, Option<Tensor>, Tensor), _cx: &Context) -> Tensor {
        x + mask.unwrap_or_else(|| Tensor::ones([1], (Kind::Float, Device::Cpu))) * skip
    }
}

/// Two layers that read what their model lends.
#[pipeline(read(memory: Tensor, mask: Option<Tensor>))]
struct Block {
    #[read(memory, mask)]
    one: Decode,
    #[read(memory, mask)]
    two: Decode,
}

impl Block {
    fn new(path: Path<'_>) -> Self {
        Self { one: layer(&path / "one"), two: layer(&path / "two") }
    }
}

fn layer(path: Path<'_>) -> Decode {
    Decode(linear(path, WIDTH, WIDTH))
}

/// What the models take: rows, and a mask, which may be absent.
pub type Input = (Tensor, Option<Tensor>);

/// The same model, with or without `#[recompute]` on its layers, and with an array of this length
/// over these devices.
macro_rules! translate {
    ($(#[$doc:meta])* $name:ident, $vars:ident, [$length:tt; $($device:tt),*] $(, #[$again:ident])?) => {
        $(#[$doc])*
        #[pipeline(input = Input)]
        pub struct $name {
            #[device("cpu")]
            #[lend(mask = input.1)]
            first: First,
            #[lend(weight = tied)]
            #[stash(start = input)]
            embed: Linear,
            #[lend(memory = output)]
            encode: Linear,
            $(#[$again])?
            #[read(memory, mask)]
            near: Decode,
            $(#[$again])?
            #[devices($($device),*)]
            #[read(memory, mask)]
            decode: [Decode; $length],
            $(#[$again])?
            #[read(memory, mask)]
            after: Decode,
            $(#[$again])?
            #[read(weight)]
            tied: Tied,
            #[device("cpu")]
            #[read(mask)]
            #[pop(start)]
            join: Join,
            $(#[$again])?
            #[repeat]
            #[read(memory, mask)]
            blocks: Vec<Block>,
            #[read(weight)]
            head: Tied,
        }

        impl Mirrored for $name {
            type Vars = $vars;

            fn make(devices: &Devices) -> (Self, $vars) {
                let vars = Self::vars(devices).expect("the devices are as many as the stages, or fewer");
                let model = Self {
                    first: First,
                    embed: linear(vars.embed(), WIDTH, WIDTH),
                    encode: linear(vars.encode(), WIDTH, WIDTH),
                    near: layer(vars.near()),
                    decode: vars.decode().map(layer),
                    after: layer(vars.after()),
                    tied: Tied,
                    join: Join,
                    blocks: vars.blocks(2).into_iter().map(Block::new).collect(),
                    head: Tied,
                };
                (model, vars)
            }

            fn plain(vars: &Vars, (x, mask): &Input, _chunks: usize) -> Tensor {
                plain(vars, x, mask.as_ref())
            }

            fn loss(output: &Tensor) -> Tensor {
                mean_square(output)
            }

            fn tensors(output: &Tensor) -> Vec<&Tensor> {
                vec![output]
            }
        }
    };
}

translate!(
    /// The model over four stages, without recomputed layers.
    Kept,
    KeptVars,
    [5; "cpu", "cpu"]
);
translate!(
    /// The model over four stages, in which readers are recomputed.
    Again,
    AgainVars,
    [5; "cpu", "cpu"],
    #[recompute]
);
translate!(
    /// The model over eight stages, without recomputed layers.
    LongKept,
    LongKeptVars,
    [6; "cpu", "cpu", "cpu", "cpu", "cpu", "cpu"]
);
translate!(
    /// The model over eight stages, in which readers are recomputed.
    LongAgain,
    LongAgainVars,
    [6; "cpu", "cpu", "cpu", "cpu", "cpu", "cpu"],
    #[recompute]
);

/// The model in plain tch.
pub fn plain(vars: &Vars, x: &Tensor, mask: Option<&Tensor>) -> Tensor {
    let weights = Weights::of(vars);
    let [embed, _] = weights.linear("embed");
    let start = x;
    let memory = weights.dense(&weights.dense(x, "embed"), "encode");
    let read = |x: &Tensor, name: &str| {
        let [weight, bias] = weights.linear(name);
        decode(x, &memory, mask, weight, bias)
    };
    let mut x = read(&memory, "near");
    for name in weights.array("decode") {
        x = read(&x, &name);
    }
    x = read(&x, "after").matmul(embed);
    x = &x + mask.map_or_else(|| start.shallow_clone(), |mask| mask * start);
    for name in ["blocks.0.one", "blocks.0.two", "blocks.1.one", "blocks.1.two"] {
        x = read(&x, name);
    }
    x.matmul(embed)
}
