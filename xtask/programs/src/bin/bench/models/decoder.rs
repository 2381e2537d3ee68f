//! Twelve layers of width 128, each with a masked attention to itself and a GELU network: those of
//! a GPT. Those of a decoder attend to a memory in between, which has a gradient. The mask and the
//! memory are lent to all of them, or each stage makes its own.

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
/// for all rows, of which one vector is learned.
#[derive(Debug)]
struct Fixed<const MEMORIES: usize> {
    mask: Tensor,
    memories: [(Tensor, Tensor); MEMORIES],
}

impl<const MEMORIES: usize> Fixed<MEMORIES> {
    fn new(args: &Args, path: &nn::Path<'_>) -> Self {
        let mask = Tensor::ones([LENGTH, LENGTH], (Kind::Bool, Device::Cpu)).tril(0);
        let memory = || values::uniform("memory", &[args.rows, args.width, WIDTH]);
        Self { mask, memories: array::from_fn(|_| (memory(), path.zeros("offset", &[WIDTH]))) }
    }

    /// The mask, and the memory of these rows.
    fn of(&self, first: i64, rows: i64) -> (Tensor, [Tensor; MEMORIES]) {
        let part = |(memory, offset): &(Tensor, Tensor)| memory.narrow(0, first, rows) + offset;
        (self.mask.shallow_clone(), self.memories.each_ref().map(part))
    }

