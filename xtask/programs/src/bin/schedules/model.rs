//! One model, cut into four stages and into two.

use pipe_runtime::pipeline;
use tch::Tensor;
use tch::nn::{self, Linear};

/// Number of values per row.
pub const WIDTH: i64 = 256;
const LAYERS: usize = 8;

/// A linear map to four times as many values, a nonlinearity, and a linear map back.
#[pipeline]
pub struct Block {
    widen: Linear,
    activate: nn::Func<'static>,
    narrow: Linear,
}

impl Block {
    fn new(vars: &BlockVars<'_>) -> Self {
        Self {
            widen: nn::linear(vars.widen(), WIDTH, 4 * WIDTH, Default::default()),
            activate: nn::func(Tensor::relu),
            narrow: nn::linear(vars.narrow(), 4 * WIDTH, WIDTH, Default::default()),
        }
    }
}

#[pipeline(checkpoint = never)]
pub struct Four {
    #[devices("cpu", "cpu", "cpu", "cpu")]
    blocks: [Block; LAYERS],
}

impl Four {
    pub fn new(vars: &FourVars) -> Self {
        Self { blocks: vars.blocks().map(|path| Block::new(&Block::vars_at(path))) }
    }
}

#[pipeline(checkpoint = never)]
pub struct Two {
    #[devices("cpu", "cpu")]
    blocks: [Block; LAYERS],
}

impl Two {
    pub fn new(vars: &TwoVars) -> Self {
        Self { blocks: vars.blocks().map(|path| Block::new(&Block::vars_at(path))) }
    }
}
