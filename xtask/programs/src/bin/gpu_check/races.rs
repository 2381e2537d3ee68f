//! Checks that a step gives the same numbers for any interleaving of its device streams.

use anyhow::Result;
use pipe_runtime::{Checkpoint, Devices, ScheduleKind};
use tch::Device;

use crate::small::{self, Setup};
use crate::table::{Table, Verdict};
use crate::transparency::placements;

/// Kernels may add in another order in each run. The values that a race reads differ by far more.
const BAR: f64 = 1e-4;

pub fn check(gpus: &[Device], repetitions: usize, table: &mut Table) -> Result<()> {
    if gpus.is_empty() {
        table.skip("races", "streams are a GPU's");
        return Ok(());
    }
    for places in placements(gpus) {
        for mode in [Checkpoint::Always, Checkpoint::Never] {
            let setup = Setup::new(places, mode, ScheduleKind::GPipe);
            let Some(expected) = small::pipelined(setup)? else { continue };
            let rough = Setup { rough: true, ..setup };
            let (model, vars) = small::make(rough)?;
            let mut pipe = model.pipe(&vars).checkpoint(mode).build()?;
            let mut worst = 0_f64;
            for _ in 0..repetitions {
                worst = worst.max(small::distance(&small::step(&mut pipe, &vars, rough)?, &expected));
            }
            let verdict = if worst <= BAR { Verdict::Passed } else { Verdict::Failed };
            let name = format!("{}: no race, {mode}", Devices::new(places));
            table.add(
                name,
                verdict,
                format!("{repetitions} steps with random delays and poisoned memory; at most {worst:.1e} apart"),
            );
        }
    }
    Ok(())
}
