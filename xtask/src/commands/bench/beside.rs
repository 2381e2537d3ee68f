//! Measures this checkout beside another one: the cost or gain of a change.

use std::path::Path;

use super::Bench;
use super::build;
use super::contender::Contender;
use super::table::{Row, Table};
use super::work::{GPT, MLP, SMALL_MLP, UNET, Who, Work};
use crate::tools::checkout::Checkout;
use crate::tools::libtorch::{self, Flavour};

const MODES: [&str; 3] = ["never", "except_last", "always"];
const SCHEDULES: [&str; 2] = ["gpipe", "1f1b"];

/// Runs the steps of both in turns. The figure is this checkout's time divided by the other's.
pub fn measure(bench: &Bench<'_>, other: &Path) -> anyhow::Result<Table> {
    let other = Checkout { root: other.to_path_buf() };
    libtorch::set_up(&other, Flavour::Cpu)?;
    let programs = [bench.programs.ours.clone(), build::ours(&other, "ours", &[])?];
    let mut rows = Vec::new();
    for (work, checkpoint) in [MLP, SMALL_MLP, UNET, GPT].into_iter().flat_map(|work| MODES.map(|mode| (work, mode))) {
        for who in [Who::Ours(checkpoint)].into_iter().chain(SCHEDULES.map(Who::OurStep)) {
            eprintln!("  {work}: {who}, {checkpoint}, here and there");
            let times = bench.starts(|| {
                let both = programs.iter().zip(["here", "there"]);
                both.map(|(program, name)| contender(bench, program, name, who, &work, checkpoint)).collect()
            })?;
            rows.push(Row {
                case: match who {
                    Who::Ours(_) => format!("{work}, `forward` and `backward()`, {checkpoint}"),
                    who => format!("{work}, {who}, {checkpoint}"),
                },
                ours: times.text(0),
                theirs: times.text(1),
                figure: times.ratio(0, 1),
                bar: None,
            });
        }
    }
    Ok(Table { ours: "here", theirs: "there", figure: "here / there", rows })
}

fn contender(
    bench: &Bench<'_>,
    program: &Path,
    name: &str,
    who: Who,
    work: &Work,
    checkpoint: &str,
) -> anyhow::Result<Contender> {
    let mut command = bench.command_of(program, who, work)?;
    if let Who::OurStep(_) = who {
        command.args(["--checkpoint", checkpoint]);
    }
    Contender::start(bench.checkout, &format!("{name}, {who}"), command)
}
