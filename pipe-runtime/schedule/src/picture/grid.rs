use std::fmt;

use crate::list::{Action, ActionKind, Schedule};
use crate::simulate::{Costs, Simulation, simulate};
use crate::timeline::Span;

/// Draws the lists as a grid in time for a terminal, with one row per rank. Every action takes one
/// column; if the lists have split backwards, a whole backward takes two (`-` is its second half).
/// A dot is a column in which the rank waits.
///
/// An action is its kind and micro-batch, as `F3`. If a rank has several stages, its stage comes
/// first, as `5F3`. Lists that cannot finish are drawn without times.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = match self.columns() {
            Some(simulation) => grid(&simulation, self.one_stage_per_rank()),
            None => self.ranks.iter().map(|list| list.iter().map(Action::to_string).collect()).collect(),
        };
        let width = rows.iter().flatten().map(String::len).max().unwrap_or(0);
        let label = format!("rank {}", self.ranks.len().saturating_sub(1)).len();
        for (rank, row) in rows.iter().enumerate() {
            let name = format!("rank {rank}");
            let cells: Vec<_> = row.iter().map(|cell| format!("{cell:<width$}")).collect();
            writeln!(f, "{}", format!("{name:<label$}  {}", cells.join(" ")).trim_end())?;
        }
        Ok(())
    }
}

impl Schedule {
    fn columns(&self) -> Option<Simulation> {
        // A schedule may claim to have more stages than its lists could hold, and than memory can.
        let actions = self.actions().count();
        if self.stages > actions {
            return None;
        }
        let is_split = self.actions().any(|action| action.kind == ActionKind::BackwardInput);
        let weight = if is_split { 1. } else { 0. };
        let mut costs = Costs::equal(self.stages, 1., 1., weight);
        // A `W` without an `I` is not valid, but must be visible.
        if !is_split && self.actions().any(|action| action.kind == ActionKind::BackwardWeight) {
            costs = Costs::equal(self.stages, 1., 1., 1.);
        }
        simulate(self, &costs).ok()
    }

    pub(crate) fn one_stage_per_rank(&self) -> bool {
        self.ranks.iter().all(|list| list.iter().all(|action| action.stage == list[0].stage))
    }
}

fn grid(simulation: &Simulation, short: bool) -> Vec<Vec<String>> {
    let columns = simulation.makespan as usize;
    let row = |list: &Vec<Span>| {
        let mut row = vec![".".to_owned(); columns];
        for span in list {
            let Action { kind, micro_batch, .. } = span.action;
            let name = if short { format!("{}{micro_batch}", kind.letter()) } else { span.action.to_string() };
            let (start, end) = (span.start as usize, span.end as usize);
            row[start..end].fill("-".to_owned());
            row[start] = name;
        }
        row
    };
    simulation.ranks.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::ScheduleKind;

    #[test]
    fn ranks_with_several_stages_name_the_stage() {
        let schedule = ScheduleKind::Interleaved.schedule(2, 2, 2).unwrap();
        assert_eq!(
            schedule.to_string(),
            "rank 0  0F0 0F1 2F0 2F1 .   2B0 .   2B1 0B0 0B1\n\
             rank 1  .   1F0 1F1 3F0 3B0 3F1 3B1 1B0 1B1 .\n"
        );
    }

    #[test]
    fn a_whole_backward_is_as_long_as_the_parts_of_a_split_one() {
        let schedule: Schedule = "0F0,0B0,0F1,0I1,0W1\n1F0,1I0,1W0,1F1,1B1".parse().unwrap();
        assert_eq!(
            schedule.to_string(),
            "rank 0  F0 .  .  B0 -  F1 .  .  .  I1 W1\n\
             rank 1  .  F0 I0 W0 .  .  F1 B1 -  .  .\n"
        );
    }

    #[test]
    fn lists_that_cannot_finish_are_drawn_as_lists() {
        let schedule: Schedule = "0B0,0F0\n1F0,1B0".parse().unwrap();
        assert_eq!(schedule.to_string(), "rank 0  0B0 0F0\nrank 1  1F0 1B0\n");
    }
}
