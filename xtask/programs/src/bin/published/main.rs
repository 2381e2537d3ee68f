//! Measures the models of torchgpipe's benchmarks, simulates their steps on 2, 4 and 8 devices as
//! torchgpipe ran them, and finds cuts and schedules with which they would be faster. These are the
//! tables of "Published models" in `docs/performance.md`.
//!
//! `cargo xtask published` prints the tables; with `--write` it puts them into the page. The layers
//! are measured on this machine's CPU.

#![forbid(unsafe_code)]

mod amoebanet;
mod benchmark;
mod resnet;
mod simulation;
mod table;
mod unet;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pipe_runtime::balance::Balance;
use pipe_runtime::{Devices, Layer, Pipeline, Vars};
use tch::{Device, Kind, Tensor};

use crate::amoebanet::AmoebaNetD;
use crate::benchmark::{AMOEBANET, Benchmark, RESNET, UNET};
use crate::resnet::ResNet;
use crate::simulation::Measured;
use crate::table::{Part, Tables};
use crate::unet::UNet;

/// Measures the models of torchgpipe's benchmarks, and simulates their steps
#[derive(Debug, Parser)]
struct Args {
    /// Takes small models and images, and few micro-batches: to see that all of it works
    #[arg(long, conflicts_with = "write")]
    small: bool,
    /// Writes the tables into docs/performance.md
    #[arg(long)]
    write: bool,
    /// Images of the micro-batch that is measured
    #[arg(long, default_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    rows: u16,
    /// Seconds for which each model is measured; at least three passes are
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How often each model is measured; the fastest measurement counts. On a machine that does
    /// something else, take several
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("published: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    pipe_runtime::keep_freed_memory();
    // A simulated device is a core.
    tch::set_num_threads(1);
    tch::manual_seed(1);
    let mut text = parameters(args.small)?;
    print!("{text}");
    for measure in [amoebanet, resnet, unet] {
        let tables = measure(args)?.to_string();
        println!("\n{tables}");
        text += &format!("\n{tables}");
    }
    if args.write {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/performance.md");
        let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let page = table::replaced(&page, &text).context("docs/performance.md has no place for the tables")?;
        fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Compares the numbers of parameters with the published ones, in millions. Those of
/// AmoebaNet-D (18, 256) and U-Net (5, 64) are not published, but those of their siblings in the
/// benchmarks of memory are. That of ResNet-101 is torchvision's.
fn parameters(small: bool) -> Result<String> {
    let mut rows = Vec::new();
    let mut compare = |name: &str, count: i64, published: &str| -> Result<()> {
        let millions = format!("{:.1}M", count as f64 / 1e6);
        ensure!(millions == published, "{name} has {count} parameters, where {published} are published");
        rows.push(vec![name.to_owned(), count.to_string(), published.to_owned()]);
        Ok(())
    };
    compare("AmoebaNet-D (18, 208)", trained(&AmoebaNetD::make(18, 208)?.1), "81.5M")?;
    compare("ResNet-101", trained(&ResNet::make([3, 4, 23, 3])?.1), "44.5M")?;
    // These take more than a gigabyte.
    if !small {
        compare("AmoebaNet-D (18, 416)", trained(&AmoebaNetD::make(18, 416)?.1), "319.0M")?;
        compare("U-Net (6, 72)", trained(&UNet::make(6, 72)?.1), "362.2M")?;
    }
    Ok(table::markdown(&["model", "parameters", "published"], &rows))
}

fn trained(vars: &Vars) -> i64 {
    vars.var_store().trainable_variables().iter().map(|variable| variable.numel() as i64).sum()
}

fn amoebanet(args: &Args) -> Result<Tables> {
    let (cells, filters) = if args.small { (3, 16) } else { (18, 256) };
    let measured = {
        let (model, vars) = AmoebaNetD::make(cells, filters)?;
        measure(&model, &vars, &AMOEBANET, args)?
    };
    let each = cells / 3;
    let parts = [("image", 1), ("shrink1", 2), ("cells1", each), ("shrink2", 1), ("cells2", each), ("shrink3", 1)];
    let parts = Part::all(parts.into_iter().chain([("cells3", each), ("classify", 1)]));
    let modules = vec![1; cells + 6];
    Tables::new(&AMOEBANET, &measured, &modules, parts, args.small)
}

fn resnet(args: &Args) -> Result<Tables> {
    let blocks = if args.small { [1, 1, 1, 1] } else { [3, 4, 23, 3] };
    let measured = {
        let (model, vars) = ResNet::make(blocks)?;
        measure(&model, &vars, &RESNET, args)?
    };
    let modules = ResNet::modules(blocks);
    let [one, two, three, four] = blocks.map(|blocks| 4 * blocks);
    let parts = [("stem", 1), ("group 1", one), ("group 2", two), ("group 3", three), ("group 4", four), ("head", 1)];
    Tables::new(&RESNET, &measured, &modules, Part::all(parts), args.small)
}

fn unet(args: &Args) -> Result<Tables> {
    let (convs, channels) = if args.small { (1, 4) } else { (5, 64) };
    let measured = {
        let (model, vars) = UNet::make(convs, channels)?;
        measure(&model, &vars, &UNET, args)?
    };
    let modules = UNet::modules(convs);
    let level = convs + 2;
    let down = ["down 0", "down 1", "down 2", "down 3", "down 4"].map(|name| (name, level));
    let up = ["up 4", "up 3", "up 2", "up 1", "up 0"].map(|name| (name, level));
    let parts = down.into_iter().chain([("bottom", convs)]).chain(up).chain([("segment", 1)]);
    Tables::new(&UNET, &measured, &modules, Part::all(parts), args.small)
}

/// Measures the layers of a model, whose variables are on the CPU.
fn measure<M>(model: &M, vars: &Vars, benchmark: &Benchmark, args: &Args) -> Result<Measured>
where
    M: Pipeline<Input = Tensor> + Layer<Tensor, Out = M::Output>,
{
    let rows = usize::from(args.rows);
    let pixels = if args.small { 64 } else { benchmark.pixels };
    eprintln!("{}: {rows} images of {pixels} × {pixels}", benchmark.name);
    let images = Tensor::rand([rows as i64, 3, pixels, pixels], (Kind::Float, Device::Cpu));
    // Devices with memory of their own, as torchgpipe's were. They are not used.
    let devices = Devices::new([Device::Cuda(0)]);
    let timeout = Duration::from_secs(if args.small { 0 } else { args.seconds });
    let mut all = Vec::new();
    for _ in 0..args.rounds {
        let balance = Balance::of(model, vars).chunks(1).devices(&devices).timeout(timeout);
        all.push(Measured { layers: balance.costs(&images)?, rows });
    }
    let throughput = |measured: &Measured| measured.unpipelined();
    all.into_iter().max_by(|a, b| throughput(a).total_cmp(&throughput(b))).context("a model is measured at least once")
}
