//! Trains a mixture of experts. Each layer sends a row to the expert that its gate likes most, and
//! returns beside its output how unevenly it has done so, and how many rows each expert got. What
//! all layers return is added up, and arrives beside the model's output. At the end, it compares a
//! step with plain tch.
//!
//! `cargo run -p pipe-examples --bin experts`

#[path = "experts/twin.rs"]
mod twin;

use anyhow::Result;
use clap::Parser;
use pipe_examples::twin::{Step, is_same};
use pipe_runtime::optim::{Adam, LrSchedule};
use pipe_runtime::{Context, Devices, Layer, Mean, Sum, Trainer, pipeline};
use tch::nn::{self, LayerNorm, Linear, Path};
use tch::{Device, Kind, Tensor};

const INPUTS: i64 = 8;
const WIDTH: i64 = 32;
const EXPERTS: i64 = 4;
const CLASSES: i64 = 5;
/// Rows are of so many kinds, and each kind has a rule of its own.
const KINDS: i64 = 6;
/// Rows per training step.
const ROWS: i64 = 128;

/// Trains a mixture of experts
#[derive(Parser)]
struct Args {
    /// Steps of the training
    #[arg(long, default_value = "400", value_parser = clap::value_parser!(u64).range(4..))]
    steps: u64,
}

#[pipeline(sum(balance: Mean, used: Sum), chunks = 4, schedule = "1f1b")]
struct Model {
    #[device("cpu")]
    embed: Linear,
    #[devices("cpu", "cpu")]
    #[sum(balance, used)] // each of them returns `(output, balance, used)`
    layers: [Experts; 4],
    norm: LayerNorm,
    head: Linear,
}

/// A gate, and experts of two layers each: `[EXPERTS, inputs, outputs]`.
struct Experts {
    norm: LayerNorm,
    gate: Linear,
    wide: Tensor,
    narrow: Tensor,
}

impl Experts {
    fn new(path: &Path<'_>) -> Self {
        let experts = |name: &str, inputs: i64, outputs: i64| {
            path.randn(name, &[EXPERTS, inputs, outputs], 0., (1. / inputs as f64).sqrt())
        };
        Self {
            norm: nn::layer_norm(path / "norm", vec![WIDTH], Default::default()),
            gate: nn::linear(path / "gate", WIDTH, EXPERTS, Default::default()),
            wide: experts("wide", WIDTH, 2 * WIDTH),
            narrow: experts("narrow", 2 * WIDTH, WIDTH),
        }
    }
}

impl Layer<Tensor> for Experts {
    type Out = (Tensor, Tensor, Tensor);

    fn run(&self, x: Tensor, _cx: &Context) -> Self::Out {
        let input = x.apply(&self.norm);
        let likes = input.apply(&self.gate).softmax(-1, Kind::Float);
        let chosen = likes.argmax(-1, false).one_hot(EXPERTS);
        // All experts on all rows: `[EXPERTS, rows, WIDTH]`. A large model would sort the rows.
        let each = input.unsqueeze(0).matmul(&self.wide).gelu("none").matmul(&self.narrow);
        let weight = (&likes * &chosen).tr().unsqueeze(-1);
        let output = x + (each * weight).sum_dim_intlist(0, false, Kind::Float);
        // 1 if all experts get the same number of rows, EXPERTS if one gets all of them.
        let used = chosen.sum_dim_intlist(0, false, Kind::Int64);
        let share = used.to_kind(Kind::Float) / output.size()[0];
        let balance = (share * likes.mean_dim(0, false, Kind::Float)).sum(Kind::Float) * EXPERTS;
        (output, balance, used)
    }
}

impl Model {
    fn new(vars: &ModelVars) -> Self {
        Self {
            embed: nn::linear(vars.embed(), INPUTS + KINDS, WIDTH, Default::default()),
            layers: vars.layers().map(|path| Experts::new(&path)),
            norm: nn::layer_norm(vars.norm(), vec![WIDTH], Default::default()),
            head: nn::linear(vars.head(), WIDTH, CLASSES, Default::default()),
        }
    }
}

/// Rows of random kinds, and the class that the rule of the kind gives each: the largest of some
/// linear functions.
fn batch(rules: &Tensor, rows: i64) -> (Tensor, Tensor) {
    let kind = Tensor::randint(KINDS, [rows], (Kind::Int64, Device::Cpu));
    let x = Tensor::randn([rows, INPUTS], (Kind::Float, Device::Cpu));
    let label = rules.index_select(0, &kind).matmul(&x.unsqueeze(-1)).squeeze_dim(-1).argmax(-1, false);
    (Tensor::cat(&[x, kind.one_hot(KINDS).to_kind(Kind::Float)], 1), label)
}

/// Of one micro-batch. The balance counts a little.
fn loss((logits, Mean(balance), _): &(Tensor, Mean, Sum), labels: &Tensor) -> Tensor {
    logits.cross_entropy_for_logits(labels) + balance * 0.01
}

fn main() -> Result<()> {
    let args = Args::parse();
    tch::manual_seed(1);
    println!("{}", Model::PLAN);
    let vars = Model::vars(&Devices::cpu(Model::STAGES))?;
    let pipe = Model::new(&vars).pipe(&vars).build()?;
    let schedule = LrSchedule::cosine(args.steps, 0.05).warmup(args.steps / 20);
    let optimizer = pipe.optimizer(Adam { lr: 4e-3, ..Adam::default() }).clip_norm(1.).lr_schedule(schedule).build()?;
    let mut trainer = Trainer::new(pipe, optimizer)?;
    let rules = Tensor::randn([KINDS, CLASSES, INPUTS], (Kind::Float, Device::Cpu));
    for number in 1..=args.steps {
        let (x, labels) = batch(&rules, ROWS);
        let report = trainer.step(&x, &labels, loss)?;
        if number.is_multiple_of(args.steps / 4) {
            println!("step {number}: loss {:.3}", f64::try_from(report.step.loss)?);
        }
    }

    let (x, labels) = batch(&rules, 1000);
    let (logits, Mean(balance), Sum(used)) = trainer.pipe().predict(&x)?;
    let right = logits.argmax(-1, false).eq_tensor(&labels).to_kind(Kind::Float).mean(Kind::Float);
    println!("right: {:.2}", f64::try_from(right)?);
    println!("balance, of all layers: {:.2}", f64::try_from(&balance)?);
    println!("rows of each expert, of all layers: {:?}", Vec::<i64>::try_from(&used)?);

    // One more step, in both ways, whose last micro-batch is smaller.
    let (few, classes) = batch(&rules, ROWS - 2);
    let train = || Ok(trainer.pipe().train_step(&few, &classes, loss)?.loss);
    let step = Step::pipelined(vars.var_store().variables(), train)?;
    let net = trainer.into_parts().0.into_inner();
    let by_hand = |x| {
        let (logits, balance, used) = twin::forward(&net, x);
        (logits, Mean(balance), Sum(used))
    };
    let plain = Step::plain(vars.var_store().variables(), || loss(&by_hand(&few), &classes))?;
    let (of_logits, Mean(of_balance), Sum(of_used)) = tch::no_grad(|| by_hand(&x));
    let mut pairs = [(logits, of_logits), (balance, of_balance), (used, of_used)].into_iter();
    println!("as by hand: {}", pairs.all(|(found, plain)| is_same(&found, &plain)));
    step.compare(&plain)?;
    Ok(())
}
