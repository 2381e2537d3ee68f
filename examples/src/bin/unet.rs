//! Trains a small diffusion model on handwritten digits: a U-Net finds the noise in images. Then it
//! draws digits, from nothing but noise, and compares a step with plain tch.
//!
//! Get the data with `cargo xtask data`, then run `cargo run -p pipe-examples --bin unet`.

#[path = "unet/twin.rs"]
mod twin;

use std::f64::consts::FRAC_PI_2;

use anyhow::Result;
use clap::Parser;
use pipe_examples::digits::{self, CLASSES, SIDE};
use pipe_examples::twin::{Step, is_same};
use pipe_runtime::optim::{AdamW, LrSchedule};
use pipe_runtime::{Context, Devices, Layer, Pipe, Trainer, pipeline};
use tch::nn::{self, Conv2D, Embedding, GroupNorm, Linear, Path};
use tch::{Device, Kind, Tensor};

const CHANNELS: i64 = 32;
/// Noisy images per training step.
const ROWS: i64 = 48;

/// Trains a small diffusion model on handwritten digits, and draws some
#[derive(Parser)]
struct Args {
    /// Steps of the training
    #[arg(long, default_value = "500", value_parser = clap::value_parser!(u64).range(4..))]
    steps: u64,
}

// ANCHOR: model
/// Takes noisy images, their times and the digits on them, and returns the noise.
#[pipeline(input = (Tensor, Tensor, Tensor), chunks = 4, checkpoint = never, schedule = "1f1b")]
struct UNet {
    #[device("cpu")]
    #[stash(noisy = input.0)]
    #[lend(condition = output)]
    condition: Condition,
    #[pop(noisy)]
    stem: Stem,
    #[devices("cpu" = 1, "cpu" = 2)]
    #[stash(level[..])] // each of them returns `(x, level)`
    #[read(condition)]
    down: [Down; 3],
    #[read(condition)]
    middle: Residual,
    #[devices("cpu" = 2, "cpu" = 1)]
    #[pop(level[..])] // each of them takes `(x, level, condition)`, the last level first
    #[read(condition)]
    up: [Up; 3],
    head: Conv2D,
}
// ANCHOR_END: model

/// Turns times and digits into vectors, `[rows, CHANNELS]`.
struct Condition {
    digit: Embedding,
    wide: Linear,
    narrow: Linear,
}

impl Layer<(Tensor, Tensor, Tensor)> for Condition {
    type Out = Tensor;

    fn run(&self, (_, time, digit): (Tensor, Tensor, Tensor), _: &Context) -> Tensor {
        let frequencies = Tensor::logspace(0., 1., CHANNELS / 2, 10., (Kind::Float, time.device()));
        let angles = time.unsqueeze(1) * frequencies;
        let x = Tensor::cat(&[angles.sin(), angles.cos()], 1) + digit.apply(&self.digit);
        x.apply(&self.wide).silu().apply(&self.narrow).silu()
    }
}

struct Stem(Conv2D);

impl Layer<(Tensor, Tensor)> for Stem {
    type Out = Tensor;

    fn run(&self, (_, noisy): (Tensor, Tensor), _: &Context) -> Tensor {
        noisy.apply(&self.0)
    }
}

/// Two convolutions, which are added to `x`. The condition shifts the channels between them.
struct Residual {
    norms: [GroupNorm; 2],
    convs: [Conv2D; 2],
    shift: Linear,
}

impl Layer<(Tensor, Tensor)> for Residual {
    type Out = Tensor;

    fn run(&self, (x, condition): (Tensor, Tensor), _: &Context) -> Tensor {
        let shift = condition.apply(&self.shift).unsqueeze(-1).unsqueeze(-1);
        let inside = x.apply(&self.norms[0]).silu().apply(&self.convs[0]) + shift;
        x + inside.apply(&self.norms[1]).silu().apply(&self.convs[1])
    }
}

// ANCHOR: levels
/// Halves height and width. The skip is what it had before.
struct Down(Residual, Conv2D);

