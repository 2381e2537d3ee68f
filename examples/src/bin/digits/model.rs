//! The model: a small residual network over four stages.

use pipe_examples::digits::{CLASSES, SIDE};
use pipe_runtime::nn::{Add, Concat};
use pipe_runtime::pipeline;
use tch::nn::{self, FuncT};

/// Channels of the half of the network at 8x8 pixels.
const FINE: i64 = 24;
/// Channels of the half at 4x4 pixels.
const COARSE: i64 = 48;
/// Groups of the group norms. Group norm treats each image separately, so results do not depend on
/// the split into micro-batches.
const GROUPS: i64 = 6;

/// A network from `[N, 1, 8, 8]` images to `[N, 10]` logits.
///
/// The skips are of three kinds: `local` stays inside a stage, `fine` and `coarse` go to the next
/// stage, and `strokes` goes from the first stage straight to the last one.
#[pipeline(chunks = 8, checkpoint = except_last)]
pub struct Digits {
    #[device("cpu")]
    #[stash(strokes = output)]
    stem: Conv,
    #[stash(local = input)]
    local1: Conv,
    #[pop(local)]
    local_add: Add,
    #[stash(fine = input)]
    fine1: Conv,

    #[device("cpu")]
    fine2: Conv,
    #[pop(fine)]
    fine_add: Add,
    shrink: Conv,
    #[stash(coarse = input)]
    coarse1: Conv,

    #[device("cpu")]
    coarse2: Conv,
    #[pop(coarse)]
    coarse_add: Add,
    deep: Conv,
    grow: FuncT<'static>,

    #[device("cpu")]
    #[pop(strokes)]
    concat: Concat,
    mix: Conv,
    flatten: FuncT<'static>,
    head: nn::Linear,
}

impl Digits {
    /// Creates the layers. The parameters of each are on its stage's device.
    pub fn new(vars: &DigitsVars) -> Self {
        let conv = |path, from, to, stride| Conv::new(&Conv::vars_at(path), from, to, stride);
        Self {
            stem: conv(vars.stem(), 1, FINE, 1),
            local1: conv(vars.local1(), FINE, FINE, 1),
            local_add: Add,
            fine1: conv(vars.fine1(), FINE, FINE, 1),
            fine2: conv(vars.fine2(), FINE, FINE, 1),
            fine_add: Add,
            shrink: conv(vars.shrink(), FINE, COARSE, 2),
            coarse1: conv(vars.coarse1(), COARSE, COARSE, 1),
            coarse2: conv(vars.coarse2(), COARSE, COARSE, 1),
            coarse_add: Add,
            deep: conv(vars.deep(), COARSE, COARSE, 1),
            grow: nn::func_t(|x, _| x.upsample_nearest2d([SIDE, SIDE], None, None)),
            concat: Concat::default(),
            mix: conv(vars.mix(), COARSE + FINE, COARSE, 2),
            flatten: nn::func_t(|x, training| x.flatten(1, -1).dropout(0.3, training)),
            head: nn::linear(vars.head(), COARSE * (SIDE / 2) * (SIDE / 2), CLASSES, Default::default()),
        }
    }
}

/// A block of convolution, group norm, ReLU and dropout, which is one layer of [`Digits`].
#[pipeline]
pub struct Conv {
    conv: nn::Conv2D,
    norm: nn::GroupNorm,
    activate: FuncT<'static>,
}

impl Conv {
    /// Creates a 3x3 convolution from `from` channels to `to`. A `stride` of 2 halves height and
    /// width.
    fn new(vars: &ConvVars, from: i64, to: i64, stride: i64) -> Self {
        let config = nn::ConvConfig { stride, padding: 1, bias: false, ..Default::default() };
        Self {
            conv: nn::conv2d(vars.conv(), from, to, 3, config),
            norm: nn::group_norm(vars.norm(), GROUPS, to, Default::default()),
            activate: nn::func_t(|x, training| x.relu().dropout(0.1, training)),
        }
    }
}
