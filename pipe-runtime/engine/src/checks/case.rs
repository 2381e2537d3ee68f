use std::ops::RangeInclusive;

use pipe_schedule::{Order, ScheduleKind};
use shuttle::rand::{Rng, thread_rng};

use super::job::Error;
use crate::Engine;

/// A small order and an engine's threads, drawn from the checker's random numbers, so that a
/// replayed schedule has the same.
pub struct Case {
    pub order: Order,
    cpu_ranks: Vec<usize>,
    accelerator_ranks: Vec<usize>,
    cores: usize,
}

impl Case {
    pub fn draw() -> Self {
        let ranks = draw(2..=3);
        // At most one accelerator, so that no more than two threads help the caller.
        let accelerators = draw(0..=1);
        Self {
            order: order(ranks, draw(2..=4)),
            cpu_ranks: (accelerators..ranks).collect(),
            accelerator_ranks: (0..accelerators).collect(),
            cores: draw(1..=3),
        }
    }

    pub fn engine(&self) -> Engine<Error> {
        engine(self.cpu_ranks.clone(), self.accelerator_ranks.clone(), self.cores)
    }

    /// Returns a rank for the caller to perform, in half of the cases.
    pub fn local(&self) -> Option<usize> {
        let ranks = self.order.ranks.len();
        Some(draw(0..=2 * ranks - 1)).filter(|&rank| rank < ranks)
    }
}

pub fn engine(cpu_ranks: Vec<usize>, accelerator_ranks: Vec<usize>, cores: usize) -> Engine<Error> {
    Engine::new(cpu_ranks, accelerator_ranks, cores, || {}).unwrap()
}

/// Draws a schedule that can have this many ranks and micro-batches, and returns the order of all
/// of it or of one half.
pub fn order(ranks: usize, micro_batches: usize) -> Order {
    let legal: Vec<_> = ScheduleKind::ALL
        .iter()
        .flat_map(|&method| (1..=2).filter_map(move |stages| method.schedule(ranks, stages, micro_batches).ok()))
        .collect();
    let schedule = &legal[draw(0..=legal.len() - 1)];
    let recomputed = draw(0..=1);
    match draw(0..=3) {
        0 => schedule.forward().order(),
        1 => schedule.backward().order(),
        _ => schedule.clone().with_recompute(|_, micro_batch| micro_batch < recomputed).order(),
    }
    .unwrap()
}

pub fn draw(range: RangeInclusive<usize>) -> usize {
    thread_rng().gen_range(range)
}
