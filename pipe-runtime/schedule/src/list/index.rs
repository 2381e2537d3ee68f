use std::collections::BTreeMap;

use super::{Action, Schedule};

/// The position of each action of a schedule, as a number that counts through the ranks' lists one
/// after the other.
///
/// It is a table if the schedule is about as large as its numbers of stages and micro-batches say.
/// Actions outside of the table are in a map, and so are all actions of a schedule that claims to
/// be far larger than it is.
pub(crate) struct Index {
    stages: usize,
    micro_batches: usize,
    table: Vec<u32>,
    outside: BTreeMap<Action, usize>,
    /// The number of each rank's first action, and the total number of actions.
    first: Vec<usize>,
}

const NOWHERE: u32 = u32::MAX;

impl Index {
    pub(crate) fn new(schedule: &Schedule) -> Self {
        let mut first = vec![0];
        for list in &schedule.ranks {
            first.push(first[first.len() - 1] + list.len());
        }
        let actions = first[first.len() - 1];
        let cells = schedule.stages.checked_mul(schedule.micro_batches).and_then(|pairs| pairs.checked_mul(5));
        let cells = cells.filter(|&cells| cells <= actions.saturating_mul(8) + 1024 && actions < NOWHERE as usize);
        let mut index = Self {
            stages: schedule.stages,
            micro_batches: schedule.micro_batches,
            table: vec![NOWHERE; cells.unwrap_or(0)],
            outside: BTreeMap::new(),
            first,
        };
        for (number, &action) in schedule.ranks.iter().flatten().enumerate() {
            match index.cell(action) {
                Some(cell) if index.table[cell] == NOWHERE => index.table[cell] = number as u32,
                Some(_) => {}
                None => {
                    index.outside.entry(action).or_insert(number);
                }
            }
        }
        index
    }

    fn cell(&self, action: Action) -> Option<usize> {
        let within = action.stage < self.stages && action.micro_batch < self.micro_batches && !self.table.is_empty();
        within.then(|| (action.stage * self.micro_batches + action.micro_batch) * 5 + action.kind as usize)
    }

    /// The number of the first occurrence of the action.
    pub(crate) fn find(&self, action: Action) -> Option<usize> {
        match self.cell(action) {
            Some(cell) => Some(self.table[cell]).filter(|&number| number != NOWHERE).map(|number| number as usize),
            None => self.outside.get(&action).copied(),
        }
    }

    /// The number of a rank's first action.
    pub(crate) fn first(&self, rank: usize) -> usize {
        self.first[rank]
    }

    /// The number of actions.
    pub(crate) fn len(&self) -> usize {
        self.first[self.first.len() - 1]
    }
}
