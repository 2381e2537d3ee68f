//! Twelve decoder layers of width 128, each with a masked attention to itself, an attention to a
//! memory, and a GELU network. The mask and the memory are lent to all of them, or each layer has
//! both itself.

use anyhow::Result;
use pipe_runtime::{Context, Layer, pipeline};
use tch::nn::{self, LayerNorm, Linear, Module, VarStore};
use tch::{Device, Kind, Tensor};

use super::{PlainStage, Subject, Task};
use crate::{Args, values};

const WIDTH: i64 = 128;
const HEADS: i64 = 4;
/// Positions of the input, and of the memory.
const LENGTH: i64 = 64;

/// What does not depend on the input: a mask of the later positions, and a memory for all rows.
#[derive(Debug)]
struct Fixed {
    mask: Tensor,
    memory: Tensor,
}

impl Fixed {
    fn new(args: &Args) -> Self {
        let mask = Tensor::ones([LENGTH, LENGTH], (Kind::Bool, Device::Cpu)).tril(0);
        Self { mask, memory: values::uniform("memory", &[args.rows, LENGTH, WIDTH]) }
    }

    fn share(&self) -> Self {
        Self { mask: self.mask.shallow_clone(), memory: self.memory.shallow_clone() }
    }

    /// The mask, and the memory of the rows of a micro-batch. The benchmark's are equally large.
    fn of(&self, x: &Tensor, cx: &Context) -> (Tensor, Tensor) {
        let rows = x.size()[0];
        (self.mask.shallow_clone(), self.memory.narrow(0, rows * cx.micro_batch() as i64, rows))
    }
}

#[derive(Debug)]
pub struct Decoder {
    norms: [LayerNorm; 3],
    own: [Linear; 4],
    cross: [Linear; 4],
    widen: Linear,
    narrow: Linear,
}

impl Decoder {
    fn new(path: &nn::Path<'_>) -> Self {
        let linear = |name: &str, from, to| nn::linear(path / name, from * WIDTH, to * WIDTH, Default::default());
        Self {
            norms: ["norm1", "norm2", "norm3"].map(|name| nn::layer_norm(path / name, vec![WIDTH], Default::default())),
            own: ["own_q", "own_k", "own_v", "own_out"].map(|name| linear(name, 1, 1)),
            cross: ["cross_q", "cross_k", "cross_v", "cross_out"].map(|name| linear(name, 1, 1)),
            widen: linear("widen", 1, 4),
            narrow: linear("narrow", 4, 1),
        }
    }

    fn decode(&self, x: &Tensor, mask: &Tensor, memory: &Tensor) -> Tensor {
        let own = x.apply(&self.norms[0]);
        let x = x + attend(&self.own, &own, &own, Some(mask));
        let x = &x + attend(&self.cross, &x.apply(&self.norms[1]), memory, None);
        let widened = x.apply(&self.norms[2]).apply(&self.widen).gelu("none");
        x + widened.apply(&self.narrow)
    }
}

fn attend([q, k, v, out]: &[Linear; 4], x: &Tensor, other: &Tensor, mask: Option<&Tensor>) -> Tensor {
    let heads = |x: Tensor| x.unflatten(-1, [HEADS, WIDTH / HEADS]).transpose(1, 2);
    let [q, k, v] = [x.apply(q), other.apply(k), other.apply(v)].map(heads);
    let found = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0., false, None, false);
    found.transpose(1, 2).flatten(2, 3).apply(out)
}

/// A layer that reads the mask and the memory.
#[derive(Debug)]
pub struct Reader(Decoder);

impl Layer<(Tensor, Tensor, Tensor)> for Reader {
    type Out = Tensor;

    fn run(&self, (x, mask, memory): (Tensor, Tensor, Tensor), _: &Context) -> Tensor {
        self.0.decode(&x, &mask, &memory)
    }
}

/// A layer that has them.
#[derive(Debug)]
pub struct Owner(Decoder, Fixed);

impl Layer<Tensor> for Owner {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        let (mask, memory) = self.1.of(&x, cx);
        self.0.decode(&x, &mask, &memory)
    }
}

/// Gives the mask and the memory beside its input.
#[derive(Debug)]
pub struct Begin(Fixed);

impl Layer<Tensor> for Begin {
    type Out = (Tensor, Tensor, Tensor);

