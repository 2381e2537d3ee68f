//! Runs torchgpipe's benchmark: U-Net(5, 5, 64) on 3x192x192 images, as one checkpointed stage (Kim
//! et al. 2020, "torchgpipe: On-the-fly Pipeline Parallelism").

use std::path::Path as FilePath;

use anyhow::Result;
use pipe_runtime::{Checkpoint, Context, Devices, Layer, pipeline};
use tch::nn::{self, Conv2D, Func, OptimizerConfig, Path, SequentialT};
use tch::{Device, Kind, Tensor};

use crate::results::Results;
use crate::speed::{finish, median};
use crate::table::{Table, Verdict};

const CHUNKS: usize = 2;

#[pipeline(allow(short_skip, single_stage))]
struct UNet {
    #[device("cpu")]
    #[stash(level0 = output)]
    encode0: SequentialT,
    pool0: Func<'static>,
    #[stash(level1 = output)]
    encode1: SequentialT,
    pool1: Func<'static>,
    #[stash(level2 = output)]
    encode2: SequentialT,
    pool2: Func<'static>,
    #[stash(level3 = output)]
    encode3: SequentialT,
    pool3: Func<'static>,
    #[stash(level4 = output)]
    encode4: SequentialT,
    pool4: Func<'static>,
    bottleneck: SequentialT,
    up4: Func<'static>,
    #[pop(level4)]
    join4: PadAndConcat,
    decode4: SequentialT,
    up3: Func<'static>,
    #[pop(level3)]
    join3: PadAndConcat,
    decode3: SequentialT,
    up2: Func<'static>,
    #[pop(level2)]
    join2: PadAndConcat,
    decode2: SequentialT,
    up1: Func<'static>,
    #[pop(level1)]
    join1: PadAndConcat,
    decode1: SequentialT,
    up0: Func<'static>,
    #[pop(level0)]
    join0: PadAndConcat,
    decode0: SequentialT,
    segment: Conv2D,
}

/// Pads the input at the bottom and the right to the size of the skip, and joins the two along the
/// channels.
struct PadAndConcat;

impl Layer<(Tensor, Tensor)> for PadAndConcat {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        let (size, wanted) = (x.size(), skip.size());
        let padding = [0, wanted[3] - size[3], 0, wanted[2] - size[2]];
        let x = if padding == [0; 4] { x } else { x.constant_pad_nd(padding) };
        Tensor::cat(&[x, skip], 1)
    }
}

/// The size of the model and its input.
#[derive(Clone, Copy)]
struct Size {
    channels: i64,
    convolutions: usize,
    image: i64,
    batch: i64,
}

pub fn check(
    gpus: &[Device],
    batch: i64,
    measurements: usize,
    torchgpipe: Option<&FilePath>,
    table: &mut Table,
) -> Result<()> {
    let Some(&gpu) = gpus.first() else {
        let size = Size { channels: 2, convolutions: 1, image: 32, batch: 4 };
        let (rate, _) = measure(Device::Cpu, size, 3)?;
        table.add("U-Net(5, 1, 2) on the CPU", Verdict::Measured, format!("{rate:.1} images a second"));
        table.skip("U-Net(5, 5, 64) beside torchgpipe", "there is no GPU");
        return Ok(());
    };
    let size = Size { channels: 64, convolutions: 5, image: 192, batch };
    let (rate, peak) = measure(gpu, size, measurements)?;
    let ours = format!("{rate:.2} images a second, {peak:.0} MiB at most");
    let Some(file) = torchgpipe else {
        table.add("U-Net(5, 5, 64), one stage, always", Verdict::Measured, ours);
        table.skip(
            "U-Net(5, 5, 64) beside torchgpipe",
            "torchgpipe has not been measured: `--torchgpipe` names its results",
        );
        return Ok(());
    };
    let theirs = Results::read(file)?;
    let (their_rate, their_peak) = (theirs.number("images_per_second")?, theirs.number("peak_mib")?);
    let detail = format!("{ours}; torchgpipe: {their_rate:.2} images a second");
    table.at_least("U-Net(5, 5, 64): ours / torchgpipe's images a second", rate / their_rate, 1., detail);
    let detail = format!("{peak:.0} MiB ours, {their_peak:.0} torchgpipe's");
    table.at_least("U-Net(5, 5, 64): torchgpipe's / our peak memory", their_peak / peak, 1., detail);
    Ok(())
}

