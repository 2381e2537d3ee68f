//! Records when each action ran, for Perfetto.

use std::path::Path;

use anyhow::{Context, Result};
use pipe_runtime::{Checkpoint, ScheduleKind};
use tch::Device;

use crate::small::{self, Setup};
use crate::table::{Table, Verdict};
use crate::transparency::placements;

/// Records a few steps over the machine's devices, or over the CPU.
pub fn write(gpus: &[Device], file: &Path, table: &mut Table) -> Result<()> {
    let places = placements(gpus).pop().context("there is always a placement")?;
    // Only this schedule is possible if a GPU has more stages than the CPU has.
    let setup = Setup { dropout: true, ..Setup::new(places, Checkpoint::Never, ScheduleKind::GPipe) };
    let (model, vars) = small::make(setup)?;
    let mut pipe = model.pipe(&vars).checkpoint(setup.mode).schedule(setup.method).build()?;
    for _ in 0..3 {
        small::step(&mut pipe, &vars, setup)?;
    }
    pipe.start_trace();
    for _ in 0..3 {
        small::step(&mut pipe, &vars, setup)?;
    }
    let trace = pipe.stop_trace()?;
    std::fs::write(file, trace.to_chrome()).with_context(|| format!("cannot write {}", file.display()))?;
    let steps = trace.runs().len();
    table.add(
        "timeline",
        Verdict::Measured,
        format!("{steps} steps in {}: open it in https://ui.perfetto.dev", file.display()),
    );
    Ok(())
}
