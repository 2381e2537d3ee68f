//! Checks that an optimizer over the stages updates as on the CPU, and that a checkpoint moves
//! between devices.

use std::path::Path;

use anyhow::Result;
use pipe_runtime::optim::{AdamW, Rule, Sgd};
use pipe_runtime::{Checkpoints, Devices, Trainer, pipeline};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

use crate::results::Results;
use crate::speed::{finish, median};
use crate::table::{Table, Verdict};

const WIDTH: i64 = 64;
const STEPS: u64 = 10;
/// The allowed difference of parameters after all steps: devices add in different orders, and AdamW
/// turns that into other updates of small gradients.
const BAR: f64 = 1e-3;

#[pipeline(chunks = 4)]
struct Net {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Linear,
}

struct Training {
    trainer: Trainer<Net>,
    variables: Vec<(String, Tensor)>,
    x: Tensor,
    y: Tensor,
}

impl Training {
    fn new(places: [Device; 2], width: i64, rule: Rule) -> Result<Self> {
        tch::manual_seed(1);
        let vars = Net::vars(&Devices::new(places))?;
        let first = nn::linear(vars.first(), width, width, Default::default());
        let net = Net { first, last: nn::linear(vars.last(), width, width, Default::default()) };
        let variables = vars.select("*")?;
        for (index, (_, variable)) in variables.iter().enumerate() {
            // The same numbers on every device.
            let numbers = Tensor::arange(variable.numel() as i64, (Kind::Float, Device::Cpu)) + index as i64;
            let values = numbers.sin().view(variable.size().as_slice()) / (width as f64).sqrt();
            tch::no_grad(|| variable.shallow_clone().copy_(&values));
        }
        let pipe = net.pipe(&vars).build()?;
        let optimizer = pipe.optimizer(rule).clip_norm(0.5).build()?;
        let x = Tensor::arange(32 * width, (Kind::Float, Device::Cpu)).cos().view([32, width]);
        let (x, y) = (x.to_device(places[0]), x.to_device(places[1]));
        Ok(Self { trainer: Trainer::new(pipe, optimizer)?, variables, x, y })
    }

    fn train(&mut self, steps: u64) -> Result<()> {
        while self.trainer.steps() < steps {
            self.trainer.step(&self.x, &self.y, |output, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean))?;
        }
        Ok(())
    }

    fn values(&self) -> Vec<Tensor> {
        self.variables.iter().map(|(_, variable)| variable.detach().to_device(Device::Cpu)).collect()
    }
}

fn distance(a: &[Tensor], b: &[Tensor]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs().max().double_value(&[])).fold(0., f64::max)
}

/// `adamw` is the file with the times of the same iteration in PyTorch.
pub fn check(gpus: &[Device], measurements: usize, adamw: Option<&Path>, table: &mut Table) -> Result<()> {
    let cpu = Device::Cpu;
    let rules: [(&str, Rule); 2] = [
        ("AdamW", AdamW { lr: 0.01, ..AdamW::default() }.into()),
        ("SGD with momentum", Sgd { lr: 0.01, momentum: 0.9, ..Sgd::default() }.into()),
    ];
    let mut places = vec![[cpu, cpu]];
    if let Some(&a) = gpus.first() {
        let b = gpus.get(1).copied().unwrap_or(a);
        places.extend([[a, b], [cpu, a], [a, cpu]]);
    }
    for (name, rule) in rules {
        let mut on_cpu = Training::new([cpu, cpu], WIDTH, rule)?;
        on_cpu.train(STEPS)?;
        for &places in &places {
            let mut here = Training::new(places, WIDTH, rule)?;
            here.train(STEPS / 2)?;
            // The second half is on the CPU, from a checkpoint of the first half.
            let folder = std::env::temp_dir().join(format!("gpu-check-{}", std::process::id()));
            Checkpoints::in_folder(&folder).save(&here.trainer)?;
            let mut resumed = Training::new([cpu, cpu], WIDTH, rule)?;
            Checkpoints::in_folder(&folder).resume(&mut resumed.trainer)?;
            std::fs::remove_dir_all(&folder)?;
            resumed.train(STEPS)?;
            here.train(STEPS)?;
            let expected = on_cpu.values();
            let worst = distance(&here.values(), &expected).max(distance(&resumed.values(), &expected));
            let verdict = if worst <= BAR { Verdict::Passed } else { Verdict::Failed };
            let name = format!("{}: {name} as on the CPU, and resumed there", Devices::new(places));
            table.add(name, verdict, format!("{STEPS} steps; at most {worst:.1e} apart, {BAR:.0e} allowed"));
        }
    }
    let Some(&gpu) = gpus.first() else {
        table.skip("an iteration with AdamW on a GPU, beside PyTorch's", "there is no GPU");
        return Ok(());
    };
    let mut training = Training::new([gpu, gpu], 1024, AdamW::default().into())?;
    let whole = median(measurements, &[gpu], || {
        training.train(training.trainer.steps() + 1)?;
        Ok(())
    })?;
    let mut hosts = Vec::with_capacity(measurements);
    for _ in 0..measurements {
        finish(gpu);
        let loss = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
        hosts.push(training.trainer.step(&training.x, &training.y, loss)?.update_time.as_secs_f64() * 1e3);
    }
    hosts.sort_by(f64::total_cmp);
    let host = hosts.get(hosts.len() / 2).copied().unwrap_or(f64::NAN);
    let ours = format!(
        "2 × Linear(1024) in two stages on one GPU: {whole:.2} ms, of which the host spends {host:.2} in the update"
    );
    let Some(adamw) = adamw else {
        table.add("an iteration with AdamW on a GPU", Verdict::Measured, ours);
        table.skip(
            "an iteration with AdamW on a GPU, beside PyTorch's",
            "PyTorch has not been measured: `--adamw` names its times",
        );
        return Ok(());
    };
    let theirs = Results::read(adamw)?;
    let (their_whole, their_host) = (theirs.number("iteration_ms")?, theirs.number("update_host_ms")?);
    table.add(
        "an iteration with AdamW on a GPU, beside PyTorch's",
        Verdict::Measured,
        format!("{ours}; PyTorch, with fused AdamW: {their_whole:.2} and {their_host:.2}"),
    );
    Ok(())
}
