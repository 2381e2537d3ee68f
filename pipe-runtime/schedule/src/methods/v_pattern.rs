//! Schedules made from a building block: the slots of one micro-batch, repeated every six units of
//! time (one for each of F, I and W of both stages of a rank), then compacted where the pipeline
//! fills and drains.
//!
//! Source: Qi et al. 2024, "Pipeline Parallelism with Controllable Memory", on building blocks, and
//! on repeating, squeezing and reordering them.

use super::rank_list::RankList;
use crate::list::Schedule;

/// The slots in which one micro-batch passes through a rank: forward through its first and second
/// stage, backward for the inputs through the second and the first. Of every six slots, two remain
/// free for the parameters.
pub(super) type Block = [usize; 4];

const PERIOD: usize = 6;

/// The kinds of pass, in the order in which a micro-batch takes them.
const F0: usize = 0;
const F1: usize = 1;
const I1: usize = 2;
const I0: usize = 3;
const W: usize = 4;

/// Repeats `block(rank)` for every micro-batch, closes the gaps without more micro-batches in
/// flight than in the repeated block, and returns each rank's order.
pub(super) fn repeat(ranks: usize, micro_batches: usize, block: impl Fn(usize) -> Block) -> Schedule {
    let mut grid: Vec<_> = (0..ranks).map(|rank| Row::repeated(block(rank), micro_batches)).collect();
    grid.iter_mut().for_each(Row::fill_in_weights);
    move_together(&mut grid, true);
    squeeze(&mut grid);
    grid.iter_mut().for_each(Row::take_out_weights);
    move_together(&mut grid, false);
    grid.iter_mut().for_each(Row::fill_in_weights);

    let list_of = |(rank, row): (usize, Row)| {
        let mut list = RankList::new([rank, 2 * ranks - 1 - rank], micro_batches);
        for pass in row.slots.into_iter().flatten() {
            match pass {
                F0 => list.f(0),
                F1 => list.f(1),
                I1 => list.i(1),
                I0 => list.i(0),
                _ => list.oldest_w(),
            }
        }
        list.flush()
    };
    Schedule { stages: 2 * ranks, micro_batches, ranks: grid.into_iter().enumerate().map(list_of).collect() }
}

/// Peak number of (stage, micro-batch) pairs in flight, over both stages of a rank, for the rank
/// with the most.
pub(super) fn peak_in_flight(ranks: usize, micro_batches: usize, block: impl Fn(usize) -> Block) -> usize {
    // The steady state is reached after as many micro-batches as a block has periods.
    let longest = (0..ranks).map(|rank| block(rank)[I0]).max().unwrap_or(0);
    let enough = micro_batches.min(longest / PERIOD + 2);
    let peak = |rank| {
        let mut row = Row::repeated(block(rank), enough);
        row.fill_in_weights();
        row.peak_in_flight()
    };
    (0..ranks).map(peak).max().unwrap_or(0)
}

/// The time slots of one rank.
struct Row {
    /// The pass in each slot.
    slots: Vec<Option<usize>>,
    /// The slots of each kind of pass, by micro-batch (for the parameters: in the order of their
    /// inputs).
    at: [Vec<usize>; 5],
}

impl Row {
    fn repeated(block: Block, micro_batches: usize) -> Self {
        let mut row = Self { slots: Vec::new(), at: Default::default() };
        for (pass, first) in block.into_iter().enumerate() {
            (0..micro_batches).for_each(|i| row.put(pass, first + i * PERIOD));
        }
        row
    }

    fn put(&mut self, pass: usize, slot: usize) {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot] = Some(pass);
        self.at[pass].push(slot);
    }

    /// Puts the backwards for the parameters into the gaps after the backwards for their inputs,
    /// and the rest at the end.
    fn fill_in_weights(&mut self) {
        let mut due = 0;
        for slot in 0..self.slots.len() {
            match self.slots[slot] {
                Some(I1 | I0) => due += 1,
                None if due > 0 => {
                    self.put(W, slot);
                    due -= 1;
                }
                _ => {}
            }
        }
        (0..due).for_each(|_| self.put(W, self.slots.len()));
    }

    fn take_out_weights(&mut self) {
        self.at[W].drain(..).for_each(|slot| self.slots[slot] = None);
    }

    /// Peak number of (stage, micro-batch) pairs in flight, where gaps count as filled.
    fn peak_in_flight(&self) -> usize {
        let filled_in = !self.at[W].is_empty();
        let (mut in_flight, mut peak, mut weights) = (0, 0, 0);
        for pass in &self.slots {
            match *pass {
                Some(F0 | F1) => in_flight += 1,
                Some(W) => in_flight -= 1,
                Some(_) => weights += 1,
                None if !filled_in && weights > 0 => {
                    in_flight -= 1;
                    weights -= 1;
                }
                None => {}
            }
            peak = peak.max(in_flight);
        }
        peak
    }
}

