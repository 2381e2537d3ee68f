//! Checks the memory of a pipeline on a GPU: checkpointing reduces it, and it does not grow from
//! step to step.

use anyhow::Result;
use pipe_runtime::{Checkpoint, Devices, ScheduleKind, pipeline};
use tch::nn::{self, SequentialT};
use tch::{Device, Kind, Tensor};

use crate::small::{self, STAGES, Setup};
use crate::table::{Table, Verdict};

const WIDTH: i64 = 1024;
const LAYERS: usize = 16;
const ROWS: i64 = 8192;

/// A chain whose activations take more memory than its parameters.
#[pipeline(chunks = 8, allow(single_stage))]
struct Chain {
    #[device("cpu")]
    body: SequentialT,
}

pub fn check(gpus: &[Device], steps: usize, table: &mut Table) -> Result<()> {
    let Some(&gpu) = gpus.first() else {
        for name in ["memory with checkpointing", "no leak"] {
            table.skip(name, "the CPU's allocator keeps no count");
        }
        return Ok(());
    };
    let always = peak(gpu, Checkpoint::Always)?;
    let never = peak(gpu, Checkpoint::Never)?;
    let verdict = if always * 2. < never { Verdict::Passed } else { Verdict::Failed };
    let detail = format!("{always:.0} MiB at most with always, {never:.0} with never; half or less is wanted");
    table.add("memory with checkpointing", verdict, detail);
    leak(gpu, steps, table)
}

/// The peak memory in MiB, beyond that of parameters and gradients.
fn peak(gpu: Device, mode: Checkpoint) -> Result<f64> {
    let vars = Chain::vars(&Devices::new([gpu]))?;
    let mut body = nn::seq_t();
    for layer in 0..LAYERS {
        body = body.add(nn::linear(vars.body() / layer, WIDTH, WIDTH, Default::default())).add_fn(Tensor::tanh);
    }
    let mut pipe = Chain { body }.pipe(&vars).checkpoint(mode).build()?;
    let x = Tensor::randn([ROWS, WIDTH], (Kind::Float, gpu));
    pipe.train_step(&x, (), |output, (): &()| output.square().mean(Kind::Float))?;
    let report = pipe.memory()?.devices;
    let before = report.first().map_or(0, |memory| memory.allocated);
    pipe.reset_peaks()?;
    pipe.train_step(&x, (), |output, (): &()| output.square().mean(Kind::Float))?;
    let after = pipe.memory()?.devices.first().map_or(0, |memory| memory.peak_allocated);
    Ok(after.saturating_sub(before) as f64 / f64::from(1 << 20))
}

fn leak(gpu: Device, steps: usize, table: &mut Table) -> Result<()> {
    let setup = Setup { dropout: true, ..Setup::new([gpu; STAGES], Checkpoint::ExceptLast, ScheduleKind::GPipe) };
    let (model, vars) = small::make(setup)?;
    let mut pipe = model.pipe(&vars).checkpoint(setup.mode).build()?;
    let mut allocated = Vec::with_capacity(steps);
    for _ in 0..steps {
        small::step(&mut pipe, &vars, setup)?;
        allocated.push(pipe.memory()?.devices.first().map_or(0, |memory| memory.allocated));
    }
    // During the first steps, libtorch still allocates its own memory.
    let settled = steps / 10;
    let verdict = match (allocated.get(settled), allocated.last()) {
        (Some(early), Some(late)) if late <= early => Verdict::Passed,
        _ => Verdict::Failed,
    };
    let bytes = |at: Option<&u64>| at.map_or_else(|| "?".into(), u64::to_string);
    let (early, late) = (bytes(allocated.get(settled)), bytes(allocated.last()));
    table.add("no leak", verdict, format!("{early} bytes in use after {settled} steps, {late} after {steps}"));
    Ok(())
}
