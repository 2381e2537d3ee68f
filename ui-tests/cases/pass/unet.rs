//! A small U-Net: skips that cross stages, repeated layers, a plain field.

use pipe_runtime::nn::{self, Concat, ModuleT};
use pipe_runtime::{Tensor, pipeline};

#[derive(Debug)]
struct Block;

impl ModuleT for Block {
    fn forward_t(&self, _: &Tensor, _: bool) -> Tensor {
        Tensor
    }
}

struct Config;

/// A small U-Net over two devices.
#[pipeline(chunks = 8, checkpoint = except_last)]
pub struct UNet {
    #[device("cuda:0")]
    #[stash(level1 = output)]
    encode1: Block,
    #[stash(level2 = output)]
    encode2: Block,
    bottleneck: Block,
    #[device("cuda:1")]
    #[pop(level2)]
    concat2: Concat,
    #[devices("cuda:1", "cuda:2")]
    blocks: [Block; 5],
    #[pop(level1)]
    concat1: Concat,
    head: nn::Conv2D,
    #[not_a_layer]
    config: Config,
}

fn main() {
    let _ = || {
        let vars = UNet::vars(&UNet::devices()).ok()?;
        let _ = vars.encode1();
        let [..] = vars.blocks();
        let net = UNet {
            encode1: Block,
            encode2: Block,
            bottleneck: Block,
            concat2: Concat,
            blocks: [Block, Block, Block, Block, Block],
            concat1: Concat,
            head: nn::Conv2D,
            config: Config,
        };
        let _: Tensor = net.unpipelined().forward(Tensor).ok()?;
        let pipe = net.pipe(&vars).build().ok()?;
        let Config = pipe.config;
        Some(())
    };
    assert_eq!(UNet::STAGES, 3);
    assert_eq!(UNet::PLAN.skips[0].to, 2);
}
