//! Trains a small GPT on the bytes of this project's book, and writes text with it. The embedding
//! is tied to the head, over all stages. At the end, it compares a step with plain tch.
//!
//! `cargo run -p pipe-examples --bin gpt`, or with `-- --help` for its options.

#[path = "gpt/twin.rs"]
mod twin;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Parser;
use pipe_examples::twin::{Step, is_same};
use pipe_runtime::optim::{AdamW, Group, LrSchedule};
use pipe_runtime::schedule::ScheduleKind;
use pipe_runtime::{Checkpoints, Context, Devices, Layer, Pipe, Trainer, autocast, pipeline};
use tch::nn::{self, Embedding, Init, LayerNorm, Linear, ModuleT};
use tch::{Device, Kind, Tensor};

const BYTES: i64 = 256;
/// How many bytes the model sees.
const LENGTH: i64 = 32;
const WIDTH: i64 = 64;
const HEADS: i64 = 4;
const DROPOUT: f64 = 0.05;
/// Texts per training step.
const ROWS: i64 = 16;

/// Trains a small GPT on the bytes of this project's book
#[derive(Parser)]
struct Args {
    /// Steps of the whole training
    #[arg(long, default_value = "600", value_parser = clap::value_parser!(u64).range(4..))]
    steps: u64,
    /// Ends the training after this step
    #[arg(long)]
    stop_after: Option<u64>,
    /// The schedule of the training steps, such as `zb_h1`
    #[arg(long, default_value = "1f1b")]
    schedule: ScheduleKind,
    /// Computes matrix products in bfloat16
    #[arg(long)]
    bf16: bool,
    /// Saves checkpoints in this folder, and goes on from the newest one in it
    #[arg(long, value_name = "DIR")]
    checkpoints: Option<PathBuf>,
}

// ANCHOR: model
#[pipeline(chunks = 4, schedule = "1f1b")]
struct Gpt {
    #[device("cpu")]
    #[lend(words = tied)] // one variable, one gradient
    words: Embedding,
    places: Places,
    #[devices("cpu", "cpu")]
    blocks: [Block; 4],
    norm: LayerNorm,
    #[read(words)]
    head: Head,
}
// ANCHOR_END: model

/// Adds a vector for each place in the text.
#[derive(Debug)]
struct Places(Tensor);

impl ModuleT for Places {
    fn forward_t(&self, x: &Tensor, training: bool) -> Tensor {
        (x + self.0.narrow(0, 0, x.size()[1])).dropout(DROPOUT, training)
    }
}

/// Attention to earlier places and a small network, each with a norm before it and added to `x`.
#[derive(Debug)]
struct Block {
    norms: [LayerNorm; 2],
    qkv: Linear,
    mix: Linear,
    wide: Linear,
    narrow: Linear,
}

impl Block {
    fn attend(&self, x: &Tensor) -> Tensor {
        let qkv = x.apply(&self.qkv).view([x.size()[0], -1, 3, HEADS, WIDTH / HEADS]).permute([2, 0, 3, 1, 4]);
        let [q, k, v] = [0, 1, 2].map(|part| qkv.get(part));
        let found = Tensor::scaled_dot_product_attention::<Tensor>(&q, &k, &v, None, 0., true, None, false);
        found.transpose(1, 2).reshape(x.size()).apply(&self.mix)
    }
}

impl ModuleT for Block {
    fn forward_t(&self, x: &Tensor, training: bool) -> Tensor {
        let x = x + self.attend(&x.apply(&self.norms[0])).dropout(DROPOUT, training);
        let wide = x.apply(&self.norms[1]).apply(&self.wide).gelu("tanh");
        x + wide.apply(&self.narrow).dropout(DROPOUT, training)
    }
}

/// Logits of the next byte by the tied embedding, `[rows, length, BYTES]`.
struct Head;

impl Layer<(Tensor, Tensor)> for Head {
    type Out = Tensor;

