//! U-Net(3, 2, 8): three levels, two convolutions each, eight channels at the top; 69 layers, if
//! each operator counts as one.

use anyhow::Result;
use pipe_runtime::nn::Concat;
use pipe_runtime::pipeline;
use tch::Tensor;
use tch::nn::{self, Conv2D, Func, Module, ModuleT, VarStore};

use super::{PlainStage, Subject, Task};
use crate::Args;

/// A cell of two units: convolution, dropout (off: masks differ between any two libraries),
/// instance norm, leaky ReLU.
#[derive(Debug)]
pub struct Cell([Conv2D; 2]);

impl Cell {
    fn new(path: nn::Path<'_>, inputs: i64, outputs: i64) -> Self {
        let config = nn::ConvConfig { padding: 1, bias: false, ..Default::default() };
        Self([nn::conv2d(&path / 0, inputs, outputs, 3, config), nn::conv2d(&path / 1, outputs, outputs, 3, config)])
    }

    /// The cell at the bottom, where the number of channels is doubled and halved again.
    fn bottom(path: nn::Path<'_>, inputs: i64) -> Self {
        let config = nn::ConvConfig { padding: 1, bias: false, ..Default::default() };
        let middle = 2 * inputs;
        Self([nn::conv2d(&path / 0, inputs, middle, 3, config), nn::conv2d(&path / 1, middle, inputs, 3, config)])
    }
}

impl ModuleT for Cell {
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        let unit = |x: &Tensor, conv: &Conv2D| {
            let x = x.apply(conv).feature_dropout(0., train);
            let none = None::<Tensor>;
            let x = x.instance_norm(none.as_ref(), none.as_ref(), none.as_ref(), none.as_ref(), true, 0.1, 1e-5, false);
            // tch's `leaky_relu` has a slope of 0.01.
            x.leaky_relu()
        };
        let [first, second] = &self.0;
        unit(&unit(x, first), second)
    }
}

fn shrink(x: &Tensor) -> Tensor {
    x.max_pool2d_default(2)
}

fn grow(x: &Tensor) -> Tensor {
    x.upsample_nearest2d_vec(None::<&[i64]>, [2., 2.])
}

fn segment(path: nn::Path<'_>) -> Conv2D {
    nn::conv2d(path, 4, 1, 1, nn::ConvConfig { bias: false, ..Default::default() })
}

