//! Random valid schedules.

use pipe_schedule::{Action, ActionKind, Schedule};
use proptest::sample::Index;

/// Makes a valid schedule. `styles` says for each stage and micro-batch whether it is recomputed
/// (1) and whether its backward is split (2). `choices` decides at each step which of the possible
/// actions comes next.
pub fn schedule(rank_of: &[usize], micro_batches: usize, styles: &[u8], choices: &[Index]) -> Schedule {
    let stages = rank_of.len();
    let ranks = rank_of.iter().max().unwrap() + 1;
    let mut todo: Vec<Action> = Vec::new();
    for stage in 0..stages {
        for i in 0..micro_batches {
            let style = styles[(stage * micro_batches + i) % styles.len()];
            todo.push(Action::forward(stage, i));
            if style & 1 == 1 {
                todo.push(Action::recompute(stage, i));
            }
            if style & 2 == 2 {
                todo.extend([Action::backward_input(stage, i), Action::backward_weight(stage, i)]);
            } else {
                todo.push(Action::backward(stage, i));
            }
        }
    }
    let mut lists = vec![Vec::new(); ranks];
    let mut step = 0;
    while !todo.is_empty() {
        let open = |stage: usize, i: usize, kinds: &[ActionKind]| {
            todo.iter().any(|action| action.stage == stage && action.micro_batch == i && kinds.contains(&action.kind))
        };
        use ActionKind::{Backward, BackwardInput, Forward, Recompute};
        let possible = |action: &&Action| {
            let Action { kind, stage, micro_batch: i } = **action;
            match kind {
                Forward => stage == 0 || !open(stage - 1, i, &[Forward]),
                Recompute => !open(stage, i, &[Forward]),
                Backward | BackwardInput => {
                    !open(stage, i, &[Forward, Recompute])
                        && !open(stage + 1, i, &[Backward, BackwardInput])
                        && (stage + 1 < stages || !open(stage, i, &[Forward]))
                }
                ActionKind::BackwardWeight => !open(stage, i, &[Forward, BackwardInput]),
            }
        };
        let possible: Vec<_> = todo.iter().filter(possible).copied().collect();
        let action = *choices[step % choices.len()].get(&possible);
        step += 1;
        lists[rank_of[action.stage]].push(action);
        todo.retain(|&other| other != action);
    }
    Schedule { stages, micro_batches, ranks: lists }
}