    fn run(&self, x: Tensor, cx: &Context) -> Self::Out {
        let (mask, memory) = self.0.of(&x, cx);
        (x, mask, memory)
    }
}

/// The first layer, which goes on with the first of three values.
#[derive(Debug)]
pub struct First(Linear);

impl Layer<(Tensor, Tensor, Tensor)> for First {
    type Out = Tensor;

    fn run(&self, (x, ..): (Tensor, Tensor, Tensor), _: &Context) -> Tensor {
        x.apply(&self.0)
    }
}

/// Defines the model with equal stages, once with what it lends and once without.
macro_rules! decoder {
    ($lent:ident, $lent_vars:ident, $owned:ident, $owned_vars:ident, $count:literal: $first:ident $($then:ident)*) => {
        /// The mask and the memory are lent.
        #[pipeline]
        pub struct $lent {
            #[device("cpu")]
            #[lend(mask = output.1, memory = output.2)]
            begin: Begin,
            first: First,
            #[repeat]
            #[read(mask, memory)]
            $first: [Reader; $count],
            $(
                #[device("cpu")]
                #[repeat]
                #[read(mask, memory)]
                $then: [Reader; $count],
            )*
            head: Linear,
        }

        /// Each layer has the mask and the memory.
        #[pipeline]
        pub struct $owned {
            #[device("cpu")]
            first: Linear,
            #[repeat]
            $first: [Owner; $count],
            $(
                #[device("cpu")]
                #[repeat]
                $then: [Owner; $count],
            )*
            head: Linear,
        }

        impl Subject for $lent {
            type Vars = $lent_vars;

            fn make(args: &Args) -> Result<(Self, $lent_vars)> {
                let vars = Self::vars(&args.devices(Self::STAGES)?)?;
                let reader = |path: nn::Path<'_>| Reader(Decoder::new(&path));
                let model = Self {
                    begin: Begin(Fixed::new(args)),
                    first: First(linear(vars.first())),
                    $first: vars.$first().map(reader),
                    $($then: vars.$then().map(reader),)*
                    head: linear(vars.head()),
                };
                Ok((model, vars))
            }

            fn plain(args: &Args, store: &VarStore) -> Vec<PlainStage> {
                plain(args, &store.root(), &[stringify!($first) $(, stringify!($then))*], $count)
            }

            fn task(args: &Args) -> Task {
                task(args)
            }
        }

        impl Subject for $owned {
            type Vars = $owned_vars;

            fn make(args: &Args) -> Result<(Self, $owned_vars)> {
                let vars = Self::vars(&args.devices(Self::STAGES)?)?;
                let fixed = Fixed::new(args);
                let owner = |path: nn::Path<'_>| Owner(Decoder::new(&path), fixed.share());
                let model = Self {
                    first: linear(vars.first()),
                    $first: vars.$first().map(owner),
                    $($then: vars.$then().map(owner),)*
                    head: linear(vars.head()),
                };
                Ok((model, vars))
            }

            fn plain(args: &Args, store: &VarStore) -> Vec<PlainStage> {
                // They have the same layers.
                $lent::plain(args, store)
            }

            fn task(args: &Args) -> Task {
                task(args)
            }
        }
    };
}

decoder!(LentInTwo, LentInTwoVars, OwnedInTwo, OwnedInTwoVars, 6: early late);
decoder!(LentInFour, LentInFourVars, OwnedInFour, OwnedInFourVars, 3: one two three four);

fn linear(path: nn::Path<'_>) -> Linear {
    nn::linear(path, WIDTH, WIDTH, Default::default())
}

fn task(args: &Args) -> Task {
    Task::regression(args.rows, &[LENGTH, WIDTH], &[LENGTH, WIDTH])
}

fn plain(args: &Args, root: &nn::Path<'_>, stages: &[&str], count: usize) -> Vec<PlainStage> {
    let Fixed { mask, memory } = Fixed::new(args);
    let (first, head) = (linear(root / "first"), linear(root / "head"));
    let layer = |stage: &&str, number: usize| Decoder::new(&(root / *stage / number));
    let layers: Vec<Decoder> =
        stages.iter().flat_map(|stage| (0..count).map(move |number| layer(stage, number))).collect();
    vec![Box::new(move |values| {
        let x = layers.iter().fold(first.forward(&values[0]), |x, layer| layer.decode(&x, &mask, &memory));
        vec![head.forward(&x)]
    })]
}
