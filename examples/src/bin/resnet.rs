//! Trains a residual network as deep as ResNet-101 on handwritten digits. Its batch norms have the
//! running statistics of whole mini-batches. At the end, it compares a step with plain tch.
//!
//! Get the data with `cargo xtask data`, then run `cargo run -p pipe-examples --bin resnet`.

use std::collections::HashMap;

use anyhow::Result;
use clap::Parser;
use pipe_examples::digits::{self, CLASSES};
use pipe_examples::twin::Step;
use pipe_runtime::nn::{Add, DeferredBatchNorm, DeferredBatchNormConfig};
use pipe_runtime::optim::{AdamW, LrSchedule};
use pipe_runtime::{Devices, Trainer, pipeline};
use tch::nn::{self, Conv2D, Func, Init, Linear, Path};
use tch::{Device, Kind, Tensor};

/// Images per training step.
const ROWS: i64 = 120;
/// Channels of each group between its blocks. Inside of a block, there are a quarter of them.
const WIDTHS: [i64; 4] = [32, 48, 64, 96];

/// Trains a deep residual network on handwritten digits
#[derive(Parser)]
struct Args {
    /// Steps of the training
    #[arg(long, default_value = "60", value_parser = clap::value_parser!(u64).range(4..))]
    steps: u64,
}

// ANCHOR: model
#[pipeline(chunks = 4, checkpoint = never, schedule = "1f1b")]
struct ResNet {
    #[device("cpu")]
    stem: ConvNorm,
    #[repeat]
    layer1: [Bottleneck; 3],
    shrink2: ConvNorm,
    #[repeat]
    layer2: [Bottleneck; 4],
    shrink3: ConvNorm,
    #[devices("cpu" = 11, "cpu" = 12)]
    layer3: [Bottleneck; 23],
    shrink4: ConvNorm,
    #[repeat]
    layer4: [Bottleneck; 3],
    pool: Func<'static>,
    head: Linear,
}

/// A residual connection around three convolutions.
#[pipeline]
struct Bottleneck {
    #[stash(residual = input)]
    reduce: ConvNorm,
    conv: ConvNorm,
    expand: ConvNorm,
    #[pop(residual)]
    add: Add,
    relu: Func<'static>,
}

#[pipeline]
struct ConvNorm {
    conv: Conv2D,
    norm: DeferredBatchNorm,
    relu: Option<Func<'static>>,
}
// ANCHOR_END: model

fn relu() -> Func<'static> {
    nn::func(Tensor::relu)
}

impl ConvNorm {
    /// Makes a convolution over `size` by `size` pixels. `weight` is where that of the norm begins.
    fn new(path: Path<'_>, [inputs, outputs]: [i64; 2], size: i64, stride: i64, weight: f64) -> Self {
        let vars = Self::vars_at(path);
        let conv = nn::ConvConfig { stride, padding: size / 2, bias: false, ..Default::default() };
        let norm = DeferredBatchNormConfig { ws_init: Init::Const(weight), ..Default::default() };
        Self {
            conv: nn::conv2d(vars.conv(), inputs, outputs, size, conv),
            norm: DeferredBatchNorm::new2d(vars.norm(), outputs, norm),
            relu: Some(relu()),
        }
    }
}

impl Bottleneck {
    fn new(path: Path<'_>, width: i64) -> Self {
        let vars = Self::vars_at(path);
        let inside = width / 4;
        Self {
            reduce: ConvNorm::new(vars.reduce(), [width, inside], 1, 1, 1.),
            conv: ConvNorm::new(vars.conv(), [inside, inside], 3, 1, 1.),
            // The sum has a ReLU. A block begins as the identity (Goyal et al. 2017, "Accurate,
            // large minibatch SGD", section 5.1).
            expand: ConvNorm { relu: None, ..ConvNorm::new(vars.expand(), [inside, width], 1, 1, 0.) },
            add: Add,
            relu: relu(),
        }
    }
}

impl ResNet {
    fn new(vars: &ResNetVars) -> Self {
        let [one, two, three, four] = WIDTHS;
        let conv = |path: Path<'_>, inputs, outputs, stride| ConvNorm::new(path, [inputs, outputs], 3, stride, 1.);
        Self {
            stem: conv(vars.stem(), 1, one, 1),
            layer1: vars.layer1().map(|path| Bottleneck::new(path, one)),
            shrink2: conv(vars.shrink2(), one, two, 2),
            layer2: vars.layer2().map(|path| Bottleneck::new(path, two)),
            shrink3: conv(vars.shrink3(), two, three, 2),
            layer3: vars.layer3().map(|path| Bottleneck::new(path, three)),
            shrink4: conv(vars.shrink4(), three, four, 2),
            layer4: vars.layer4().map(|path| Bottleneck::new(path, four)),
            pool: nn::func(|x| x.mean_dim([2, 3].as_slice(), false, Kind::Float)),
            head: nn::linear(vars.head(), four, CLASSES, Default::default()),
        }
    }
}

