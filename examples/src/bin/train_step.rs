//! Runs a training step under several schedules, and with a loss that is not a mean over rows.
//!
//! `cargo run -p pipe-examples --bin train_step`

use pipe_runtime::{Checkpoint, Devices, Reduction, ScheduleKind, pipeline};
use tch::nn::{self, Linear, OptimizerConfig};
use tch::{Device, Kind, Tensor};

#[pipeline(chunks = 8)]
struct Net {
    #[device("cpu")]
    one: Linear,
    #[device("cpu")]
    two: Linear,
    #[device("cpu")]
    three: Linear,
    #[device("cpu")]
    four: Linear,
}

impl Net {
    fn new(vars: &NetVars) -> Self {
        let linear = |path, outputs| nn::linear(path, 16, outputs, Default::default());
        Self {
            one: linear(vars.one(), 16),
            two: linear(vars.two(), 16),
            three: linear(vars.three(), 16),
            four: linear(vars.four(), 4),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let x = Tensor::rand([64, 16], (Kind::Float, Device::Cpu));
    let labels = Tensor::randint(4, [64], (Kind::Int64, Device::Cpu));

    for kind in [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1, ScheduleKind::Zbv] {
        tch::manual_seed(1);
        let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
        let pipe = Net::new(&vars).pipe(&vars).schedule(kind);
        let mut pipe = pipe.checkpoint(Checkpoint::Never).build()?;
        let loss = |logits: &Tensor, y: &Tensor| logits.cross_entropy_for_logits(y);
        let report = pipe.train_step(&x, &labels, loss)?;
        let in_flight: Vec<usize> = report.stages.iter().map(|stage| stage.peak_in_flight).collect();
        println!("{kind}: loss {:.4}, in flight {in_flight:?}", f64::try_from(report.loss)?);
    }

    // Rows with the label -1 are ignored, so the loss is a mean over the other rows.
    let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
    let mut pipe = Net::new(&vars).pipe(&vars).schedule(ScheduleKind::OneFOneB).build()?;
    let mut optimizer = nn::Adam::default().build(vars.var_store(), 1e-2)?;
    let labels = labels.masked_fill(&x.select(1, 0).lt(0.3), -1);
    let counted = |y: &Tensor| y.ne(-1).sum(Kind::Int64).int64_value(&[]) as f64;
    let loss = |logits: &Tensor, y: &Tensor| logits.cross_entropy_loss::<Tensor>(y, None, tch::Reduction::Mean, -1, 0.);
    for step in 0..3 {
        let report = pipe.step().reduction(Reduction::Weighted(&counted)).run(&x, &labels, loss)?;
        optimizer.step();
        optimizer.zero_grad();
        println!("step {step}: loss {:.4}", f64::try_from(report.loss)?);
    }
    Ok(())
}
