//! Trains with an optimizer over the stages, stops, and goes on from a checkpoint in a model with
//! other stages: to the same numbers.
//!
//! `cargo run -p pipe-examples --bin resume`

use pipe_runtime::optim::{AdamW, Group, LrSchedule};
use pipe_runtime::{Checkpoints, Devices, Pipe, Pipeline, Result, Trainer, pipeline};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

#[pipeline(chunks = 4, schedule = "1f1b")]
struct Two {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    second: Linear,
    last: Linear,
}

/// The same layers in three stages.
#[pipeline(chunks = 4, schedule = "1f1b")]
struct Three {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    second: Linear,
    #[device("cpu")]
    last: Linear,
}

macro_rules! model {
    ($name:ident) => {{
        let vars = $name::vars(&Devices::cpu($name::STAGES))?;
        let net = $name {
            first: nn::linear(vars.first(), 8, 16, Default::default()),
            second: nn::linear(vars.second(), 16, 16, Default::default()),
            last: nn::linear(vars.last(), 16, 1, Default::default()),
        };
        net.pipe(&vars).build()?
    }};
}

fn trainer<M: Pipeline>(pipe: Pipe<M>) -> Result<Trainer<M>> {
    let optimizer = pipe
        .optimizer(AdamW { lr: 1e-2, ..AdamW::default() })
        .group(Group::biases_and_norms().weight_decay(0.))
        .clip_norm(1.)
        .lr_schedule(LrSchedule::cosine(30, 0.1).warmup(5))
        .build()?;
    Trainer::new(pipe, optimizer)
}

/// Trains up to a step, and prints the last one.
fn train<M: Pipeline<Input = Tensor, Output = Tensor>>(trainer: &mut Trainer<M>, steps: u64) -> Result<f64> {
    let mut loss = f64::NAN;
    while trainer.steps() < steps {
        // Numbers that depend on the step alone stand for a data loader.
        let x = (Tensor::arange(256, (Kind::Float, Device::Cpu)) + trainer.steps() as i64).sin().view([32, 8]);
        let y = x.sum_dim_intlist(1, true, Kind::Float);
        let report = trainer.step(&x, &y, |output, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean))?;
        loss = report.step.loss.double_value(&[]);
    }
    println!("step {steps}: loss {loss:.6}");
    Ok(loss)
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    tch::manual_seed(1);
    let folder = std::env::temp_dir().join(format!("resume-{}", std::process::id()));
    let mut checkpoints = Checkpoints::in_folder(&folder).keep(2);

    let mut trainer_of_two = trainer(model!(Two))?;
    train(&mut trainer_of_two, 20)?;
    checkpoints.save(&trainer_of_two)?;
    let expected = train(&mut trainer_of_two, 40)?;

    let mut trainer_of_three = trainer(model!(Three))?;
    checkpoints.resume(&mut trainer_of_three)?;
    println!("resumed after step {} in {} stages", trainer_of_three.steps(), Three::STAGES);
    let found = train(&mut trainer_of_three, 40)?;
    println!("the same loss, to the bit: {}", found.to_bits() == expected.to_bits());
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