/// The pass of micro-batch `index` (for the parameters: the `index`-th of the rank).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Pass {
    slot: usize,
    rank: usize,
    kind: usize,
    index: usize,
}

fn by_time(grid: &[Row]) -> Vec<Pass> {
    let of_kind = |rank: usize, kind: usize| {
        grid[rank].at[kind].iter().enumerate().map(move |(index, &slot)| Pass { slot, rank, kind, index })
    };
    let mut passes: Vec<_> =
        (0..grid.len()).flat_map(|rank| (F0..=W).flat_map(move |kind| of_kind(rank, kind))).collect();
    passes.sort_unstable();
    passes
}

/// The first slot in which the pass may be: after the neighbour's pass, after the micro-batch's
/// previous pass, and after the same pass of the micro-batch before.
fn earliest(grid: &[Row], Pass { rank, kind, index, .. }: Pass) -> usize {
    let at =
        |rank: Option<usize>, kind: Option<usize>, index: Option<usize>| Some(grid.get(rank?)?.at[kind?][index?] + 1);
    let (here, this) = (Some(rank), Some(index));
    let neighbour = match kind {
        F0 | I1 => at(rank.checked_sub(1), Some(kind), this),
        F1 | I0 => at(Some(rank + 1), Some(kind), this),
        _ => None,
    };
    let own = match kind {
        W => {
            let inputs = |kind: usize| grid[rank].at[kind].iter();
            // The `index`-th smallest value of two sorted lists.
            let mut both: Vec<_> = inputs(I0).take(index + 1).chain(inputs(I1).take(index + 1)).collect();
            both.sort_unstable();
            Some(both[index] + 1)
        }
        _ => at(here, kind.checked_sub(1), this),
    };
    let before = at(here, Some(kind), index.checked_sub(1));
    [neighbour, own, before].into_iter().flatten().max().unwrap_or(0)
}

/// Moves each pass of the filling phase (if `filling`) and of the draining phase into the first gap
/// in which it may be, if the rank then has no more pairs in flight than any rank had before. The
/// steady state in between stays as it is.
fn move_together(grid: &mut [Row], filling: bool) {
    let limit = grid.iter().map(Row::peak_in_flight).max().unwrap_or(0);
    let passes = by_time(grid);
    let steady = passes.iter().position(|pass| pass.kind == I0 && pass.rank == 0).unwrap_or(0);
    let draining = passes.iter().rposition(|pass| pass.kind == F0 && pass.rank == 0).unwrap_or(0);
    for (number, &pass) in passes.iter().enumerate() {
        if number <= draining && !(filling && number < steady) {
            continue;
        }
        let free = |grid: &[Row], slot: &usize| grid[pass.rank].slots[*slot].is_none();
        for slot in earliest(grid, pass)..pass.slot {
            if !free(grid, &slot) {
                continue;
            }
            let row = &mut grid[pass.rank];
            row.slots[pass.slot] = None;
            row.slots[slot] = Some(pass.kind);
            if row.peak_in_flight() <= limit {
                row.at[pass.kind][pass.index] = slot;
                break;
            }
            row.slots[slot] = None;
            row.slots[pass.slot] = Some(pass.kind);
        }
    }
}

/// Starts each pass as early as its rank's order and its inputs allow.
fn squeeze(grid: &mut [Row]) {
    let passes = by_time(grid);
    let mut next = vec![0; grid.len()];
    for pass in passes {
        let slot = earliest(grid, pass).max(next[pass.rank]);
        let row = &mut grid[pass.rank];
        row.slots[pass.slot] = None;
        row.slots[slot] = Some(pass.kind);
        row.at[pass.kind][pass.index] = slot;
        next[pass.rank] = slot + 1;
    }
}
