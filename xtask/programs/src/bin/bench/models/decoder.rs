//! Twelve layers of width 128, each with a masked attention to itself and a GELU network: those of
//! a GPT. Those of a decoder attend to a memory in between. The mask and the memory are lent to all
//! of them, or each layer has them itself.

use std::array;

use anyhow::Result;
use pipe_runtime::{Context, Layer, pipeline};
use tch::nn::{self, LayerNorm, Linear, Module, VarStore};
use tch::{Device, Kind, Tensor};

use super::{PlainStage, Subject, Task};
use crate::{Args, values};

const WIDTH: i64 = 128;
const HEADS: i64 = 4;
/// Positions of the input. The memory has `--width`.
const LENGTH: i64 = 64;

/// What does not depend on the input: a mask of the later positions, and for a decoder, a memory
/// for all rows.
#[derive(Debug)]
struct Fixed<const MEMORIES: usize> {
    mask: Tensor,
    memories: [Tensor; MEMORIES],
}

impl<const MEMORIES: usize> Fixed<MEMORIES> {
    fn new(args: &Args) -> Self {
        let mask = Tensor::ones([LENGTH, LENGTH], (Kind::Bool, Device::Cpu)).tril(0);
        let memories = array::from_fn(|_| values::uniform("memory", &[args.rows, args.width, WIDTH]));
        Self { mask, memories }
    }

    fn share(&self) -> Self {
        Self { mask: self.mask.shallow_clone(), memories: self.memories.each_ref().map(Tensor::shallow_clone) }
    }

    /// The mask, and the memory of the rows of a micro-batch. The benchmark's are equally large.
    fn of(&self, x: &Tensor, cx: &Context) -> (Tensor, [Tensor; MEMORIES]) {
        let rows = x.size()[0];
        let part = |memory: &Tensor| memory.narrow(0, rows * cx.micro_batch() as i64, rows);
        (self.mask.shallow_clone(), self.memories.each_ref().map(part))
    }
}

/// A layer of a GPT, without a memory, or of a decoder, with one.
#[derive(Debug)]
pub struct Block<const MEMORIES: usize> {
    own: (LayerNorm, [Linear; 4]),
    cross: [(LayerNorm, [Linear; 4]); MEMORIES],
    norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
}

impl<const MEMORIES: usize> Block<MEMORIES> {
    fn new(path: &nn::Path<'_>) -> Self {
        let norm = |name: &str| nn::layer_norm(path / name, vec![WIDTH], Default::default());
        let linear = |name: &str, from, to| nn::linear(path / name, from * WIDTH, to * WIDTH, Default::default());
        Self {
            own: (norm("norm1"), ["own_q", "own_k", "own_v", "own_out"].map(|name| linear(name, 1, 1))),
            cross: array::from_fn(|_| {
                (norm("norm2"), ["cross_q", "cross_k", "cross_v", "cross_out"].map(|name| linear(name, 1, 1)))
            }),
            norm: norm("norm3"),
            widen: linear("widen", 1, 4),
            narrow: linear("narrow", 4, 1),
        }
    }

    fn decode(&self, x: &Tensor, mask: &Tensor, memories: &[Tensor; MEMORIES]) -> Tensor {
        let (norm, weights) = &self.own;
        let own = x.apply(norm);
        let mut x = x + attend(weights, &own, &own, Some(mask));
        for ((norm, weights), memory) in self.cross.iter().zip(memories) {
            x = &x + attend(weights, &x.apply(norm), memory, None);
        }
        let widened = x.apply(&self.norm).apply(&self.widen).gelu("none");
        x + widened.apply(&self.narrow)
    }
}

fn attend([q, k, v, out]: &[Linear; 4], x: &Tensor, other: &Tensor, mask: Option<&Tensor>) -> Tensor {
    let heads = |x: Tensor| x.unflatten(-1, [HEADS, WIDTH / HEADS]).transpose(1, 2);
    let [q, k, v] = [x.apply(q), other.apply(k), other.apply(v)].map(heads);
    let found = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0., false, None, false);
    found.transpose(1, 2).flatten(2, 3).apply(out)
}

/// A layer that reads the mask, and the memory if there is one.
#[derive(Debug)]
pub struct Reader<const MEMORIES: usize>(Block<MEMORIES>);

impl Layer<(Tensor, Tensor)> for Reader<0> {
    type Out = Tensor;

    fn run(&self, (x, mask): (Tensor, Tensor), _: &Context) -> Tensor {
        self.0.decode(&x, &mask, &[])
    }
}

impl Layer<(Tensor, Tensor, Tensor)> for Reader<1> {
    type Out = Tensor;

    fn run(&self, (x, mask, memory): (Tensor, Tensor, Tensor), _: &Context) -> Tensor {
        self.0.decode(&x, &mask, &[memory])
    }
}

/// A layer that has them.
#[derive(Debug)]
pub struct Owner<const MEMORIES: usize>(Block<MEMORIES>, Fixed<MEMORIES>);