/// The same model by hand, from its variables.
struct Plain(HashMap<String, Tensor>);

impl Plain {
    /// Runs a training forward on the whole mini-batch.
    fn forward(&self, images: &Tensor) -> Tensor {
        let mut x = self.conv_norm("stem", images, 1).relu();
        for (group, blocks) in [(1, 3), (2, 4), (3, 23), (4, 3)] {
            if group > 1 {
                x = self.conv_norm(&format!("shrink{group}"), &x, 2).relu();
            }
            for block in 0..blocks {
                let name = |layer| format!("layer{group}.{block}.{layer}");
                let inside = self.conv_norm(&name("reduce"), &x, 1).relu();
                let inside = self.conv_norm(&name("conv"), &inside, 1).relu();
                x = (x + self.conv_norm(&name("expand"), &inside, 1)).relu();
            }
        }
        let pooled = x.mean_dim([2, 3].as_slice(), false, Kind::Float);
        pooled.linear(&self.0["head.weight"], Some(&self.0["head.bias"]))
    }

    // ANCHOR: norm
    /// Batch norm sees a micro-batch, but its running statistics are those of plain batch norm on
    /// the whole mini-batch.
    fn conv_norm(&self, name: &str, x: &Tensor, stride: i64) -> Tensor {
        let [conv, weight, bias, mean, variance] =
            ["conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"]
                .map(|part| &self.0[&format!("{name}.{part}")]);
        let x = x.conv2d::<Tensor>(conv, None, stride, conv.size()[2] / 2, 1, 1);
        let norm = |x: &Tensor, mean: Option<&Tensor>, variance: Option<&Tensor>| {
            Tensor::batch_norm(x, Some(weight), Some(bias), mean, variance, true, 0.1, 1e-5, false)
        };
        // This updates the running statistics. Its output is not used.
        let _ = norm(&x, Some(mean), Some(variance));
        let micro_batches = x.chunk(4, 0);
        Tensor::cat(&micro_batches.iter().map(|x| norm(x, None, None)).collect::<Vec<_>>(), 0)
    }
    // ANCHOR_END: norm
}

fn main() -> Result<()> {
    let args = Args::parse();
    pipe_runtime::keep_freed_memory();
    // The stages run in parallel, so each operator gets one thread.
    tch::set_num_threads(1);
    let (train, test) = digits::split(&digits::load(None)?)?;
    tch::manual_seed(1);

    println!("{}", ResNet::PLAN);
    let vars = ResNet::vars(&Devices::cpu(ResNet::STAGES))?;
    let pipe = ResNet::new(&vars).pipe(&vars).build()?;
    let optimizer = pipe
        .optimizer(AdamW { lr: 4e-3, ..AdamW::default() })
        .lr_schedule(LrSchedule::cosine(args.steps, 0.05).warmup(args.steps / 20))
        .build()?;
    let mut trainer = Trainer::new(pipe, optimizer)?;
    let batch = || train.select(&Tensor::randint(train.rows(), [ROWS], (Kind::Int64, Device::Cpu)));
    let loss = |logits: &Tensor, labels: &Tensor| logits.cross_entropy_for_logits(labels);
    for number in 1..=args.steps {
        let batch = batch();
        let report = trainer.step(batch.images, batch.labels, loss)?;
        if number.is_multiple_of(args.steps / 4) {
            println!("step {number}: loss {:.3}", f64::try_from(report.step.loss)?);
        }
    }
    // Evaluation normalizes with the running statistics.
    let right = trainer.pipe().predict(&test.images)?.accuracy_for_logits(&test.labels);
    println!("test accuracy: {:.3}", f64::try_from(right)?);

    // One more step, in both ways, whose last micro-batch is smaller. Without the optimizer, it
    // changes the running statistics alone.
    let batch = batch().first(ROWS - 2);
    let variables = || vars.var_store().variables();
    let copy = |variable: Tensor| variable.detach().copy().set_requires_grad(variable.requires_grad());
    let plain = Plain(variables().into_iter().map(|(name, variable)| (name, copy(variable))).collect());
    let mut logits = Tensor::new();
    let step = Step::pipelined(variables(), || {
        let report = trainer.pipe().step().keep_output().run(&batch.images, &batch.labels, loss)?;
        logits = report.output;
        Ok(report.loss)
    })?;
    let mut by_hand = Tensor::new();
    let copies = plain.0.iter().map(|(name, copy)| (name.clone(), copy.shallow_clone())).collect();
    let twin = Step::plain(copies, || {
        by_hand = plain.forward(&batch.images);
        loss(&by_hand, &batch.labels)
    })?;
    let close = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]) < 1e-4;
    let mut running = variables().into_iter().filter(|(name, _)| name.contains("running"));
    println!("running statistics of the mini-batch: {}", running.all(|(name, now)| close(&now, &plain.0[&name])));
    println!("as by hand: {}", close(&logits, &by_hand));
    step.compare(&twin)?;
    Ok(())
}
