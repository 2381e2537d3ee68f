//! Trains an encoder-decoder that reverses sequences of tokens. Each of its decoder layers reads
//! what the encoder gives and a mask, and one embedding is tied to two later layers. The last batch
//! of an epoch has fewer sequences, and its micro-batches are not equally large. At the end, it
//! compares a step with plain tch.
//!
//! `cargo run -p pipe-examples --bin translate`

#[path = "translate/twin.rs"]
mod twin;

use anyhow::Result;
use clap::Parser;
use pipe_examples::twin::{Step, is_same};
use pipe_runtime::optim::{AdamW, LrSchedule};
use pipe_runtime::{Context, Devices, Layer, Reduction, Trainer, pipeline};
use tch::nn::{self, Embedding, LayerNorm, Linear, Path};
use tch::{Device, Kind, Tensor};

/// Token 0 pads the source, token 1 begins a target.
const TOKENS: i64 = 12;
const LENGTH: i64 = 5;
const WIDTH: i64 = 32;
const HEADS: i64 = 4;

/// Trains an encoder-decoder that reverses sequences of tokens
#[derive(Parser)]
struct Args {
    /// Steps of the training
    #[arg(long, default_value = "400", value_parser = clap::value_parser!(u64).range(4..))]
    steps: u64,
}

/// Source, mask and target.
type Input = (Tensor, Tensor, Tensor);

#[pipeline(input = Input, chunks = 4, schedule = "1f1b")]
struct Translate {
    #[device("cpu")]
    #[lend(mask = input.1)] // many layers read it, on any stage
    #[stash(target = input.2)] // one layer takes it: a skip
    split: Split,
    #[lend(words = tied)]
    embed: Embedding,
    #[lend(memory = output)]
    #[read(mask)]
    encode: Encoder,

    #[device("cpu")]
    #[pop(target)]
    #[read(words)]
    begin: Begin,
    #[devices("cpu", "cpu")]
    #[read(memory, mask)] // each of them takes `(x, memory, mask)`
    decode: [Decoder; 2],
    norm: LayerNorm,
    #[read(words)]
    head: Head,
}

/// Goes on with the source alone.
struct Split;

impl Layer<Input> for Split {
    type Out = Tensor;

    fn run(&self, (source, ..): Input, _: &Context) -> Tensor {
        source
    }
}

/// Attention of `x` to `other`, added to `x`. Without a mask, no position sees a later one.
struct Attention([Linear; 4]);

impl Attention {
    fn new(path: &Path<'_>) -> Self {
        Self(["q", "k", "v", "out"].map(|name| nn::linear(path / name, WIDTH, WIDTH, Default::default())))
    }

    fn add(&self, x: &Tensor, other: &Tensor, mask: Option<&Tensor>) -> Tensor {
        let [q, k, v, out] = &self.0;
        let heads = |x: &Tensor| x.view([x.size()[0], -1, HEADS, WIDTH / HEADS]).transpose(1, 2);
        let [q, k, v] = [x.apply(q), other.apply(k), other.apply(v)].map(|x| heads(&x));
        let causal = mask.is_none();
        let found = Tensor::scaled_dot_product_attention(&q, &k, &v, mask, 0., causal, None, false);
        x + found.transpose(1, 2).contiguous().view_(x.size().as_slice()).apply(out)
    }
}

struct Encoder(Attention, Tensor);

impl Layer<(Tensor, Tensor)> for Encoder {
    type Out = Tensor;

    fn run(&self, (x, mask): (Tensor, Tensor), _: &Context) -> Tensor {
        let x = x + &self.1;
        self.0.add(&x, &x, Some(&mask))
    }
}

/// Embeds the target with the tied weight.
struct Begin(Tensor);

impl Layer<(Tensor, Tensor, Tensor)> for Begin {
    type Out = Tensor;

    fn run(&self, (_, target, words): (Tensor, Tensor, Tensor), _: &Context) -> Tensor {
        Tensor::embedding(&words, &target, -1, false, false) + &self.0
    }
}

struct Decoder {
    own: Attention,
    cross: Attention,
    feed: [Linear; 2],
}

impl Layer<(Tensor, Tensor, Tensor)> for Decoder {
    type Out = Tensor;

    fn run(&self, (x, memory, mask): (Tensor, Tensor, Tensor), _: &Context) -> Tensor {
        let x = self.own.add(&x, &x, None);
        let x = self.cross.add(&x, &memory, Some(&mask));
        &x + x.apply(&self.feed[0]).relu().apply(&self.feed[1])
    }
}

/// Logits of the next token by the tied weight, `[rows, TOKENS, positions]`.
struct Head;

impl Layer<(Tensor, Tensor)> for Head {
    type Out = Tensor;

    fn run(&self, (x, words): (Tensor, Tensor), _: &Context) -> Tensor {
        x.matmul(&words.tr()).transpose(1, 2)
    }
}

