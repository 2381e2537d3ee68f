//! What a pipeline costs, and what it gains, measured against libtorch alone.

use std::time::Instant;

use anyhow::Result;
use pipe_runtime::{Checkpoint, Devices, Pipe, PipeBuilder, Pipeline, pipeline};
use tch::nn::{self, ModuleT, Path, SequentialT};
use tch::{Cuda, Device, Kind, Tensor};

use crate::table::{Table, Verdict};

const LAYERS: usize = 24;
const CHUNKS: usize = 4;
/// Largest number of threads for an operator of a CPU stage.
const THREADS: usize = 4;

#[pipeline(allow(single_stage))]
struct One {
    #[device("cpu")]
    body: SequentialT,
}

#[pipeline]
struct Two {
    #[device("cpu")]
    front: SequentialT,
    #[device("cpu")]
    back: SequentialT,
}

/// The size of the model and its input.
#[derive(Clone, Copy)]
struct Size {
    width: i64,
    rows: i64,
}

pub fn check(gpus: &[Device], measurements: usize, table: &mut Table) -> Result<()> {
    let on = gpus.first().copied().unwrap_or(Device::Cpu);
    let size = if on == Device::Cpu { Size { width: 128, rows: 256 } } else { Size { width: 2048, rows: 16384 } };
    let plain = plain(on, size, measurements)?;
    let one = one(on, size, measurements)?;
    let detail = format!("{plain:.2} ms plain, {one:.2} ms as one stage, {CHUNKS} micro-batches each");
    if on == Device::Cpu {
        table.add("one stage: plain / pipelined time", Verdict::Measured, format!("{:.3}; {detail}", plain / one));
        table.skip("two stages on one GPU", "there is no GPU");
        table.skip("copies beside computation", "there is no GPU");
    } else {
        table.at_least("one stage: plain / pipelined time", plain / one, 0.98, detail);
        let two = two([on, on], size, measurements)?;
        let detail = format!("{one:.2} ms as one stage, {two:.2} ms as two on the same GPU");
        table.at_least("two stages on one GPU: one / two", one / two, 0.97, detail);
        overlap(on, measurements, table)?;
    }

    let small = Size { width: 8, rows: CHUNKS as i64 };
    let (alone, staged) = (plain_host(on, small, measurements)?, one_host(on, small, measurements)?);
    let per_op = |ms: f64| ms * 1e3 / (LAYERS * CHUNKS * 6) as f64;
    let detail = format!(
        "{:.2} µs per operator plain, {:.2} as one stage (two operators forward and four backward per layer)",
        per_op(alone),
        per_op(staged)
    );
    table.add("host time to launch", Verdict::Measured, detail);
    Ok(())
}

/// Measures a CPU stage and a GPU stage: do the copies between them and the GPU's work overlap with
/// the CPU's work?
fn overlap(gpu: Device, measurements: usize, table: &mut Table) -> Result<()> {
    let size = Size { width: 512, rows: 2048 };
    let half = |on| median(measurements, &[on], one_step(on, size, LAYERS / 2)?);
    let (cpu, alone) = (half(Device::Cpu)?, half(gpu)?);
    let both = two([Device::Cpu, gpu], size, measurements)?;
    let detail = format!("{cpu:.2} ms the CPU's half alone, {alone:.2} the GPU's, {both:.2} both as a pipeline");
    table.add(
        "CPU and GPU stages: longer half / whole",
        Verdict::Measured,
        format!("{:.3}; {detail}", cpu.max(alone) / both),
    );
    Ok(())
}

fn chain(path: &Path<'_>, layers: usize, width: i64) -> SequentialT {
    (0..layers).fold(nn::seq_t(), |chain, layer| {
        chain.add(nn::linear(path / layer, width, width, Default::default())).add_fn(Tensor::tanh)
    })
}

fn input(on: Device, size: Size) -> Tensor {
    Tensor::randn([size.rows, size.width], (Kind::Float, on))
}

fn loss(output: &Tensor) -> Tensor {
    output.square().mean(Kind::Float)
}

/// A step of plain libtorch, over the same micro-batches.
fn plain_step(on: Device, size: Size) -> impl FnMut() -> Result<()> {
    let vars = nn::VarStore::new(on);
    let body = chain(&vars.root(), LAYERS, size.width);
    let x = input(on, size);
    move || {
        for part in x.chunk(CHUNKS as i64, 0) {
            (loss(&body.forward_t(&part, true)) / CHUNKS as f64).backward();
        }
        clear(&vars.trainable_variables());
        Ok(())
    }
}

fn one_step(on: Device, size: Size, layers: usize) -> Result<impl FnMut() -> Result<()>> {
    let vars = One::vars(&Devices::new([on]))?;
    let body = chain(&vars.body(), layers, size.width);
    let pipe = settle(One { body }.pipe(&vars)).build()?;
    let (x, parameters) = (input(on, size), vars.var_store().trainable_variables());
    Ok(pipe_step(pipe, x, parameters))
}

/// Sets what all pipelines have in common, so that they can be compared. A CPU stage has the same
/// number of threads, whatever runs beside it.
fn settle<M: Pipeline>(builder: PipeBuilder<'_, M>) -> PipeBuilder<'_, M> {
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1).clamp(1, THREADS);
    builder.chunks(CHUNKS).checkpoint(Checkpoint::Never).intra_op_threads(threads)
}

fn pipe_step<M>(mut pipe: Pipe<M>, x: Tensor, parameters: Vec<Tensor>) -> impl FnMut() -> Result<()>
where
    M: Pipeline<Input = Tensor, Output = Tensor>,
{
    move || {
        pipe.train_step(&x, (), |output: &Tensor, (): &()| loss(output))?;
        clear(&parameters);
        Ok(())
    }
}

/// Zeroes the gradients, as between the steps of an optimizer.
fn clear(parameters: &[Tensor]) {
    for parameter in parameters {
        parameter.shallow_clone().zero_grad();
    }
}

fn plain(on: Device, size: Size, measurements: usize) -> Result<f64> {
    median(measurements, &[on], plain_step(on, size))
}

fn one(on: Device, size: Size, measurements: usize) -> Result<f64> {
    median(measurements, &[on], one_step(on, size, LAYERS)?)
}

fn plain_host(on: Device, size: Size, measurements: usize) -> Result<f64> {
    median(measurements, &[], plain_step(on, size))
}

fn one_host(on: Device, size: Size, measurements: usize) -> Result<f64> {
    median(measurements, &[], one_step(on, size, LAYERS)?)
}

fn two(places: [Device; 2], size: Size, measurements: usize) -> Result<f64> {
    let vars = Two::vars(&Devices::new(places))?;
    let model =
        Two { front: chain(&vars.front(), LAYERS / 2, size.width), back: chain(&vars.back(), LAYERS / 2, size.width) };
    let pipe = settle(model.pipe(&vars)).build()?;
    median(measurements, &places, pipe_step(pipe, input(places[0], size), vars.var_store().trainable_variables()))
}

/// The median time of a step in milliseconds, including the devices' work. The first three steps
/// are not counted.
pub fn median(measurements: usize, devices: &[Device], mut step: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::with_capacity(measurements);
    for number in 0..measurements + 3 {
        let start = Instant::now();
        step()?;
        devices.iter().for_each(|&device| finish(device));
        if number >= 3 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times.get(times.len() / 2).copied().unwrap_or(f64::NAN))
}

/// Waits until a device has finished all its work.
pub fn finish(device: Device) {
    if let Device::Cuda(index) = device {
        Cuda::synchronize(index as i64);
    }
}