macro_rules! unet {
    (
        $(#[$doc:meta])* $name:ident, $vars:ident, [$($setting:tt)*], $(#[device($open:literal)])?
        [$($first:meta)?], [$($second:meta)?], [$($rest:meta)?], $(#[device($cut:literal)])?
    ) => {
        $(#[$doc])*
        #[pipeline(allow(single_stage, short_skip), $($setting)*)]
        pub struct $name {
            $(#[device($open)])?
            $(#[$first])?
            #[stash(level0 = output)]
            encode0: Cell,
            shrink0: Func<'static>,
            $(#[$second])?
            #[stash(level1 = output)]
            encode1: Cell,
            shrink1: Func<'static>,
            $(#[device($cut)])?
            $(#[$rest])?
            #[stash(level2 = output)]
            encode2: Cell,
            shrink2: Func<'static>,
            $(#[$rest])?
            bottom: Cell,
            grow2: Func<'static>,
            #[pop(level2)]
            concat2: Concat,
            $(#[$rest])?
            decode2: Cell,
            grow1: Func<'static>,
            #[pop(level1)]
            concat1: Concat,
            $(#[$rest])?
            decode1: Cell,
            grow0: Func<'static>,
            #[pop(level0)]
            concat0: Concat,
            $(#[$rest])?
            decode0: Cell,
            segment: Conv2D,
        }

        impl Subject for $name {
            type Vars = $vars;

            fn make(args: &Args) -> Result<(Self, $vars)> {
                let vars = Self::vars(&args.devices(Self::STAGES)?)?;
                let model = Self {
                    encode0: Cell::new(vars.encode0(), 3, 8),
                    shrink0: nn::func(shrink),
                    encode1: Cell::new(vars.encode1(), 8, 16),
                    shrink1: nn::func(shrink),
                    encode2: Cell::new(vars.encode2(), 16, 32),
                    shrink2: nn::func(shrink),
                    bottom: Cell::bottom(vars.bottom(), 32),
                    grow2: nn::func(grow),
                    concat2: Concat::default(),
                    decode2: Cell::new(vars.decode2(), 64, 16),
                    grow1: nn::func(grow),
                    concat1: Concat::default(),
                    decode1: Cell::new(vars.decode1(), 32, 8),
                    grow0: nn::func(grow),
                    concat0: Concat::default(),
                    decode0: Cell::new(vars.decode0(), 16, 4),
                    segment: segment(vars.segment()),
                };
                Ok((model, vars))
            }

            fn plain(_args: &Args, store: &VarStore) -> Vec<PlainStage> {
                plain(&store.root())
            }

            fn task(args: &Args) -> Task {
                Task::regression(args.rows, &[3, args.width, args.width], &[1, args.width, args.width])
            }
        }
    };
}

unet! {
    /// Two stages that take about equally long.
    UNet, UNetVars, [], #[device("cpu")] [], [], [], #[device("cpu")]
}
unet! {
    /// The same, with the first cell recomputed.
    UNet1, UNet1Vars, [], #[device("cpu")] [recompute], [], [], #[device("cpu")]
}
unet! {
    /// The same, with the first two cells recomputed.
    UNet2, UNet2Vars, [], #[device("cpu")] [recompute], [recompute], [], #[device("cpu")]
}
unet! {
    /// The same, with all cells recomputed.
    UNet3, UNet3Vars, [], #[device("cpu")] [recompute], [recompute], [recompute], #[device("cpu")]
}
unet! {
    /// The same layers, cut as `advise` has chosen.
    UNetAdvised, UNetAdvisedVars, [balance = "balance/unet.toml"], [], [], [],
}
unet! {
    /// The same layers in four stages.
    UNetInFour, UNetInFourVars, [balance = "balance/unet-four-stages.toml"], [], [], [],
}
unet! {
    /// Two stages, with less in the first one.
    UNetCutEarly, UNetCutEarlyVars, [balance = "balance/unet-early-cut.toml"], [], [], [],
}
unet! {
    /// Two stages, with more in the first one.
    UNetCutLate, UNetCutLateVars, [balance = "balance/unet-late-cut.toml"], [], [], [],
}
unet! {
    /// The same layers in one stage.
    UNetInOne, UNetInOneVars, [], #[device("cpu")] [], [], [],
}

/// The cut is the same as above.
fn plain(root: &nn::Path<'_>) -> Vec<PlainStage> {
    let [encode0, encode1] = [Cell::new(root / "encode0", 3, 8), Cell::new(root / "encode1", 8, 16)];
    let first = move |mut values: Vec<Tensor>| {
        let level0 = encode0.forward_t(&values.remove(0), true);
        let level1 = encode1.forward_t(&shrink(&level0), true);
        vec![shrink(&level1), level0, level1]
    };
    let encode2 = Cell::new(root / "encode2", 16, 32);
    let bottom = Cell::bottom(root / "bottom", 32);
    let decode2 = Cell::new(root / "decode2", 64, 16);
    let decode1 = Cell::new(root / "decode1", 32, 8);
    let decode0 = Cell::new(root / "decode0", 16, 4);
    let segment = segment(root / "segment");
    let second = move |values: Vec<Tensor>| {
        let [x, level0, level1] = &values[..] else { panic!("the first stage gives three tensors") };
        let up = |x: &Tensor, skip: &Tensor, cell: &Cell| cell.forward_t(&Tensor::cat(&[&grow(x), skip], 1), true);
        let level2 = encode2.forward_t(x, true);
        let x = bottom.forward_t(&shrink(&level2), true);
        let x = up(&up(&up(&x, &level2, &decode2), level1, &decode1), level0, &decode0);
        vec![segment.forward(&x)]
    };
    vec![Box::new(first), Box::new(second)]
}
