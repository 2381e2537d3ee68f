//! Simulates 1F1B and ZB-H1 on up to 1,000 devices of a measured network, beside the formula of a
//! network that costs nothing.
//!
//! `cargo run --release -p pipe-schedule --example growth -- LATENCY BANDWIDTH`, in microseconds
//! and GB/s: the price of a message, as a trace over processes measures it.

use pipe_schedule::{Costs, ScheduleKind, simulate};

/// The bytes of a micro-batch's value between two stages.
const BYTES: f64 = 1_048_576.;

/// The seconds of a forward; a backward takes twice as long.
const FORWARD: f64 = 1e-3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1).map(|text| text.parse::<f64>());
    let latency = args.next().transpose()?.unwrap_or(2.2) * 1e-6;
    let bandwidth = args.next().transpose()?.unwrap_or(16.) * 1e9;
    let message = latency + BYTES / bandwidth;
    println!(
        "a forward of {} ms, a value of 1 MiB that takes {:.0} µs, twice as many micro-batches as devices",
        FORWARD * 1e3,
        message * 1e6
    );
    println!("{:>8} {:>12} {:>10} {:>10} {:>10}", "devices", "formula", "1f1b", "of it", "zb_h1");
    for devices in [8, 64, 256, 1000] {
        let micro_batches = 2 * devices;
        // Without a network: every micro-batch once, and the way to the last device and back.
        let formula = (micro_batches + devices - 1) as f64 * 3. * FORWARD;
        let mut costs = Costs::equal(devices, FORWARD, FORWARD, FORWARD);
        costs.boundaries.iter_mut().for_each(|boundary| boundary.time = message);
        let makespan = |kind: ScheduleKind| -> Result<f64, Box<dyn std::error::Error>> {
            Ok(simulate(&kind.schedule(devices, 1, micro_batches)?, &costs)?.makespan)
        };
        let (one, zero) = (makespan(ScheduleKind::OneFOneB)?, makespan(ScheduleKind::ZbH1)?);
        println!("{devices:>8} {formula:>10.3} s {one:>8.3} s {:>10.3} {zero:>8.3} s", one / formula);
    }
    Ok(())
}
