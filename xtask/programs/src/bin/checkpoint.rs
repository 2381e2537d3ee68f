//! Measures saving and loading for `cargo xtask bench --only checkpoint`: each beside what the same
//! bytes take without this library, turn by turn. Prints a line of `name=number` for each turn, in
//! seconds and bytes.
//!
//! The model is a stack of linear layers with AdamW, so that a checkpoint has three numbers per
//! parameter.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pipe_runtime::optim::AdamW;
use pipe_runtime::{Checkpoints, Devices, Trainer, pipeline};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

/// Measures saving and loading of a checkpoint
#[derive(Debug, Parser)]
struct Args {
    /// Bytes of the checkpoint
    #[arg(long, default_value = "2147483648")]
    bytes: u64,
    /// Number of turns
    #[arg(long, default_value = "5")]
    turns: usize,
    /// Folder for the files
    folder: PathBuf,
}

#[pipeline]
struct Net {
    #[devices("cpu", "cpu")]
    blocks: [Linear; 8],
}

/// The size of the blocks of plain reading and writing.
const BLOCK: usize = 1 << 20;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("checkpoint: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    // 8 layers, of which each number has two more in the optimizer, of 4 bytes each.
    let width = ((args.bytes / (8 * 3 * 4)) as f64).sqrt() as i64;
    let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
    let net = Net { blocks: vars.blocks().map(|path| nn::linear(path, width, width, Default::default())) };
    let pipe = net.pipe(&vars).build()?;
    let optimizer = pipe.optimizer(AdamW::default()).build()?;
    let mut trainer = Trainer::new(pipe, optimizer)?;
    let x = Tensor::ones([2, width], (Kind::Float, Device::Cpu));
    trainer.step(&x, &x, |output, x: &Tensor| output.mse_loss(x, tch::Reduction::Mean))?;
    let state: Vec<Tensor> = vars.var_store().variables().into_values().collect();

    fs::create_dir_all(&args.folder)?;
    let (ours, plain) = (args.folder.join("ours"), args.folder.join("plain"));
    let checkpoint = Checkpoints::in_folder(&ours).save(&trainer)?;
    let bytes = files(&checkpoint)?.iter().map(|file| Ok(fs::metadata(file)?.len())).sum::<Result<u64>>()?;
    let mut again = Checkpoints::in_folder(&ours).keep(1);
    again.save_in_background(&trainer)?;
    again.finish()?;
    let mut copies: Vec<Tensor> = triple(&state).map(Tensor::empty_like).collect();
    for turn in 0..args.turns {
        let checkpoint = again.latest()?.context("there is a checkpoint")?;
        let read_blocks = timed(|| read_blocks(&checkpoint))?.0;
        let (load, load_memory) = measured(|| Ok(Checkpoints::resume_from(&checkpoint, &mut trainer)?))?;

        wait_for_the_disk()?;
        let write_blocks = timed(|| write_blocks(&plain, bytes))?.0;
        fs::remove_file(&plain)?;
        wait_for_the_disk()?;
        let (save, save_memory) =
            measured(|| Checkpoints::in_folder(&ours).save(&trainer).map(drop).map_err(Into::into))?;

        // What comes second may find the machine in another state, so the sides change places.
        let copy_then_pause = |checkpoints: &mut Checkpoints, copy: &mut dyn FnMut() -> Result<()>| {
            let mut times = [0.; 2];
            for place in [turn % 2, 1 - turn % 2] {
                times[place] = match place {
                    0 => timed(&mut *copy)?.0,
                    _ => timed(|| Ok(checkpoints.save_in_background(&trainer)?))?.0,
                };
                checkpoints.finish()?;
            }
            anyhow::Ok(times)
        };
        let mut fresh = Checkpoints::in_folder(&ours).keep(1);
        let [copy_fresh, pause_fresh] = copy_then_pause(&mut fresh, &mut || {
            drop(triple(&state).map(copied).collect::<Vec<_>>());
            Ok(())
        })?;
        drop(fresh);
        let [copy_again, pause_again] = copy_then_pause(&mut again, &mut || {
            for (copy, tensor) in copies.iter_mut().zip(triple(&state)) {
                copy.copy_(&tensor.detach());
            }
            Ok(())
        })?;
        println!(
            "bytes={bytes} read_blocks={read_blocks} load={load} load_memory={load_memory} \
             write_blocks={write_blocks} save={save} save_memory={save_memory} \
             copy_fresh={copy_fresh} pause_fresh={pause_fresh} copy_again={copy_again} pause_again={pause_again}"
        );
    }
    fs::remove_dir_all(&args.folder)?;
    Ok(())
}

/// Waits until the disk has all that was written and removed before, which a sync would wait for.
fn wait_for_the_disk() -> Result<()> {
    let status = Command::new("sync").status().context("cannot start `sync`")?;
    ensure!(status.success(), "`sync` has failed");
    Ok(())
}

/// The variables, and twice more for the optimizer's tensors of the same sizes.
fn triple(state: &[Tensor]) -> impl Iterator<Item = &Tensor> {
    state.iter().chain(state).chain(state)
}

fn copied(tensor: &Tensor) -> Tensor {
    let mut copy = tensor.detach().empty_like();
    copy.copy_(&tensor.detach());
    copy
}

/// Runs `work`. Returns its seconds and its result.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let start = Instant::now();
    let result = work()?;
    Ok((start.elapsed().as_secs_f64(), result))
}

/// Runs `work`. Returns its seconds, and the bytes by which the process's memory grew meanwhile, at
/// the peak.
fn measured(work: impl FnOnce() -> Result<()>) -> Result<(f64, u64)> {
    // Restarts the peak from the present size.
    fs::write("/proc/self/clear_refs", "5")?;
    let before = memory("VmRSS:")?;
    let seconds = timed(work)?.0;
    Ok((seconds, memory("VmHWM:")?.saturating_sub(before)))
}

fn memory(what: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(what)).context("the system counts memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn read_blocks(folder: &Path) -> Result<()> {
    let mut block = vec![0; BLOCK];
    for file in files(folder)? {
        let mut file = File::open(file)?;
        while file.read(&mut block)? > 0 {}
    }
    Ok(())
}

fn write_blocks(file: &Path, bytes: u64) -> Result<()> {
    let block = vec![1; BLOCK];
    let mut file = File::create(file)?;
    let mut rest = bytes;
    while rest > 0 {
        let length = rest.min(BLOCK as u64);
        file.write_all(&block[..length as usize])?;
        rest -= length;
    }
    Ok(file.sync_all()?)
}