impl Layer<(Tensor, Tensor)> for Down {
    type Out = (Tensor, Tensor);

    fn run(&self, input: (Tensor, Tensor), cx: &Context) -> Self::Out {
        let level = self.0.run(input, cx);
        (level.apply(&self.1), level)
    }
}

/// Doubles height and width, and mixes the result with the skip.
struct Up(Conv2D, Residual);

impl Layer<(Tensor, Tensor, Tensor)> for Up {
    type Out = Tensor;

    fn run(&self, (x, level, condition): (Tensor, Tensor, Tensor), cx: &Context) -> Tensor {
        let x = x.upsample_nearest2d(&level.size()[2..], None, None);
        self.1.run((Tensor::cat(&[x, level], 1).apply(&self.0), condition), cx)
    }
}
// ANCHOR_END: levels

impl UNet {
    fn new(vars: &UNetVars) -> Self {
        let linear = |path: Path<'_>| nn::linear(path, CHANNELS, CHANNELS, Default::default());
        let conv = |path: Path<'_>, inputs, outputs, stride| {
            nn::conv2d(path, inputs, outputs, 3, nn::ConvConfig { padding: 1, stride, ..Default::default() })
        };
        let residual = |path: &Path<'_>| Residual {
            norms: ["norm1", "norm2"].map(|name| nn::group_norm(path / name, 8, CHANNELS, Default::default())),
            convs: ["conv1", "conv2"].map(|name| conv(path / name, CHANNELS, CHANNELS, 1)),
            shift: linear(path / "shift"),
        };
        Self {
            condition: Condition {
                digit: nn::embedding(vars.condition() / "digit", CLASSES, CHANNELS, Default::default()),
                wide: linear(vars.condition() / "wide"),
                narrow: linear(vars.condition() / "narrow"),
            },
            stem: Stem(conv(vars.stem(), 1, CHANNELS, 1)),
            down: vars.down().map(|path| Down(residual(&path), conv(&path / "shrink", CHANNELS, CHANNELS, 2))),
            middle: residual(&vars.middle()),
            up: vars.up().map(|path| Up(conv(&path / "mix", 2 * CHANNELS, CHANNELS, 1), residual(&path))),
            head: conv(vars.head(), CHANNELS, 1, 1),
        }
    }
}

// ANCHOR: noise
/// At time 0, these are the images, and at time pi / 2 the noise.
fn mixed(images: &Tensor, noise: &Tensor, time: &Tensor) -> Tensor {
    let time = time.view([-1, 1, 1, 1]);
    images * time.cos() + noise * time.sin()
}

fn train(args: &Args, trainer: &mut Trainer<UNet>, images: &Tensor, labels: &Tensor) -> Result<()> {
    let (quarter, mut sum) = (args.steps / 4, 0.);
    for number in 1..=args.steps {
        let rows = Tensor::randint(labels.size()[0], [ROWS], (Kind::Int64, Device::Cpu));
        let (images, digits) = (images.index_select(0, &rows), labels.index_select(0, &rows));
        let time = Tensor::rand([ROWS], (Kind::Float, Device::Cpu)) * FRAC_PI_2;
        let noise = images.randn_like();
        let noisy = mixed(&images, &noise, &time);
        let report = trainer.step((noisy, time, digits), noise, loss)?;
        sum += f64::try_from(report.step.loss)?;
        if number.is_multiple_of(quarter) {
            println!("step {number}: loss {:.3}", sum / quarter as f64);
            sum = 0.;
        }
    }
    Ok(())
}

fn loss(found: &Tensor, noise: &Tensor) -> Tensor {
    found.mse_loss(noise, tch::Reduction::Mean)
}
// ANCHOR_END: noise