impl<const MEMORIES: usize> Layer<Tensor> for Owner<MEMORIES> {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        let (mask, memories) = self.1.of(&x, cx);
        self.0.decode(&x, &mask, &memories)
    }
}

/// Gives the mask, and the memory if there is one, beside its input.
#[derive(Debug)]
pub struct Begin<const MEMORIES: usize>(Fixed<MEMORIES>);

impl Layer<Tensor> for Begin<0> {
    type Out = (Tensor, Tensor);

    fn run(&self, x: Tensor, cx: &Context) -> Self::Out {
        let (mask, []) = self.0.of(&x, cx);
        (x, mask)
    }
}

impl Layer<Tensor> for Begin<1> {
    type Out = (Tensor, Tensor, Tensor);

    fn run(&self, x: Tensor, cx: &Context) -> Self::Out {
        let (mask, [memory]) = self.0.of(&x, cx);
        (x, mask, memory)
    }
}

/// The first layer, which goes on with the first of its values.
#[derive(Debug)]
pub struct First(Linear);

impl Layer<(Tensor, Tensor)> for First {
    type Out = Tensor;

    fn run(&self, (x, _): (Tensor, Tensor), _: &Context) -> Tensor {
        x.apply(&self.0)
    }
}

impl Layer<(Tensor, Tensor, Tensor)> for First {
    type Out = Tensor;

    fn run(&self, (x, ..): (Tensor, Tensor, Tensor), _: &Context) -> Tensor {
        x.apply(&self.0)
    }
}

/// Defines a model of so many memories with equal stages, once with what it lends and once without.
macro_rules! model {
    (
        $memories:literal, lend $lend:tt, read $read:tt, $lent:ident, $lent_vars:ident,
        $owned:ident, $owned_vars:ident, $count:literal: $first:ident $($then:ident)*
    ) => {
        /// What the layers read is lent.
        #[pipeline]
        pub struct $lent {
            #[device("cpu")]
            #[lend $lend]
            begin: Begin<$memories>,
            first: First,
            #[repeat]
            #[read $read]
            $first: [Reader<$memories>; $count],
            $(
                #[device("cpu")]
                #[repeat]
                #[read $read]
                $then: [Reader<$memories>; $count],
            )*
            head: Linear,
        }

        /// Each layer has what it reads.
        #[pipeline]
        pub struct $owned {
            #[device("cpu")]
            first: Linear,
            #[repeat]
            $first: [Owner<$memories>; $count],
            $(
                #[device("cpu")]
                #[repeat]
                $then: [Owner<$memories>; $count],
            )*
            head: Linear,
        }

        impl Subject for $lent {
            type Vars = $lent_vars;

            fn make(args: &Args) -> Result<(Self, $lent_vars)> {
                let vars = Self::vars(&args.devices(Self::STAGES)?)?;
                let reader = |path: nn::Path<'_>| Reader(Block::new(&path));
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
                plain::<$memories>(args, &store.root(), &[stringify!($first) $(, stringify!($then))*], $count)
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
                let owner = |path: nn::Path<'_>| Owner(Block::new(&path), fixed.share());
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

macro_rules! decoder {
    ($($rest:tt)*) => {
        model!(1, lend (mask = output.1, memory = output.2), read (mask, memory), $($rest)*);
    };
}
macro_rules! gpt {
    ($($rest:tt)*) => {
        model!(0, lend (mask = output.1), read (mask), $($rest)*);
    };
}

decoder!(LentInTwo, LentInTwoVars, OwnedInTwo, OwnedInTwoVars, 6: early late);
decoder!(LentInFour, LentInFourVars, OwnedInFour, OwnedInFourVars, 3: one two three four);
gpt!(GptLentInTwo, GptLentInTwoVars, GptOwnedInTwo, GptOwnedInTwoVars, 6: early late);
gpt!(GptLentInFour, GptLentInFourVars, GptOwnedInFour, GptOwnedInFourVars, 3: one two three four);

fn linear(path: nn::Path<'_>) -> Linear {
    nn::linear(path, WIDTH, WIDTH, Default::default())
}

fn task(args: &Args) -> Task {
    Task::regression(args.rows, &[LENGTH, WIDTH], &[LENGTH, WIDTH])
}

fn plain<const MEMORIES: usize>(args: &Args, root: &nn::Path<'_>, stages: &[&str], count: usize) -> Vec<PlainStage> {
    let Fixed::<MEMORIES> { mask, memories } = Fixed::new(args);
    let (first, head) = (linear(root / "first"), linear(root / "head"));
    let layer = |stage: &&str, number: usize| Block::new(&(root / *stage / number));
    let layers: Vec<Block<MEMORIES>> =
        stages.iter().flat_map(|stage| (0..count).map(move |number| layer(stage, number))).collect();
    vec![Box::new(move |values| {
        let x = layers.iter().fold(first.forward(&values[0]), |x, layer| layer.decode(&x, &mask, &memories));
        vec![head.forward(&x)]
    })]
}
