use crate::list::{Action, Schedule};

/// GPipe (Huang et al. 2019, "GPipe: Efficient Training of Giant Neural Networks using Pipeline
/// Parallelism", section 2.3), with torchgpipe's order of the backward: all forwards, then all
/// backwards, the last micro-batch first.
///
/// Four stages, four micro-batches, one unit of time each:
///
/// ```text
/// rank 0  F0 F1 F2 F3 .  .  .  .  .  .  B3 B2 B1 B0
/// rank 1  .  F0 F1 F2 F3 .  .  .  .  B3 B2 B1 B0 .
/// rank 2  .  .  F0 F1 F2 F3 .  .  B3 B2 B1 B0 .  .
/// rank 3  .  .  .  F0 F1 F2 F3 B3 B2 B1 B0 .  .  .
/// ```
///
/// `rank_of[stage]` is the rank of a stage. A rank with several stages goes through them in order
/// (looped stages). A micro-batch for which `checkpointed` is true is recomputed right before its
/// backward.
///
/// With `p` ranks, the idle time per rank is `(p - 1)(F + B)`. Each rank has up to all `m`
/// micro-batches in flight.
///
/// # Panics
///
/// Panics if the lists up to the highest rank exceed the capacity of a `Vec`.
pub fn gpipe(rank_of: &[usize], micro_batches: usize, checkpointed: impl Fn(usize) -> bool) -> Schedule {
    let mut ranks = vec![Vec::new(); rank_of.iter().max().map_or(0, |last| last + 1)];
    for (stage, &rank) in rank_of.iter().enumerate() {
        ranks[rank].extend((0..micro_batches).map(|i| Action::forward(stage, i)));
    }
    for (stage, &rank) in rank_of.iter().enumerate().rev() {
        for i in (0..micro_batches).rev() {
            if checkpointed(i) {
                ranks[rank].push(Action::recompute(stage, i));
            }
            ranks[rank].push(Action::backward(stage, i));
        }
    }
    Schedule { stages: rank_of.len(), micro_batches, ranks }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(schedule: &Schedule) -> Vec<String> {
        let line = |list: &Vec<Action>| list.iter().map(Action::to_string).collect::<Vec<_>>().join(" ");
        schedule.ranks.iter().map(line).collect()
    }

    #[test]
    fn backward_mirrors_forward() {
        let schedule = gpipe(&[0, 1], 3, |_| false);
        assert_eq!(print(&schedule), ["0F0 0F1 0F2 0B2 0B1 0B0", "1F0 1F1 1F2 1B2 1B1 1B0"]);
        assert_eq!(print(&schedule.backward()), ["0B2 0B1 0B0", "1B2 1B1 1B0"]);
    }

    #[test]
    fn a_checkpointed_micro_batch_is_recomputed_right_before_its_backward() {
        let schedule = gpipe(&[0], 3, |i| i < 2);
        assert_eq!(print(&schedule), ["0F0 0F1 0F2 0B2 0R1 0B1 0R0 0B0"]);
    }

    #[test]
    fn stages_looped_over_one_rank_run_in_order_and_back() {
        let schedule = gpipe(&[0, 1, 0], 2, |_| false);
        assert_eq!(print(&schedule), ["0F0 0F1 2F0 2F1 2B1 2B0 0B1 0B0", "1F0 1F1 1B1 1B0"]);
    }
}
