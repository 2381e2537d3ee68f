//! Trains in every mode by every call, and compares each step with the twin's.

use std::collections::{BTreeMap, HashMap};

use pipe_runtime::{CheapOutputs, Checkpoint, ScheduleKind};

use super::comparison::{Comparison, Nearness};
use super::run::{Batch, Call, Mode, Order, Outcome, Plain, Watched, plain, runs};
use super::stacks::ZooModel;

/// The modes. The others are compared with the first.
pub const MODES: [Mode; 4] = [
    Mode { checkpoint: Checkpoint::Never, cheap: CheapOutputs::Keep },
    Mode { checkpoint: Checkpoint::Never, cheap: CheapOutputs::RecomputeAll },
    Mode { checkpoint: Checkpoint::ExceptLast, cheap: CheapOutputs::Keep },
    Mode { checkpoint: Checkpoint::Always, cheap: CheapOutputs::RecomputePointwise },
];

/// The greatest number of micro-batches: the fewest with which every schedule runs over four
/// stages.
pub const CHUNKS: usize = 4;

/// Ways to train over `stages` stages.
pub fn calls(stages: usize) -> Vec<Call> {
    let forwards = [false, true].map(|wants_gradient| Call::Forward { wants_gradient });
    let calls = forwards.into_iter().chain(ScheduleKind::ALL.map(Call::Step));
    calls.filter(|call| runs(call.method(), stages, CHUNKS)).collect()
}

/// Results of the twin in one step, by order.
type Step = BTreeMap<Order, Plain>;

/// Trains in every mode, by every call that the number of stages allows, with a step for each
/// number of rows. Each step continues from the state of the step before. It is compared with the
/// twin's step, and bit by bit with the same step in the other modes. Returns the number of steps
/// compared, by mode and call.
///
/// `gradients` gives the tolerance for the gradient of a variable by its name.
pub fn train<M: ZooModel>(
    layers: &M::Layers,
    rows: &[i64],
    gradients: &dyn Fn(Order, &str) -> Nearness,
) -> HashMap<(Mode, Call), usize> {
    let _serial = crate::serial();
    tch::manual_seed(1);
    let stages = M::PLAN.stages.len();
    let batches: Vec<_> = rows.iter().map(|&rows| Batch::of::<M>(rows)).collect();
    let calls: Vec<_> = calls(stages).into_iter().filter(|call| batches[0].allows(*call)).collect();
    let order_of = |call, batch: &Batch| Order::of(call, stages, CHUNKS, batch.micro_batches(CHUNKS));
    let build = |mode: Mode, call| Watched::<M>::build(layers, 2, CHUNKS, mode, call).expect("it can be built");
    let (_, mut twin) = build(MODES[0], calls[0]);
    let mut steps: Vec<Step> = Vec::new();
    for batch in &batches {
        let mut step = Step::new();
        let mut after = None;
        for order in calls.iter().map(|call| order_of(*call, batch)) {
            step.entry(order).or_insert_with(|| {
                let mut fork = twin.fork();
                let given = plain::<M>(layers, &mut fork, batch, CHUNKS, order);
                after = Some(fork);
                given
            });
        }
        twin = after.expect("there is a call");
        steps.push(step);
    }

    let mut first_mode: HashMap<(Call, usize), Outcome> = HashMap::new();
    let mut counts = HashMap::new();
    for mode in MODES {
        for &call in &calls {
            let (mut watched, _) = build(mode, call);
            for (number, (batch, step)) in batches.iter().zip(&steps).enumerate() {
                let about = format!("{layers:?}, {call}, {mode}, step {number} of {} rows", rows[number]);
                let order = order_of(call, batch);
                let plain = &step[&order];
                watched.zero_gradients();
                let found = watched.run(batch, 3).unwrap_or_else(|error| panic!("{about}: {error}"));
                let near = |name: &str| gradients(order, name);
                let state = Some(Nearness::Bits);
                let comparison = Comparison { values: Nearness::Bits, gradients: &near, state, fresh: number == 0 };
                comparison.assert(&found, &plain.outcome, &about);
                watched.assert_passes(plain, &about);
                *counts.entry((mode, call)).or_insert(0) += 1;
                match first_mode.get(&(call, number)) {
                    Some(first) => {
                        let bits = |_: &str| Nearness::Bits;
                        let comparison = Comparison { gradients: &bits, fresh: true, ..comparison };
                        comparison.assert(&found, first, &format!("beside `never`, {about}"));
                    }
                    None => drop(first_mode.insert((call, number), found)),
                }
            }
        }
    }
    counts
}