    fn run(&self, (x, words): (Tensor, Tensor), _: &Context) -> Tensor {
        x.matmul(&words.tr()).to_kind(Kind::Float)
    }
}

impl Gpt {
    fn new(vars: &GptVars) -> Self {
        let small = Init::Randn { mean: 0., stdev: 0.08 };
        let linear = |path, from, to| {
            nn::linear(path, from, to, nn::LinearConfig { ws_init: small, bs_init: Some(Init::Const(0.)), bias: true })
        };
        let norm = |path| nn::layer_norm(path, vec![WIDTH], Default::default());
        let ws_init = nn::EmbeddingConfig { ws_init: small, ..Default::default() };
        Self {
            words: nn::embedding(vars.words(), BYTES, WIDTH, ws_init),
            places: Places(vars.places().var("weight", &[LENGTH, WIDTH], small)),
            blocks: vars.blocks().map(|path| Block {
                norms: ["norm1", "norm2"].map(|name| norm(&path / name)),
                qkv: linear(&path / "qkv", WIDTH, 3 * WIDTH),
                mix: linear(&path / "mix", WIDTH, WIDTH),
                wide: linear(&path / "wide", WIDTH, 4 * WIDTH),
                narrow: linear(&path / "narrow", 4 * WIDTH, WIDTH),
            }),
            norm: norm(vars.norm()),
            head: Head,
        }
    }
}

// ANCHOR: trainer
fn trainer(args: &Args, pipe: Pipe<Gpt>) -> pipe_runtime::Result<Trainer<Gpt>> {
    let warmup = args.steps / 10;
    let optimizer = pipe
        .optimizer(AdamW { lr: 4e-3, betas: (0.9, 0.95), weight_decay: 0.1, ..AdamW::default() })
        .group(Group::biases_and_norms().weight_decay(0.))
        .group(Group::pattern("words").weight_decay(0.))
        .group(Group::pattern("places").weight_decay(0.))
        .clip_norm(1.)
        .lr_schedule(LrSchedule::cosine(args.steps - warmup, 0.1).warmup(warmup))
        .build()?;
    Trainer::new(pipe, optimizer)
}
// ANCHOR_END: trainer

/// Trains to the last step, or until `--stop-after`.
fn train(args: &Args, trainer: &mut Trainer<Gpt>, text: &Tensor) -> Result<()> {
    let mut checkpoints = args.checkpoints.as_ref().map(|folder| Checkpoints::in_folder(folder).keep(2));
    if let Some(checkpoints) = &mut checkpoints
        && checkpoints.resume(trainer)?
    {
        println!("goes on after step {}", trainer.steps());
    }
    let stop = args.stop_after.unwrap_or(args.steps);
    while trainer.steps() < stop {
        let starts = Tensor::randint(text.size()[0] - LENGTH, [ROWS], (Kind::Int64, Device::Cpu));
        let (x, y) = texts(text, &starts);
        let step = || trainer.step(x, y, loss);
        let report = if args.bf16 { autocast(Device::Cpu, Kind::BFloat16, step)?? } else { step()? };
        let number = trainer.steps();
        if number.is_multiple_of(args.steps / 4) || number == stop {
            println!("step {number}: loss {:.6}", f64::try_from(report.step.loss)?);
            if let Some(checkpoints) = &mut checkpoints {
                checkpoints.save_in_background(trainer)?;
            }
        }
    }
    if let Some(checkpoints) = &mut checkpoints {
        checkpoints.finish()?;
    }
    Ok(())
}

fn loss(logits: &Tensor, next: &Tensor) -> Tensor {
    logits.view([-1, BYTES]).cross_entropy_for_logits(&next.view(-1))
}

/// The texts of `LENGTH` bytes that begin at `starts`, and the byte after each of theirs.
fn texts(text: &Tensor, starts: &Tensor) -> (Tensor, Tensor) {
    let from = |shift| starts.unsqueeze(1) + Tensor::arange(LENGTH, (Kind::Int64, Device::Cpu)) + shift;
    (text.take(&from(0)), text.take(&from(1)))
}

