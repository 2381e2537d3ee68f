//! `cargo xtask bench`: measures our library and its peers side by side.
//!
//! Each contender is a process that runs steps when asked to. The contenders of a comparison take
//! turns. Their losses and gradients prove that they do the same work.

mod beside;
mod build;
mod contender;
mod curve;
mod duel;
mod figures;
mod memory;
mod page;
mod spread;
mod table;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::tools::checkout::Checkout;
use crate::tools::libtorch::{self, Flavour};
use build::Programs;
use figures::Figure;

#[derive(Debug, Args)]
pub struct Options {
    /// Only the figures that need no peers and little time: dispatch and efficiency
    #[arg(long, conflicts_with = "only")]
    quick: bool,
    /// Only this figure; may be given several times
    #[arg(long, value_name = "FIGURE")]
    only: Vec<Figure>,
    /// Compares with another checkout's library instead of peers, to show what a change costs
    #[arg(long, value_name = "CHECKOUT", conflicts_with_all = ["quick", "only", "write"])]
    beside: Option<PathBuf>,
    /// Number of turns of each contender, with at least one timed step each
    #[arg(long, value_name = "N", default_value = "15", value_parser = clap::value_parser!(u32).range(3..))]
    turns: u32,
    /// Writes the tables into docs/performance.md, and those of memory with their pictures into
    /// docs/memory.md
    #[arg(long)]
    write: bool,
}

pub fn run(checkout: &Checkout, options: &Options) -> anyhow::Result<ExitCode> {
    let libtorch = libtorch::set_up(checkout, Flavour::Cpu)?;
    let programs = Programs::build(checkout, &libtorch)?;
    let bench = Bench { checkout, programs, turns: options.turns as usize };
    if let Some(other) = &options.beside {
        println!("{}", beside::measure(&bench, other)?);
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = match (options.quick, options.only.is_empty()) {
        (true, _) => Figure::QUICK.to_vec(),
        (false, true) => Figure::ALL.to_vec(),
        (false, false) => options.only.clone(),
    };
    let mut tables = Vec::new();
    for figure in chosen {
        eprintln!("{}", figure.title());
        let table = figure.measure(&bench)?;
        println!("{}\n\n{table}", figure.title());
        if options.write {
            page::write(checkout, figure, &table)?;
        }
        tables.push(table);
    }
    let rows = tables.iter().flat_map(|table| &table.rows);
    let (met, missed): (Vec<_>, Vec<_>) = rows.filter_map(|row| row.is_met()).partition(|&met| met);
    println!("{} bars met, {} missed", met.len(), missed.len());
    Ok(ExitCode::SUCCESS)
}

/// The tools with which figures are measured.
#[derive(Debug)]
pub struct Bench<'c> {
    checkout: &'c Checkout,
    programs: Programs,
    turns: usize,
}
