//! What ran when, for Perfetto.

use std::path::Path;

use anyhow::{Context, Result};
use pipe_runtime::{Checkpoint, Method};
use tch::Device;

use crate::small::{self, Way};
use crate::table::{Table, Verdict};
use crate::transparency::placements;

/// Records a few steps over the machine's devices, or over the CPU.
pub fn write(gpus: &[Device], file: &Path, table: &mut Table) -> Result<()> {
    let places = placements(gpus).pop().context("there is always a placement")?;
    // A GPU that has more stages than the CPU has allows only this schedule.
    let way = Way { dropout: true, ..Way::new(places, Checkpoint::Never, Method::GPipe) };
    let (model, vars) = small::make(way)?;
    let mut pipe = model.pipe(&vars).checkpoint(way.mode).schedule(way.method).build()?;
    for _ in 0..3 {
        small::step(&mut pipe, &vars, way)?;
    }
    pipe.start_trace();
    for _ in 0..3 {
        small::step(&mut pipe, &vars, way)?;
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