// ANCHOR: draw
/// Draws these digits in 25 steps from noise to images, by DDIM (Song, Meng and Ermon 2021,
/// "Denoising diffusion implicit models").
fn draw(pipe: &mut Pipe<UNet>, digits: &Tensor) -> pipe_runtime::Result<Tensor> {
    let rows = digits.size()[0];
    let mut x = Tensor::randn([rows, 1, SIDE, SIDE], (Kind::Float, Device::Cpu));
    let mut time = Tensor::full([rows], 1.5, (Kind::Float, Device::Cpu));
    for _ in 0..25 {
        let noise = pipe.predict((&x, &time, digits))?;
        let angle = time.view([-1, 1, 1, 1]);
        let images = ((x - &noise * angle.sin()) / angle.cos()).clamp(-1., 1.);
        time -= 1.5 / 25.;
        x = mixed(&images, &noise, &time);
    }
    Ok(x)
}
// ANCHOR_END: draw

/// Images as text, five in a line.
fn text(images: &Tensor) -> Result<String> {
    let shades = ((images + 1.) * 2.5).clamp(0., 4.).to_kind(Kind::Int64);
    let lines = shades.view([-1, 5, SIDE, SIDE]).transpose(1, 2).reshape([-1, 5 * SIDE]);
    let line = |line: Tensor| -> Result<String> {
        let shades = Vec::<i64>::try_from(line)?;
        let line: String = shades.iter().map(|&shade| ["  ", "..", "++", "##", "@@"][shade as usize]).collect();
        Ok(line.trim_end().to_owned())
    };
    Ok(lines.unbind(0).into_iter().map(line).collect::<Result<Vec<_>>>()?.join("\n"))
}

fn main() -> Result<()> {
    let args = Args::parse();
    pipe_runtime::keep_freed_memory();
    // The stages run in parallel, so each operator gets one thread.
    tch::set_num_threads(1);
    tch::manual_seed(1);
    let data = digits::load(None)?;
    let images = data.images * 2. - 1.;

    println!("{}", UNet::PLAN);
    let vars = UNet::vars(&Devices::cpu(UNet::STAGES))?;
    let pipe = UNet::new(&vars).pipe(&vars).build()?;
    let optimizer = pipe
        .optimizer(AdamW { lr: 6e-3, ..AdamW::default() })
        .clip_norm(1.)
        .lr_schedule(LrSchedule::cosine(args.steps, 0.05).warmup(args.steps / 20))
        .build()?;
    let mut trainer = Trainer::new(pipe, optimizer)?;
    train(&args, &mut trainer, &images, &data.labels)?;

    let wanted = Tensor::arange(CLASSES, (Kind::Int64, Device::Cpu)).repeat([20]);
    let drawn = draw(trainer.pipe(), &wanted)?;
    let nearest = Tensor::cdist(&drawn.flatten(1, -1), &images.flatten(1, -1), 2., None).argmin(1, false);
    let right = data.labels.index_select(0, &nearest).eq_tensor(&wanted);
    println!("nearest to an image of the wanted digit: {:.2}", f64::try_from(right.mean(Kind::Double))?);
    println!("{}", text(&drawn.narrow(0, 0, CLASSES))?);

    let time = Tensor::rand([200], (Kind::Float, Device::Cpu)) * FRAC_PI_2;
    let found = trainer.pipe().predict((&drawn, &time, &wanted))?;
    // One more step, in both ways, whose last micro-batch is smaller.
    let [few, times, digits, noise] = [&drawn, &time, &wanted, &images].map(|all| all.narrow(0, 0, ROWS - 2));
    let train = || Ok(trainer.pipe().train_step((&few, &times, &digits), &noise, loss)?.loss);
    let step = Step::pipelined(vars.var_store().variables(), train)?;
    let net = trainer.into_parts().0.into_inner();
    let plain = || loss(&twin::forward(&net, &few, &times, &digits), &noise);
    let plain = Step::plain(vars.var_store().variables(), plain)?;
    let by_hand = tch::no_grad(|| twin::forward(&net, &drawn, &time, &wanted));
    println!("as by hand: {}", is_same(&found, &by_hand));
    step.compare(&plain)?;
    Ok(())
}
