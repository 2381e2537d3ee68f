//! Equal layers, spread evenly over any number of stages.

use anyhow::Result;
use pipe_runtime::pipeline;
use tch::Tensor;
use tch::nn::{self, Module, ModuleT, VarStore};

use super::{PlainStage, Subject, Task};
use crate::Args;

/// A layer that stacks consist of.
pub trait Unit: ModuleT + Sized + 'static {
    fn new(path: nn::Path<'_>, width: i64) -> Self;
}

/// A linear layer and ReLU.
#[derive(Debug)]
pub struct Dense(nn::Linear);

impl Unit for Dense {
    fn new(path: nn::Path<'_>, width: i64) -> Self {
        Self(nn::linear(path, width, width, Default::default()))
    }
}

impl Module for Dense {
    fn forward(&self, x: &Tensor) -> Tensor {
        x.apply(&self.0).relu()
    }
}

/// A product with a vector, which is almost no work.
#[derive(Debug)]
pub struct Scale(Tensor);

impl Unit for Scale {
    fn new(path: nn::Path<'_>, width: i64) -> Self {
        Self(path.ones("weight", &[width]))
    }
}

impl Module for Scale {
    fn forward(&self, x: &Tensor) -> Tensor {
        x * &self.0
    }
}

macro_rules! stacks {
    ($($name:ident, $vars:ident: $($device:literal)+;)+) => {$(
        #[pipeline(allow(single_stage))]
        pub struct $name<L: ModuleT + 'static> {
            #[devices($($device),+)]
            layers: Vec<L>,
        }

        impl<L: Unit> Subject for $name<L> {
            type Vars = $vars;

            fn make(args: &Args) -> Result<(Self, $vars)> {
                let vars = Self::vars(&args.devices(Self::STAGES)?)?;
                let layers = vars.layers(args.layers).into_iter().map(|path| L::new(path, args.width)).collect();
                Ok((Self { layers }, vars))
            }

            fn plain(args: &Args, store: &VarStore) -> Vec<PlainStage> {
                plain::<L>(args, store)
            }

            fn task(args: &Args) -> Task {
                Task::regression(args.rows, &[args.width], &[args.width])
            }
        }
    )+};
}

stacks! {
    One, OneVars: "cpu";
    Two, TwoVars: "cpu" "cpu";
    Four, FourVars: "cpu" "cpu" "cpu" "cpu";
    Eight, EightVars: "cpu" "cpu" "cpu" "cpu" "cpu" "cpu" "cpu" "cpu";
    Sixteen, SixteenVars: "cpu" "cpu" "cpu" "cpu" "cpu" "cpu" "cpu" "cpu" "cpu" "cpu" "cpu" "cpu" "cpu" "cpu" "cpu" "cpu";
}

fn plain<L: Unit>(args: &Args, store: &VarStore) -> Vec<PlainStage> {
    let layers = store.root() / "layers";
    let stage = |stage| -> PlainStage {
        let share = args.layers / args.stages;
        let units = (stage * share..(stage + 1) * share).map(|number| L::new(&layers / number, args.width));
        let mut stack = nn::seq_t();
        for unit in units {
            stack = stack.add(unit);
        }
        Box::new(move |mut values| {
            let x = stack.forward_t(&values.remove(0), true);
            vec![x]
        })
    };
    (0..args.stages).map(stage).collect()
}