impl Translate {
    fn new(vars: &TranslateVars) -> Self {
        let places = |path: Path<'_>| path.randn("places", &[LENGTH, WIDTH], 0., 0.5);
        let small = nn::EmbeddingConfig { ws_init: nn::Init::Randn { mean: 0., stdev: 0.2 }, ..Default::default() };
        let linear = |path, inputs, outputs| nn::linear(path, inputs, outputs, Default::default());
        Self {
            split: Split,
            embed: nn::embedding(vars.embed(), TOKENS, WIDTH, small),
            encode: Encoder(Attention::new(&(vars.encode() / "own")), places(vars.encode())),
            begin: Begin(places(vars.begin())),
            decode: vars.decode().map(|path| Decoder {
                own: Attention::new(&(&path / "own")),
                cross: Attention::new(&(&path / "cross")),
                feed: [linear(&path / "wide", WIDTH, 64), linear(&path / "narrow", 64, WIDTH)],
            }),
            norm: nn::layer_norm(vars.norm(), vec![WIDTH], Default::default()),
            head: Head,
        }
    }
}

/// Sources that are padded from some position on, a mask that is true where there is a token, and
/// what the decoder gets; and what it should say: the tokens from the last to the first. Labels of
/// 0 do not count.
fn sequences(rows: i64) -> (Input, Tensor) {
    let on = (Kind::Int64, Device::Cpu);
    let length = Tensor::randint_low(2, LENGTH + 1, [rows, 1], on);
    let place = Tensor::arange(LENGTH, on);
    let source = Tensor::randint_low(2, TOKENS, [rows, LENGTH], on) * place.lt_tensor(&length);
    let from = (&length - 1 - &place).clamp_min(0);
    let labels = source.gather(1, &from, false) * place.lt_tensor(&length);
    let target = Tensor::cat(&[Tensor::ones([rows, 1], on), labels.slice(1, 0, LENGTH - 1, 1)], 1);
    let mask = source.ne(0).unsqueeze(1).unsqueeze(1);
    ((source, mask, target), labels)
}

/// Nine batches of 60 sequences, and one of 50: its micro-batches have 13, 13, 13 and 11. Then the
/// next epoch begins.
fn batches() -> impl Iterator<Item = (Input, Tensor)> {
    std::iter::repeat_with(|| sequences(590)).flat_map(|((source, mask, target), labels)| {
        (0..590).step_by(60).map(move |start| {
            let part = |all: &Tensor| all.slice(0, start, start + 60, 1);
            ((part(&source), part(&mask), part(&target)), part(&labels))
        })
    })
}

/// Of one micro-batch: the mean over the labels that count.
fn loss(logits: &Tensor, labels: &Tensor) -> Tensor {
    logits.cross_entropy_loss::<Tensor>(labels, None, tch::Reduction::Mean, 0, 0.05)
}

fn counted(labels: &Tensor) -> f64 {
    labels.ne(0).sum(Kind::Int64).int64_value(&[]) as f64
}

fn main() -> Result<()> {
    let args = Args::parse();
    tch::manual_seed(1);
    println!("{}", Translate::PLAN);
    let vars = Translate::vars(&Devices::cpu(Translate::STAGES))?;
    let pipe = Translate::new(&vars).pipe(&vars).build()?;
    let schedule = LrSchedule::cosine(args.steps, 0.05).warmup(args.steps * 3 / 40);
    let optimizer =
        pipe.optimizer(AdamW { lr: 1e-2, ..AdamW::default() }).clip_norm(1.).lr_schedule(schedule).build()?;
    let mut trainer = Trainer::new(pipe, optimizer)?;
    for (number, (input, labels)) in (1..=args.steps).zip(batches()) {
        let counts = Reduction::Weighted(&counted);
        let report = trainer.step_by(|step| step.reduction(counts).run(input, labels, loss))?;
        if number.is_multiple_of(args.steps / 4) {
            println!("step {number}: loss {:.3}", f64::try_from(report.step.loss)?);
        }
    }

    let (input, labels) = sequences(190);
    let logits = trainer.pipe().predict((&input.0, &input.1, &input.2))?;
    let right = logits.argmax(1, false).eq_tensor(&labels) * labels.ne(0);
    println!("right tokens: {:.2}", f64::try_from(right.sum(Kind::Double) / labels.ne(0).sum(Kind::Double))?);

    // One more step, in both ways, whose last micro-batch is smaller.
    let (few, next) = sequences(50);
    let step = Step::pipelined(vars.var_store().variables(), || {
        let step = trainer.pipe().step().reduction(Reduction::Weighted(&counted));
        Ok(step.run((&few.0, &few.1, &few.2), &next, loss)?.loss)
    })?;
    let net = trainer.into_parts().0.into_inner();
    let plain = Step::plain(vars.var_store().variables(), || loss(&twin::forward(&net, &few), &next))?;
    println!("as by hand: {}", is_same(&logits, &tch::no_grad(|| twin::forward(&net, &input))));
    step.compare(&plain)?;
    Ok(())
}