    /// Those of a micro-batch. The benchmark's are equally large.
    fn of_part(&self, x: &Tensor, cx: &Context) -> (Tensor, [Tensor; MEMORIES]) {
        let rows = x.size()[0];
        self.of(rows * cx.micro_batch() as i64, rows)
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

    fn decode(&self, x: &Tensor, mask: &Tensor, memories: &[Tensor]) -> Tensor {
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

/// What flows through the layers of a stage that has its own: the activations, the mask, and the
/// memory if there is one.
type Inside = (Tensor, Tensor, Vec<Tensor>);

/// Makes a stage's own mask and memory.
#[derive(Debug)]
pub struct Own<const MEMORIES: usize>(Fixed<MEMORIES>);

impl<const MEMORIES: usize> Layer<Tensor> for Own<MEMORIES> {
    type Out = Inside;

    fn run(&self, x: Tensor, cx: &Context) -> Inside {
        let (mask, memories) = self.0.of_part(&x, cx);
        (x, mask, memories.into())
    }
}

/// A layer of such a stage.
#[derive(Debug)]
pub struct Inner<const MEMORIES: usize>(Block<MEMORIES>);

impl<const MEMORIES: usize> Layer<Inside> for Inner<MEMORIES> {
    type Out = Inside;

    fn run(&self, (x, mask, memories): Inside, _: &Context) -> Inside {
        (self.0.decode(&x, &mask, &memories), mask, memories)
    }
}

/// Ends such a stage.
#[derive(Debug)]
pub struct End;

impl Layer<Inside> for End {
    type Out = Tensor;

    fn run(&self, (x, ..): Inside, _: &Context) -> Tensor {
        x
    }
}

/// Gives the mask, and the memory if there is one, beside its input.
#[derive(Debug)]
pub struct Begin<const MEMORIES: usize>(Fixed<MEMORIES>);

impl Layer<Tensor> for Begin<0> {
    type Out = (Tensor, Tensor);

    fn run(&self, x: Tensor, cx: &Context) -> Self::Out {
        let (mask, []) = self.0.of_part(&x, cx);
        (x, mask)
    }
}

impl Layer<Tensor> for Begin<1> {
    type Out = (Tensor, Tensor, Tensor);

    fn run(&self, x: Tensor, cx: &Context) -> Self::Out {
        let (mask, [memory]) = self.0.of_part(&x, cx);
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
/// Each stage has the names of its layers, and of the layers around them that it has in the latter.
macro_rules! model {
    (
        $memories:literal, lend $lend:tt, read $read:tt, $lent:ident, $lent_vars:ident,
        $owned:ident, $owned_vars:ident, $count:literal:
        ($first:ident $first_own:ident $first_end:ident) $(($then:ident $own:ident $end:ident))*
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

        /// Each stage has what its layers read.
        #[pipeline]
        pub struct $owned {
            #[device("cpu")]
            first: Linear,
            $first_own: Own<$memories>,
            #[repeat]
            $first: [Inner<$memories>; $count],
            $first_end: End,
            $(
                #[device("cpu")]
                $own: Own<$memories>,
                #[repeat]
                $then: [Inner<$memories>; $count],
                $end: End,
            )*
            head: Linear,
        }

        impl Subject for $lent {
            type Vars = $lent_vars;

            fn make(args: &Args) -> Result<(Self, $lent_vars)> {
                let vars = Self::vars(&args.devices(Self::STAGES)?)?;
                let reader = |path: nn::Path<'_>| Reader(Block::new(&path));
                let model = Self {
                    begin: Begin(Fixed::new(args, &vars.begin())),
                    first: First(linear(vars.first())),
                    $first: vars.$first().map(reader),
                    $($then: vars.$then().map(reader),)*
                    head: linear(vars.head()),
                };
                Ok((model, vars))
            }

            fn plain(args: &Args, store: &VarStore) -> Vec<PlainStage> {
                let stages = [stringify!($first) $(, stringify!($then))*];
                plain::<$memories>(args, &store.root(), &["begin"], &stages, $count)
            }

            fn task(args: &Args) -> Task {
                task(args)
            }
        }

        impl Subject for $owned {
            type Vars = $owned_vars;

            fn make(args: &Args) -> Result<(Self, $owned_vars)> {
                let vars = Self::vars(&args.devices(Self::STAGES)?)?;
                let own = |path: nn::Path<'_>| Own(Fixed::new(args, &path));
                let inner = |path: nn::Path<'_>| Inner(Block::new(&path));
                let model = Self {
                    first: linear(vars.first()),
                    $first_own: own(vars.$first_own()),
                    $first: vars.$first().map(inner),
                    $first_end: End,
                    $($own: own(vars.$own()), $then: vars.$then().map(inner), $end: End,)*
                    head: linear(vars.head()),
                };
                Ok((model, vars))
            }

            fn plain(args: &Args, store: &VarStore) -> Vec<PlainStage> {
                let owns = [stringify!($first_own) $(, stringify!($own))*];
                let stages = [stringify!($first) $(, stringify!($then))*];
                plain::<$memories>(args, &store.root(), &owns, &stages, $count)
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
macro_rules! in_two {
    ($model:ident, $($names:ident),*) => {
        $model!($($names,)* 6: (early early_own early_end) (late late_own late_end));
    };
}
macro_rules! in_four {
    ($model:ident, $($names:ident),*) => {
        $model!(
            $($names,)* 3:
            (one one_own one_end) (two two_own two_end) (three three_own three_end) (four four_own four_end)
        );
    };
}

in_two!(decoder, LentInTwo, LentInTwoVars, OwnedInTwo, OwnedInTwoVars);
in_four!(decoder, LentInFour, LentInFourVars, OwnedInFour, OwnedInFourVars);
in_two!(gpt, GptLentInTwo, GptLentInTwoVars, GptOwnedInTwo, GptOwnedInTwoVars);
in_four!(gpt, GptLentInFour, GptLentInFourVars, GptOwnedInFour, GptOwnedInFourVars);

fn linear(path: nn::Path<'_>) -> Linear {
    nn::linear(path, WIDTH, WIDTH, Default::default())
}

fn task(args: &Args) -> Task {
    Task::regression(args.rows, &[LENGTH, WIDTH], &[LENGTH, WIDTH])
}

/// Each stage has the name of its layers. `owns` make the mask and the memory: one for each stage,
/// or one for all.
fn plain<const MEMORIES: usize>(
    args: &Args,
    root: &nn::Path<'_>,
    owns: &[&str],
    stages: &[&str],
    count: usize,
) -> Vec<PlainStage> {
    let (first, head) = (linear(root / "first"), linear(root / "head"));
    let fixed: Vec<Fixed<MEMORIES>> = owns.iter().map(|own| Fixed::new(args, &(root / *own))).collect();
    let blocks = |stage: &&str| (0..count).map(|number| Block::new(&(root / *stage / number))).collect();
    let stages: Vec<Vec<Block<MEMORIES>>> = stages.iter().map(blocks).collect();
    let rows = args.rows;
    vec![Box::new(move |values| {
        let read: Vec<_> = fixed.iter().map(|fixed| fixed.of(0, rows)).collect();
        let x = stages.iter().zip(read.iter().cycle()).fold(first.forward(&values[0]), |x, (blocks, read)| {
            blocks.iter().fold(x, |x, block| block.decode(&x, &read.0, &read.1))
        });
        vec![head.forward(&x)]
    })]
}
