//! A character-level GPT: width 128, 4 heads, 8 pre-norm blocks, context 128, no dropout (masks
//! differ between any two libraries).

use anyhow::Result;
use pipe_runtime::pipeline;
use tch::nn::{self, Embedding, LayerNorm, Linear, Module, VarStore};
use tch::{Kind, Tensor};

use super::{PlainStage, Subject, Task};
use crate::{Args, values};

const WIDTH: i64 = 128;
const HEADS: i64 = 4;
const BLOCKS: usize = 8;
const CONTEXT: i64 = 128;
const CHARACTERS: i64 = 64;

/// Maps tokens `[N, T]` and their positions to `[N, T, WIDTH]`.
#[derive(Debug)]
pub struct Embed {
    token: Embedding,
    position: Tensor,
}

impl Embed {
    fn new(path: nn::Path<'_>) -> Self {
        Self {
            token: nn::embedding(&path / "token", CHARACTERS, WIDTH, Default::default()),
            position: path.randn("position", &[CONTEXT, WIDTH], 0., 1.),
        }
    }
}

impl Module for Embed {
    fn forward(&self, tokens: &Tensor) -> Tensor {
        tokens.apply(&self.token) + &self.position
    }
}

/// Causal attention and a GELU network of four times the width, each inside a residual connection.
#[derive(Debug)]
pub struct Block {
    norm1: LayerNorm,
    attend: Linear,
    project: Linear,
    norm2: LayerNorm,
    widen: Linear,
    narrow: Linear,
}

impl Block {
    fn new(path: nn::Path<'_>) -> Self {
        let linear = |name, from, to| nn::linear(&path / name, from * WIDTH, to * WIDTH, Default::default());
        Self {
            norm1: norm(&path / "norm1"),
            attend: linear("attend", 1, 3),
            project: linear("project", 1, 1),
            norm2: norm(&path / "norm2"),
            widen: linear("widen", 1, 4),
            narrow: linear("narrow", 4, 1),
        }
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor) -> Tensor {
        let heads = x.apply(&self.norm1).apply(&self.attend).chunk(3, -1);
        let split = |x: &Tensor| x.unflatten(-1, [HEADS, WIDTH / HEADS]).transpose(1, 2);
        let [q, k, v] = [0, 1, 2].map(|part| split(&heads[part]));
        let attended = Tensor::scaled_dot_product_attention(&q, &k, &v, None::<Tensor>, 0., true, None, false);
        let x = x + attended.transpose(1, 2).flatten(2, 3).apply(&self.project);
        let widened = x.apply(&self.norm2).apply(&self.widen).gelu("none");
        x + widened.apply(&self.narrow)
    }
}

fn norm(path: nn::Path<'_>) -> LayerNorm {
    nn::layer_norm(path, vec![WIDTH], Default::default())
}

fn head(path: nn::Path<'_>) -> Linear {
    nn::linear(path, WIDTH, CHARACTERS, Default::default())
}

macro_rules! gpt {
    ($(#[$doc:meta])* $name:ident, $vars:ident $(, recompute = $count:literal)? $(, $then:literal)*) => {
        gpt! { $(#[$doc])* $name, $vars, [], on "cpu" $(, recompute = $count)? $(, $then)* }
    };
    (
        $(#[$doc:meta])* $name:ident, $vars:ident, [$($setting:tt)*]
        $(, on $first:literal)? $(, recompute = $count:literal)? $(, $then:literal)*
    ) => {
        $(#[$doc])*
        #[pipeline(allow(single_stage), $($setting)*)]
        pub struct $name {
            $(#[device($first)])?
            embed: Embed,
            #[repeat]
            $(#[recompute($count)])?
            early: [Block; BLOCKS / 2],
            $(#[device($then)])*
            #[repeat]
            $(#[recompute($count)])?
            late: [Block; BLOCKS / 2],
            norm: LayerNorm,
            head: Linear,
        }

        impl Subject for $name {
            type Vars = $vars;

            fn make(args: &Args) -> Result<(Self, $vars)> {
                let vars = Self::vars(&args.devices(Self::STAGES)?)?;
                let model = Self {
                    embed: Embed::new(vars.embed()),
                    early: vars.early().map(Block::new),
                    late: vars.late().map(Block::new),
                    norm: norm(vars.norm()),
                    head: head(vars.head()),
                };
                Ok((model, vars))
            }

            fn plain(_args: &Args, store: &VarStore) -> Vec<PlainStage> {
                plain(&store.root())
            }

            fn task(args: &Args) -> Task {
                task(args)
            }
        }
    };
}

gpt! {
    /// Two stages, with four blocks in each.
    Gpt, GptVars, "cpu"
}
gpt! {
    /// The same, with one block of each stage recomputed.
    Gpt1, Gpt1Vars, recompute = 1, "cpu"
}
gpt! {
    /// The same, with two blocks of each stage recomputed.
    Gpt2, Gpt2Vars, recompute = 2, "cpu"
}
gpt! {
    /// The same, with three blocks of each stage recomputed.
    Gpt3, Gpt3Vars, recompute = 3, "cpu"
}
gpt! {
    /// The same, with all blocks recomputed.
    Gpt4, Gpt4Vars, recompute = 4, "cpu"
}
gpt! {
    /// The same layers, cut as `advise` has chosen.
    GptAdvised, GptAdvisedVars, [balance = "balance/gpt.toml"]
}
gpt! {
    /// The same layers in four stages.
    GptInFour, GptInFourVars, [balance = "balance/gpt-four-stages.toml"]
}
gpt! {
    /// Two stages, with three blocks in the first one.
    GptCutEarly, GptCutEarlyVars, [balance = "balance/gpt-early-cut.toml"]
}
gpt! {
    /// Two stages, with five blocks in the first one.
    GptCutLate, GptCutLateVars, [balance = "balance/gpt-late-cut.toml"]
}
gpt! {
    /// The same layers in one stage.
    GptInOne, GptInOneVars
}

fn plain(root: &nn::Path<'_>) -> Vec<PlainStage> {
    let blocks = |name: &str| {
        let path = root / name;
        let mut blocks = nn::seq();
        for number in 0..BLOCKS / 2 {
            blocks = blocks.add(Block::new(&path / number));
        }
        blocks
    };
    let first = nn::seq().add(Embed::new(root / "embed")).add(blocks("early"));
    let second = nn::seq().add(blocks("late")).add(norm(root / "norm")).add(head(root / "head"));
    let stage = |stage: nn::Sequential| -> PlainStage { Box::new(move |values| vec![stage.forward(&values[0])]) };
    vec![stage(first), stage(second)]
}

/// The cross entropy of the next character.
fn task(args: &Args) -> Task {
    let tokens = |name| ((values::uniform(name, &[args.rows, CONTEXT]) + 1.) * (CHARACTERS / 2)).to_kind(Kind::Int64);
    Task {
        input: tokens("input"),
        target: tokens("target"),
        loss: |output, target| output.flatten(0, 1).cross_entropy_for_logits(&target.flatten(0, 1)),
    }
}