// ANCHOR: write
/// Goes on with `prompt`, several times at once: each text is a row, and so a micro-batch.
fn write(pipe: &mut Pipe<Gpt>, prompt: &str, bytes: usize) -> Result<Vec<String>> {
    let prompt: Vec<i64> = prompt.bytes().map(i64::from).collect();
    let mut written = Tensor::from_slice(&prompt).repeat([pipe.chunks() as i64, 1]);
    for _ in 0..bytes {
        let seen = written.size()[1].min(LENGTH);
        let logits = pipe.predict(written.narrow(1, -seen, seen))?.select(1, -1);
        let next = (logits / 0.8).softmax(-1, Kind::Float).multinomial(1, true);
        written = Tensor::cat(&[written, next], 1);
    }
    let rows = (0..written.size()[0]).map(|row| Vec::<u8>::try_from(written.get(row).to_kind(Kind::Uint8)));
    rows.map(|row| Ok(String::from_utf8_lossy(&row?).into_owned())).collect()
}
// ANCHOR_END: write

/// The pages of the book in the order of their paths, one after the other.
fn book() -> Result<Tensor> {
    fn pages(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            match path.extension() {
                None if path.is_dir() => pages(&path, found)?,
                Some(extension) if extension == "md" => found.push(path),
                _ => {}
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    pages(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs"), &mut found)?;
    found.sort();
    let bytes = found.iter().map(fs::read).collect::<std::io::Result<Vec<_>>>()?.concat();
    ensure!(bytes.len() > 100_000, "the book has {} bytes, too few to learn from", bytes.len());
    Ok(Tensor::from_slice(&bytes).to_kind(Kind::Int64))
}

fn main() -> Result<()> {
    let args = Args::parse();
    pipe_runtime::keep_freed_memory();
    // The stages run in parallel, so each operator gets one thread.
    tch::set_num_threads(1);
    tch::manual_seed(1);
    let text = book()?;
    let held_out = text.size()[0] / 10;
    let (learned, held_out) = (text.slice(0, held_out, None, 1), text.slice(0, 0, held_out, 1));

    println!("{}", Gpt::PLAN);
    let vars = Gpt::vars(&Devices::cpu(Gpt::STAGES))?;
    let pipe = Gpt::new(&vars).pipe(&vars).schedule(args.schedule).build()?;
    let mut trainer = trainer(&args, pipe)?;
    train(&args, &mut trainer, &learned)?;

    let starts = Tensor::arange_start_step(0, held_out.size()[0] - LENGTH, 4 * LENGTH, (Kind::Int64, Device::Cpu));
    let (x, y) = texts(&held_out, &starts);
    let logits = trainer.pipe().predict(&x)?;
    println!("held out: loss {:.3}", f64::try_from(loss(&logits, &y))?);
    let written = write(trainer.pipe(), "A pipeline ", 120)?;

    // One more step, in both ways, whose last micro-batch is smaller. It is without dropout,
    // because micro-batches draw other random numbers than the whole batch.
    let [few, next] = [&x, &y].map(|all| all.narrow(0, 0, ROWS - 1));
    let train = |pipe: &mut Pipe<Gpt>| Ok(pipe.train_step(&few, &next, loss)?.loss);
    let step = Step::pipelined(vars.var_store().variables(), || trainer.pipe().evaluating(train))?;
    let net = trainer.into_parts().0.into_inner();
    let plain = Step::plain(vars.var_store().variables(), || loss(&twin::forward(&net, &few), &next))?;
    println!("as by hand: {}", is_same(&logits, &tch::no_grad(|| twin::forward(&net, &x))));
    step.compare(&plain)?;
    for text in written {
        println!("---\n{text}");
    }
    Ok(())
}
