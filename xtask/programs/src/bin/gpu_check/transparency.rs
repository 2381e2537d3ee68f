//! Checks that a pipelined step gives the numbers of the plain model.

use anyhow::Result;
use pipe_runtime::{Checkpoint, Devices, ScheduleKind};
use tch::Device;

use crate::small::{self, STAGES, Setup};
use crate::table::{Table, Verdict};

pub const MODES: [Checkpoint; 3] = [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never];

/// The allowed difference between kinds of devices, which add in different orders.
const ACROSS: f64 = 1e-4;
/// The allowed difference on one kind of device.
const WITHIN: f64 = 1e-5;
/// The allowed difference in half precision, which has 11 bits.
const HALVES: f64 = 1e-2;

/// The placements of the four stages: on one device, on two, back and forth, and beside the CPU.
pub fn placements(gpus: &[Device]) -> Vec<[Device; STAGES]> {
    let cpu = Device::Cpu;
    let Some(&a) = gpus.first() else { return vec![[cpu; STAGES]] };
    let mut places = vec![[a; STAGES], [cpu, a, cpu, a], [a, cpu, a, cpu], [a, a, cpu, cpu]];
    if let Some(&b) = gpus.get(1) {
        places.extend([[a, a, b, b], [a, b, a, b], [a, b, b, a], [cpu, a, cpu, b]]);
    }
    places
}

pub fn check(gpus: &[Device], table: &mut Table) -> Result<()> {
    for places in placements(gpus) {
        let plain = |mode, method| Setup::new(places, mode, method);
        let name = Devices::new(places).to_string();
        let on_cpu = small::unpipelined(Setup::new([Device::Cpu; STAGES], Checkpoint::Never, ScheduleKind::GPipe))?;
        report(table, format!("{name}: as unpipelined on the CPU"), ACROSS, &on_cpu, plain)?;
        // The CPU and a GPU have different masks, and different results in half precision.
        if places.iter().any(|&place| place != places[0]) {
            continue;
        }
        let dropout = |mode, method| Setup { dropout: true, ..plain(mode, method) };
        let here = small::unpipelined(dropout(Checkpoint::Never, ScheduleKind::GPipe))?;
        report(table, format!("{name}: as unpipelined there, with dropout"), WITHIN, &here, dropout)?;
        if !gpus.is_empty() {
            let autocast = |mode, method| Setup { autocast: true, ..plain(mode, method) };
            let here = small::unpipelined(autocast(Checkpoint::Never, ScheduleKind::GPipe))?;
            report(table, format!("{name}: as unpipelined there, with autocast"), HALVES, &here, autocast)?;
        }
    }
    if gpus.len() < 2 {
        table.skip("stages on two GPUs", "this machine has not two");
    }
    Ok(())
}

fn report(
    table: &mut Table,
    name: String,
    bar: f64,
    expected: &small::Found,
    setup: impl Fn(Checkpoint, ScheduleKind) -> Setup,
) -> Result<()> {
    let (mut runs, mut worst) = (0, (0., String::new()));
    for mode in MODES {
        for method in ScheduleKind::ALL {
            let Some(found) = small::pipelined(setup(mode, method))? else { continue };
            runs += 1;
            let distance = small::distance(&found, expected);
            if distance >= worst.0 {
                worst = (distance, format!("{mode}, {method}"));
            }
        }
    }
    let verdict = if worst.0 <= bar { Verdict::Passed } else { Verdict::Failed };
    let (distance, at) = worst;
    table.add(name, verdict, format!("{runs} runs, every checkpoint mode and legal schedule; at most {distance:.1e} apart ({at}), {bar:.0e} allowed"));
    Ok(())
}
