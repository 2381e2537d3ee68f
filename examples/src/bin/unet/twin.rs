//! The U-Net in plain tch: the whole batch at once, and its skips on a stack.

use tch::{Device, Kind, Tensor};

use crate::{CHANNELS, Down, Residual, UNet, Up};

/// The noise.
pub fn forward(net: &UNet, noisy: &Tensor, time: &Tensor, digits: &Tensor) -> Tensor {
    let powers = Tensor::arange(CHANNELS / 2, (Kind::Float, Device::Cpu)) / (CHANNELS / 2 - 1) as f64;
    let angles = time.outer(&(powers * 10_f64.ln()).exp());
    let x = Tensor::cat(&[angles.sin(), angles.cos()], 1) + digits.apply(&net.condition.digit);
    let condition = x.apply(&net.condition.wide).silu().apply(&net.condition.narrow).silu();
    let residual = |block: &Residual, x: &Tensor| {
        let inside = x.apply(&block.norms[0]).silu().apply(&block.convs[0]);
        let inside = inside + condition.apply(&block.shift).view([-1, CHANNELS, 1, 1]);
        x + inside.apply(&block.norms[1]).silu().apply(&block.convs[1])
    };

    let mut x = noisy.apply(&net.stem.0);
    let mut levels = Vec::new();
    for Down(block, shrink) in &net.down {
        let level = residual(block, &x);
        x = level.apply(shrink);
        levels.push(level);
    }
    x = residual(&net.middle, &x);
    for Up(mix, block) in &net.up {
        let level = levels.pop().expect("there are as many levels");
        let larger = x.upsample_nearest2d(&level.size()[2..], None, None);
        x = residual(block, &Tensor::cat(&[larger, level], 1).apply(mix));
    }
    x.apply(&net.head)
}