/// Measures images per second, and the peak memory in MiB.
fn measure(on: Device, size: Size, measurements: usize) -> Result<(f64, f64)> {
    let vars = UNet::vars(&Devices::new([on]))?;
    let mut pipe = make(&vars, size).pipe(&vars).chunks(CHUNKS).checkpoint(Checkpoint::Always).build()?;
    let x = Tensor::rand([size.batch, 3, size.image, size.image], (Kind::Float, on));
    let y = Tensor::ones([size.batch, 1, size.image, size.image], (Kind::Float, on));
    // This frees the gradients between steps, as optimizers do. The parameters then take over those
    // of the next step.
    let mut optimizer = nn::Sgd::default().build(vars.var_store(), 0.1)?;
    finish(on);
    pipe.reset_peaks()?;
    let milliseconds = median(measurements, &[on], || {
        let loss = |output: &Tensor, y: &Tensor| {
            output.binary_cross_entropy_with_logits::<Tensor>(y, None, None, tch::Reduction::Mean)
        };
        pipe.train_step(&x, &y, loss)?;
        optimizer.zero_grad();
        Ok(())
    })?;
    let peak = pipe.memory()?.devices.first().map_or(0, |memory| memory.peak_allocated);
    Ok((size.batch as f64 / milliseconds * 1e3, peak as f64 / f64::from(1 << 20)))
}

fn make(vars: &UNetVars, Size { channels, convolutions, .. }: Size) -> UNet {
    let outer = |level: u32| if level == 0 { 3 } else { channels << (level - 1) };
    let encode = |path, level| cell(path, convolutions, outer(level), channels << level, channels << level);
    let half = |level: u32| (channels << level) / 2;
    let decode = |path, level| cell(path, convolutions, 2 * (channels << level), half(level), half(level));
    let pool = || nn::func(|x| x.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false));
    let up = || {
        nn::func(|x| {
            let size = x.size();
            x.upsample_nearest2d([size[2] * 2, size[3] * 2], None, None)
        })
    };
    UNet {
        encode0: encode(vars.encode0(), 0),
        pool0: pool(),
        encode1: encode(vars.encode1(), 1),
        pool1: pool(),
        encode2: encode(vars.encode2(), 2),
        pool2: pool(),
        encode3: encode(vars.encode3(), 3),
        pool3: pool(),
        encode4: encode(vars.encode4(), 4),
        pool4: pool(),
        bottleneck: cell(vars.bottleneck(), convolutions, channels << 4, channels << 5, channels << 4),
        up4: up(),
        join4: PadAndConcat,
        decode4: decode(vars.decode4(), 4),
        up3: up(),
        join3: PadAndConcat,
        decode3: decode(vars.decode3(), 3),
        up2: up(),
        join2: PadAndConcat,
        decode2: decode(vars.decode2(), 2),
        up1: up(),
        join1: PadAndConcat,
        decode1: decode(vars.decode1(), 1),
        up0: up(),
        join0: PadAndConcat,
        decode0: decode(vars.decode0(), 0),
        segment: nn::conv2d(vars.segment(), half(0), 1, 1, nn::ConvConfig { bias: false, ..Default::default() }),
    }
}

/// `count` convolutions, each with dropout, normalisation and a leaky ReLU: `input` to `middle`
/// channels, on to `output`.
fn cell(path: Path<'_>, count: usize, input: i64, middle: i64, output: i64) -> SequentialT {
    let config = nn::ConvConfig { padding: 1, bias: false, ..Default::default() };
    let mut cell = nn::seq_t();
    for unit in 0..count {
        let from = if unit == 0 { input } else { middle };
        let to = if unit + 1 == count { output } else { middle };
        cell = cell
            .add(nn::conv2d(&path / unit, from, to, 3, config))
            .add_fn_t(|x, training| x.feature_dropout(0.1, training))
            .add_fn(|x| x.instance_norm::<Tensor>(None, None, None, None, true, 0.1, 1e-5, true))
            .add_fn(Tensor::leaky_relu);
    }
    cell
}
