//! Measures how long large schedules take: `cargo run --release -p pipe-schedule --example large
//! [ranks] [micro-batches]`.

use std::time::Instant;

use pipe_schedule::{Costs, ScheduleKind, simulate};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let ranks: usize = arguments.next().unwrap_or(1000);
    let micro_batches = arguments.next().unwrap_or(4000);
    let timed = |what: &str, start: Instant| println!("{what:<20} {:>7.2} s", start.elapsed().as_secs_f64());

    println!("1f1b on {ranks} ranks with {micro_batches} micro-batches");
    let start = Instant::now();
    let schedule = ScheduleKind::OneFOneB.schedule(ranks, 1, micro_batches).expect("a legal schedule");
    timed("made", start);
    let start = Instant::now();
    let simulation = simulate(&schedule, &Costs::equal(ranks, 1., 1., 1.)).expect("it can be run");
    timed("simulated", start);
    let start = Instant::now();
    let steps = schedule.order().expect("it has an order").steps.len();
    timed("ordered", start);
    println!("{steps} actions, {} units of time, {} of them idle", simulation.makespan, simulation.idle(0));
}
