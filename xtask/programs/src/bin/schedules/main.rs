//! Measures every schedule on one model, and compares it with the simulation of the measured costs.
//! This is the second table of `docs/schedules.md`.
//!
//! `cargo run --release -p pipe-programs --bin schedules` prints the table; `-- --write` writes it
//! to the page. The numbers are those of the machine on which it runs.

#![forbid(unsafe_code)]

mod model;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context, Result};
use clap::Parser;
use pipe_runtime::{Pipe, Pipeline, ScheduleKind, Trace};
use tch::{Device, Kind, Tensor};

use crate::model::{Four, Two, WIDTH};
use crate::table::Row;

/// Measures every schedule on one model
#[derive(Debug, Parser)]
struct Args {
    /// Writes the table to docs/schedules.md
    #[arg(long)]
    write: bool,
    /// Number of recorded steps per schedule
    #[arg(long, default_value = "15", value_parser = clap::value_parser!(u16).range(1..))]
    steps: u16,
    /// Number of rows of a mini-batch
    #[arg(long, default_value = "512", value_parser = clap::value_parser!(i64).range(8..))]
    batch: i64,
}

/// The number of ranks, which is the same for all schedules, like the number of micro-batches.
pub const RANKS: usize = 2;
pub const MICRO_BATCHES: usize = 8;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("schedules: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    tch::set_num_threads(1);
    tch::manual_seed(1);
    let rows = ScheduleKind::ALL.into_iter().map(|method| measure(method, args)).collect::<Result<Vec<_>>>()?;
    let table = table::table(&rows);
    print!("{table}");
    if args.write {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/schedules.md");
        let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let page = table::replaced(&page, &table).context("docs/schedules.md has no place for the measured table")?;
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Measures a schedule. The model has two stages per rank, or one if the schedule needs that: the
/// same layers, cut in fewer places.
fn measure(method: ScheduleKind, args: &Args) -> Result<Row> {
    match method.stages_per_rank() {
        Some(1) => {
            let vars = Two::vars(&Two::devices())?;
            let pipe =
                Two::new(&vars).pipe(&vars).schedule(method).ranks(RANKS).chunks(MICRO_BATCHES).intra_op_threads(1);
            trace(pipe.build()?, method, args)
        }
        _ => {
            let vars = Four::vars(&Four::devices())?;
            let pipe =
                Four::new(&vars).pipe(&vars).schedule(method).ranks(RANKS).chunks(MICRO_BATCHES).intra_op_threads(1);
            trace(pipe.build()?, method, args)
        }
    }
}

fn trace<M: Pipeline<Input = Tensor, Output = Tensor>>(
    mut pipe: Pipe<M>,
    method: ScheduleKind,
    args: &Args,
) -> Result<Row> {
    let x = Tensor::randn([args.batch, WIDTH], (Kind::Float, Device::Cpu));
    let step = |pipe: &mut Pipe<M>| pipe.train_step(&x, &x, |y, x: &Tensor| y.mse_loss(x, tch::Reduction::Mean));
    for _ in 0..3 {
        step(&mut pipe)?;
    }
    pipe.start_trace();
    let mut peaks = vec![0; M::PLAN.stages.len()];
    for _ in 0..args.steps {
        let report = step(&mut pipe)?;
        peaks.iter_mut().zip(&report.stages).for_each(|(most, stage)| *most = stage.peak_in_flight.max(*most));
    }
    let trace: Trace = pipe.stop_trace()?;
    Row::new(method, &trace, &peaks)
}
