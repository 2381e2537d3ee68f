//! Frozen stages and frozen variables, in every combination, compared with plain tch.

use std::collections::BTreeMap;

use pipe_runtime::{ScheduleKind, Vars};
use pipe_tests::zoo::run::plain;
use pipe_tests::zoo::same_bits;
use pipe_tests::zoo::train::{CHUNKS, MODES, calls};
use pipe_tests::zoo::{
    Batch, Call, Comparison, Creature, LayerSpec, Nearness, Order, Plain, Stack3, Stack4, Twin, Watched, ZooModel,
};

/// Variables of a stage that are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frozen {
    Nothing,
    Weight,
    Bias,
    All,
}

impl Frozen {
    fn is(self, variable: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Weight => variable == "weight",
            Self::Bias => variable == "bias",
            Self::All => true,
        }
    }
}

/// Lists all choices of one of these for each stage.
fn choices(of: &[Frozen], stages: usize) -> Vec<Vec<Frozen>> {
    (0..stages).fold(vec![Vec::new()], |shorter, _| {
        let longer = shorter.iter().flat_map(|start| of.iter().map(move |&one| [start.as_slice(), &[one]].concat()));
        longer.collect()
    })
}

/// Freezes the variables of stages with one layer each, which has a weight and a bias.
fn freeze(vars: &Vars, frozen: &[Frozen]) {
    for (name, variable) in vars.var_store().variables() {
        let parts: Vec<_> = name.split('.').collect();
        let [_, layer, variable_name] = parts[..] else { panic!("{name}") };
        let wanted = !frozen[layer.parse::<usize>().unwrap()].is(variable_name);
        let _ = variable.set_requires_grad(wanted);
    }
}

/// Trains the variables that are not frozen, in every mode, by every call that the number of stages
/// allows.
fn trains_as_plain<M: ZooModel<Layers = Vec<LayerSpec>>>(of: &[Frozen]) {
    let _serial = pipe_tests::serial();
    let stages = M::PLAN.stages.len();
    let layers = vec![LayerSpec::from(Creature::Mix); stages];
    tch::manual_seed(1);
    // Micro-batches of two, two, two and one rows.
    let batch = Batch::of::<M>(7);
    let calls = calls(stages);
    let mut nothing = 0;
    for frozen in choices(of, stages) {
        let mut steps: BTreeMap<Order, Plain> = BTreeMap::new();
        for (mode, &call) in MODES.into_iter().flat_map(|mode| calls.iter().map(move |call| (mode, call))) {
            let about = format!("{frozen:?}, {call}, {mode}");
            let (mut watched, _) = Watched::<M>::build(&layers, 2, CHUNKS, mode, call).unwrap();
            freeze(&watched.vars, &frozen);
            let order = Order::of(call, stages, CHUNKS, batch.micro_batches(CHUNKS));
            let mut twin = Twin::of(watched.vars.var_store());
            let expected = steps.entry(order).or_insert_with(|| plain::<M>(&layers, &mut twin, &batch, CHUNKS, order));
            let found = watched.run(&batch, 3);
            if frozen.iter().all(|&stage| stage == Frozen::All) && matches!(call, Call::Step(_)) {
                let error = found.unwrap_err().to_string();
                assert!(!expected.trains && error.starts_with("the step would train nothing"), "{error}, {about}");
                assert!(watched.gradients().values().all(Option::is_none), "{about}");
                let state = watched.state();
                assert!(state.iter().all(|(name, value)| same_bits(value, &expected.outcome.state[name])), "{about}");
                nothing += 1;
                continue;
            }
            let gradients = |_: &str| Nearness::Bits;
            let (values, state) = (Nearness::Bits, Some(Nearness::Bits));
            let comparison = Comparison { values, gradients: &gradients, state, fresh: true };
            comparison.assert(&found.unwrap(), &expected.outcome, &about);
            watched.assert_passes(expected, &about);
        }
    }
    assert_eq!(nothing, MODES.len() * (calls.len() - 2));
}

const SOME: [Frozen; 4] = [Frozen::Nothing, Frozen::Weight, Frozen::Bias, Frozen::All];

#[test]
fn any_variables_of_three_stages() {
    trains_as_plain::<Stack3>(&SOME);
}

#[test]
fn any_of_four_stages_under_every_method() {
    assert!(ScheduleKind::ALL.iter().all(|&method| calls(4).contains(&Call::Step(method))));
    trains_as_plain::<Stack4>(&[Frozen::Nothing, Frozen::All]);
}

#[test]
fn any_weights_or_biases_of_four_stages_under_every_method() {
    trains_as_plain::<Stack4>(&[Frozen::Weight, Frozen::All]);
    trains_as_plain::<Stack4>(&[Frozen::Bias, Frozen::All]);
}

/// Variables are frozen in one step and trained in the next.
#[test]
fn freezing_and_thawing_between_steps() {
    let _serial = pipe_tests::serial();
    let layers = vec![LayerSpec::from(Creature::Mix); 4];
    tch::manual_seed(1);
    let batch = Batch::of::<Stack4>(7);
    let turns = choices(&[Frozen::Nothing, Frozen::All], 4);
    for (mode, call) in MODES.into_iter().flat_map(|mode| calls(4).into_iter().map(move |call| (mode, call))) {
        let (mut watched, _) = Watched::<Stack4>::build(&layers, 2, CHUNKS, mode, call).unwrap();
        for frozen in turns.iter().filter(|frozen| frozen.contains(&Frozen::Nothing)) {
            let about = format!("{frozen:?}, {call}, {mode}");
            freeze(&watched.vars, frozen);
            watched.zero_gradients();
            let mut twin = Twin::of(watched.vars.var_store());
            let order = Order::of(call, 4, CHUNKS, batch.micro_batches(CHUNKS));
            let expected = plain::<Stack4>(&layers, &mut twin, &batch, CHUNKS, order);
            let found = watched.run(&batch, 3).unwrap();
            let gradients = |_: &str| Nearness::Bits;
            let (values, state) = (Nearness::Bits, Some(Nearness::Bits));
            let comparison = Comparison { values, gradients: &gradients, state, fresh: false };
            comparison.assert(&found, &expected.outcome, &about);
            watched.assert_passes(&expected, &about);
        }
    }
}
