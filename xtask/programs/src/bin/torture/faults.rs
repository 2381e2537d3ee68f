//! A fault at every op: each layer and loss of each micro-batch, in the first pass, the
//! recomputation and the backward. Steps fail, and iterations of trainings, whose schedule of the
//! learning rate fails as well.

use std::collections::BTreeMap;
use std::time::Instant;

use pipe_tests::torture::training::{Recipe, WITHOUT_STATISTICS, torture_training};
use pipe_tests::torture::{Counters, INWARD, STATEFUL, Stack, Tally, WEIGHTS, torture};
use pipe_tests::zoo::train::{MODES, calls};
use pipe_tests::zoo::{Call, Creature, Routed2, Routed3, Routed4, Stack2, Stack3, Stack4};

/// Tries a model of two, three and four stages.
type Models = [Try; 3];

const PLAIN: Models = [all::<Stack2>, all::<Stack3>, all::<Stack4>];
/// With a lent value, a sum and a skip.
const ROUTED: Models = [all::<Routed2>, all::<Routed3>, all::<Routed4>];

const FAMILY: [(&str, [Creature; 8], Models); 5] = [
    ("stateful layers", STATEFUL, PLAIN),
    ("layers with inner state", INWARD, PLAIN),
    ("kinds of weights", WEIGHTS, PLAIN),
    ("stateful layers with routes", STATEFUL, ROUTED),
    ("kinds of weights with routes", WEIGHTS, ROUTED),
];

const COUNTERS: Counters = Counters { in_use: pipe_failing_libtorch::in_use };

/// Of the faults in trainings, which are saved before and after each, one in so many is tried.
const TRAININGS: usize = 4;

/// Tries every fault in every schedule and mode. Returns the number of misses.
pub fn run(stride: usize) -> usize {
    let start = Instant::now();
    let mut by_call: BTreeMap<String, Tally> = BTreeMap::new();
    for (name, creatures, models) in FAMILY {
        for (stages, all) in (2..).zip(models) {
            for call in calls(stages) {
                let tally = all(&creatures, call, stride);
                println!("{name}, {stages} stages, {call}: {} faults, {} misses", tally.count(), tally.misses.len());
                tally.misses.iter().for_each(|miss| println!("  miss: {miss}"));
                by_call.entry(call.to_string()).or_default().add(tally);
            }
        }
    }
    for (recipe, creatures) in [(Recipe::AdamW, WITHOUT_STATISTICS), (Recipe::Sgd, STATEFUL)] {
        for call in calls(4).into_iter().filter(|call| matches!(call, Call::Step(_))) {
            let tally = trainings(recipe, &creatures, call, stride * TRAININGS);
            println!("a training by {recipe:?}, {call}: {} faults, {} misses", tally.count(), tally.misses.len());
            tally.misses.iter().for_each(|miss| println!("  miss: {miss}"));
            by_call.entry(format!("{call}, in a training")).or_default().add(tally);
        }
    }
    let mut total = Tally::default();
    println!("\n| schedule | faults | misses |\n|---|---|---|");
    for (call, tally) in by_call {
        println!("| {call} | {} | {} |", tally.count(), tally.misses.len());
        total.add(tally);
    }
    println!("\n| how | faults |\n|---|---|");
    total.attempts.iter().for_each(|(how, count)| println!("| {how} | {count} |"));
    println!("\n{} faults, {} misses, {:.0} s", total.count(), total.misses.len(), start.elapsed().as_secs_f64());
    total.misses.len()
}

/// Whether a fault is one of the every so many-th. The places come in an order that repeats, way
/// after way, so the choice must not: the numbers are scattered (by the golden ratio) before.
fn is_tried(number: usize, stride: usize) -> bool {
    let scattered = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    scattered.is_multiple_of(stride as u64)
}

type Try = fn(&[Creature; 8], Call, usize) -> Tally;

fn all<M: Stack>(creatures: &[Creature; 8], call: Call, stride: usize) -> Tally {
    let mut tally = Tally::default();
    for mode in MODES {
        tally.add(torture::<M>(&M::of(creatures), (call, mode), Some(COUNTERS), |number, _| is_tried(number, stride)));
    }
    tally
}

fn trainings(recipe: Recipe, creatures: &[Creature; 8], call: Call, stride: usize) -> Tally {
    let mut tally = Tally::default();
    let layers = Stack4::of(creatures);
    for mode in MODES {
        let takes = |number| is_tried(number, stride);
        tally.add(torture_training::<Stack4>(&layers, recipe, (call, mode), Some(COUNTERS), takes));
    }
    tally
}
