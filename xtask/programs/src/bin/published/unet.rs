//! U-Net (B, C) of torchgpipe's benchmarks: five levels, B convolutions on each side of a level, C
//! channels at the top.

use pipe_runtime::nn::{Concat, Identity};
use pipe_runtime::{Devices, pipeline};
use tch::Tensor;
use tch::nn::{self, Conv2D, Func, ModuleT, Path};

#[pipeline(allow(single_stage, short_skip))]
pub struct UNet {
    #[device("cpu")]
    #[repeat]
    encode0: Vec<Unit>,
    #[stash(level0 = output)]
    keep0: Identity,
    shrink0: Func<'static>,
    #[repeat]
    encode1: Vec<Unit>,
    #[stash(level1 = output)]
    keep1: Identity,
    shrink1: Func<'static>,
    #[repeat]
    encode2: Vec<Unit>,
    #[stash(level2 = output)]
    keep2: Identity,
    shrink2: Func<'static>,
    #[repeat]
    encode3: Vec<Unit>,
    #[stash(level3 = output)]
    keep3: Identity,
    shrink3: Func<'static>,
    #[repeat]
    encode4: Vec<Unit>,
    #[stash(level4 = output)]
    keep4: Identity,
    shrink4: Func<'static>,
    #[repeat]
    bottom: Vec<Unit>,
    grow4: Func<'static>,
    #[pop(level4)]
    concat4: Concat,
    #[repeat]
    decode4: Vec<Unit>,
    grow3: Func<'static>,
    #[pop(level3)]
    concat3: Concat,
    #[repeat]
    decode3: Vec<Unit>,
    grow2: Func<'static>,
    #[pop(level2)]
    concat2: Concat,
    #[repeat]
    decode2: Vec<Unit>,
    grow1: Func<'static>,
    #[pop(level1)]
    concat1: Concat,
    #[repeat]
    decode1: Vec<Unit>,
    grow0: Func<'static>,
    #[pop(level0)]
    concat0: Concat,
    #[repeat]
    decode0: Vec<Unit>,
    segment: Conv2D,
}

/// A convolution, dropout of whole channels, instance norm and leaky ReLU.
#[derive(Debug)]
struct Unit(Conv2D);

impl ModuleT for Unit {
    fn forward_t(&self, x: &Tensor, train: bool) -> Tensor {
        let x = x.apply(&self.0).feature_dropout(0.1, train);
        let none = None::<Tensor>;
        let x = x.instance_norm(none.as_ref(), none.as_ref(), none.as_ref(), none.as_ref(), true, 0.1, 1e-5, false);
        // tch's `leaky_relu` has a slope of 0.01.
        x.leaky_relu()
    }
}

fn units(paths: Vec<Path<'_>>, [inputs, inside, outputs]: [i64; 3]) -> Vec<Unit> {
    let config = nn::ConvConfig { padding: 1, bias: false, ..Default::default() };
    let last = paths.len() - 1;
    let unit = |(number, path): (usize, Path<'_>)| {
        let from = if number == 0 { inputs } else { inside };
        let to = if number == last { outputs } else { inside };
        Unit(nn::conv2d(path, from, to, 3, config))
    };
    paths.into_iter().enumerate().map(unit).collect()
}

fn shrink() -> Func<'static> {
    nn::func(|x| x.max_pool2d_default(2))
}

fn grow() -> Func<'static> {
    nn::func(|x| x.upsample_nearest2d_vec(None::<&[i64]>, [2., 2.]))
}

impl UNet {
    /// Makes the model with `convs` convolutions on each side of a level and `channels`, an even
    /// number, at the top.
    pub fn make(convs: usize, channels: i64) -> pipe_runtime::Result<(Self, UNetVars)> {
        let vars = Self::vars(&Devices::cpu(Self::STAGES))?;
        // The channels of a level are twice those of the one above.
        let at = |level: u32| channels << level;
        let down = |level: u32| [if level == 0 { 3 } else { at(level - 1) }, at(level), at(level)];
        let up = |level: u32| [2 * at(level), at(level) / 2, at(level) / 2];
        let config = nn::ConvConfig { bias: false, ..Default::default() };
        let model = Self {
            encode0: units(vars.encode0(convs), down(0)),
            keep0: Identity,
            shrink0: shrink(),
            encode1: units(vars.encode1(convs), down(1)),
            keep1: Identity,
            shrink1: shrink(),
            encode2: units(vars.encode2(convs), down(2)),
            keep2: Identity,
            shrink2: shrink(),
            encode3: units(vars.encode3(convs), down(3)),
            keep3: Identity,
            shrink3: shrink(),
            encode4: units(vars.encode4(convs), down(4)),
            keep4: Identity,
            shrink4: shrink(),
            bottom: units(vars.bottom(convs), [at(4), at(5), at(4)]),
            grow4: grow(),
            concat4: Concat::default(),
            decode4: units(vars.decode4(convs), up(4)),
            grow3: grow(),
            concat3: Concat::default(),
            decode3: units(vars.decode3(convs), up(3)),
            grow2: grow(),
            concat2: Concat::default(),
            decode2: units(vars.decode2(convs), up(2)),
            grow1: grow(),
            concat1: Concat::default(),
            decode1: units(vars.decode1(convs), up(1)),
            grow0: grow(),
            concat0: Concat::default(),
            decode0: units(vars.decode0(convs), up(0)),
            segment: nn::conv2d(vars.segment(), channels / 2, 1, 1, config),
        };
        Ok((model, vars))
    }

    /// How many of torchgpipe's modules each layer is: a unit is four.
    pub fn modules(convs: usize) -> Vec<usize> {
        let units = vec![4; convs];
        let encode = [units.clone(), vec![1, 1]].concat().repeat(5);
        let decode = [vec![1, 1], units.clone()].concat().repeat(5);
        [encode, units, decode, vec![1]].concat()
    }
}
