//! Every kind of layer gives the same results as its twin in plain tch, in every checkpoint mode
//! and under every schedule.

use std::collections::HashSet;

use pipe_runtime::{CheapOutputs, Checkpoint, ScheduleKind};
use pipe_tests::zoo::run::{plain, runs};
use pipe_tests::zoo::same_bits;
use pipe_tests::zoo::train::{MODES, train};
use pipe_tests::zoo::{
    Batch, Call, Comparison, Creature, Fault, How, LayerSpec, Mode, Nearness, Order, Recomputed1, Recomputed2,
    Recomputed4, Stack1, Stack2, Stack3, Stack4, Watched, ZooModel,
};
use proptest::prelude::*;
use tch::Tensor;

/// Rows of twenty consecutive steps.
const ROWS: [i64; 20] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 1, 12, 2, 4, 3, 10, 1, 5, 8, 6];

/// Trains a stack with the kind in the first and the third of four stages. It gets the input there,
/// and activations that require a gradient.
fn train_stack(creature: Creature) {
    train_as_plain::<Stack4>(creature, &ROWS);
    // Layers that are recomputed alone have no other bits.
    train_as_plain::<Recomputed4>(creature, &ROWS[..4]);
}

fn train_as_plain<M: ZooModel<Layers = Vec<LayerSpec>>>(creature: Creature, rows: &[i64]) {
    let layers = [creature, Creature::Mix, creature, Creature::Mix].map(LayerSpec::from).to_vec();
    let gradients = |order, _: &str| match order {
        Order::FirstFirst if !creature.uses_parameters_once() => Nearness::Relative(1e-5),
        _ => Nearness::Bits,
    };
    let counts = train::<M>(&layers, rows, &gradients);
    assert_eq!(counts.len(), MODES.len() * (ScheduleKind::ALL.len() + 2));
    assert!(counts.values().all(|&count| count == rows.len()), "{counts:?}");
}

macro_rules! creatures {
    ($($name:ident: $creature:ident),* $(,)?) => {
        mod each {
            use super::*;

            $(
                #[test]
                fn $name() {
                    train_stack(Creature::$creature);
                }
            )*
        }

        #[test]
        fn no_creature_is_left_out() {
            let tested = [$(Creature::$creature),*];
            let without_twin = [Creature::Dropout];
            assert!(Creature::ALL.iter().all(|creature| tested.contains(creature) != without_twin.contains(creature)));
        }
    };
}

creatures! {
    mix: Mix,
    lstm: Lstm,
    gru: Gru,
    spectral: Spectral,
    spectral_frozen_vector: SpectralFrozenVector,
    batch_norm: BatchNorm,
    nested_batch_norm: NestedBatchNorm,
    centre: Centre,
    counting: Counting,
    queue: Queue,
    slow_weight: SlowWeight,
    moved_mean: MovedMean,
    dense_embedding: DenseEmbedding,
    sparse_embedding: SparseEmbedding,
    sparse_and_dense: SparseAndDense,
    forces: Forces,
    slope_penalty: SlopePenalty,
    inner_steps: InnerSteps,
    fast_weight: FastWeight,
    own_leaf: OwnLeaf,
    low_rank: LowRank,
    normalised_weight: NormalisedWeight,
    biased_attention: BiasedAttention,
    masked_attention: MaskedAttention,
    rotary: Rotary,
    complex_weights: ComplexWeights,
    experts: Experts,
    cache: Cache,
    cache_of_one_call: CacheOfOneCall,
    chains: Chains,
    twice: Twice,
    summed_weights: SummedWeights,
    in_place_view: InPlaceView,
    cut: Cut,
    identity: Identity,
}

/// Number of random stacks: `PROPTEST_CASES`, or 64.
fn cases_wanted() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(64)
}

/// A stack with the settings of its training.
#[derive(Clone, Debug)]
struct Case {
    layers: Vec<LayerSpec>,
    rows: i64,
    chunks: usize,
    method: ScheduleKind,
    wants_gradient: bool,
    /// Fault of a call before the tested one.
    fault: Option<Fault>,
    seed: i64,
}

fn cases(stages: usize) -> impl Strategy<Value = Case> {
    let creature = prop::sample::select(Creature::ALL.to_vec());
    let layer = (creature, prop::bool::weighted(0.15)).prop_map(|(creature, frozen)| LayerSpec { creature, frozen });
    let layers = prop::collection::vec(layer, stages..stages + 3);
    let method = prop::sample::select(ScheduleKind::ALL.to_vec());
    (layers, 1..13_i64, 1..7_usize, method, any::<bool>(), prop::option::of((0..6_usize, 0..6_usize)), 0..10_000_i64)
        .prop_map(|(layers, rows, chunks, method, wants_gradient, fault, seed)| {
            let micro_batches = (rows as usize).div_ceil((rows as usize).div_ceil(chunks));
            let fault = fault.map(|(layer, micro_batch)| Fault {
                layer: layer % layers.len(),
                micro_batch: micro_batch % micro_batches,
                recomputing: false,
                how: How::Panic,
            });
            Case { layers, rows, chunks, method, wants_gradient, fault, seed }
        })
}

/// Whether the gradient of this variable comes in one piece per micro-batch.
fn comes_in_one_piece(layers: &[LayerSpec], name: &str) -> bool {
    let number: usize = name.split('.').nth(1).expect("a layer's number").parse().expect("a number");
    layers[number].creature.uses_parameters_once()
}

/// Whether the whole batch at once gives the same results as micro-batches, except for rounding.
fn is_as_the_whole_batch(layers: &[LayerSpec]) -> bool {
    let independent = |(number, layer): (usize, &LayerSpec)| {
        layer.creature.rows_are_independent() && (number == 0 || !layer.creature.chooses())
    };
    layers.iter().enumerate().all(independent)
}

/// Asserts that a stack trains like its twin, with the same bits in each mode, even after a
/// failure.
fn stack_is_as_plain<M: ZooModel<Layers = Vec<LayerSpec>>>(case: &Case) {
    let _serial = pipe_tests::serial();
    let Case { layers, rows, chunks, method, wants_gradient, fault, seed } = case;
    let (stages, chunks) = (M::PLAN.stages.len(), *chunks);
    tch::manual_seed(seed + 1);
    let (batch, other) = (Batch::of::<M>(*rows), Batch::of::<M>(*rows));
    let build = |mode: Mode, call| Watched::<M>::build(layers, seed + 2, chunks, mode, call);
    for call in [Call::Forward { wants_gradient: *wants_gradient }, Call::Step(*method)] {
        if !runs(call.method(), stages, chunks) {
            assert!(build(Checkpoint::Never.into(), call).is_err(), "{case:?}");
            continue;
        }
        let order = Order::of(call, stages, chunks, batch.micro_batches(chunks));
        let (mut watched, mut twin) = build(Checkpoint::Never.into(), call).unwrap();
        let about = format!("{call}, {case:?}");
        let never = watched.run(&batch, seed + 3).map_err(|error| error.to_string());
        let mut expected = None;
        if layers.iter().all(|layer| layer.creature.has_twin()) {
            let mut whole = twin.fork();
            let plain_step = plain::<M>(layers, &mut twin, &batch, chunks, order);
            match &never {
                Ok(found) => {
                    assert!(plain_step.trains || matches!(call, Call::Forward { .. }), "{about}");
                    let gradients = |name: &str| match order {
                        Order::FirstFirst if !comes_in_one_piece(layers, name) => Nearness::Relative(1e-5),
                        _ => Nearness::Bits,
                    };
                    exact(&gradients).assert(found, &plain_step.outcome, &about);
                    watched.assert_passes(&plain_step, &about);
                    if is_as_the_whole_batch(layers) {
                        let wants_gradient = call == Call::Forward { wants_gradient: true };
                        let order = Order::Joined { wants_gradient };
                        let plain_step = plain::<M>(layers, &mut whole, &batch, 1, order);
                        let near = Nearness::Relative(1e-5);
                        let comparison = Comparison { values: near, gradients: &|_| near, state: None, fresh: true };
                        comparison.assert(found, &plain_step.outcome, &format!("the whole batch, {about}"));
                    }
                }
                Err(error) => {
                    assert!(!plain_step.trains && error.contains("would train nothing"), "{error}, {about}");
                    let untouched = build(Checkpoint::Never.into(), call).unwrap().0.state();
                    assert!(watched.state().iter().all(|(name, value)| same_bits(value, &untouched[name])), "{about}");
                }
            }
            expected = Some(plain_step);
        }
        let cheap = |cheap| Mode { checkpoint: Checkpoint::Never, cheap };
        let modes = [Checkpoint::ExceptLast, Checkpoint::Always].map(Mode::from);
        for mode in modes.into_iter().chain([CheapOutputs::RecomputePointwise, CheapOutputs::RecomputeAll].map(cheap)) {
            let about = format!("{mode}, {about}");
            let (mut watched, _) = build(mode, call).unwrap();
            if let Some(fault) = *fault {
                watched.assert_failure_leaves_nothing(&other, fault, &about);
            }
            match (&never, watched.run(&batch, seed + 3).map_err(|error| error.to_string())) {
                (Ok(never), Ok(found)) => {
                    exact(&|_| Nearness::Bits).assert(&found, never, &about);
                    expected.iter().for_each(|expected| watched.assert_passes(expected, &about));
                }
                (Err(never), Err(error)) => assert_eq!(*never, error, "{about}"),
                (never, found) => panic!("found {found:?}, `never` gave {never:?}, {about}"),
            }
        }
    }
}

/// Comparison bit by bit, with the given tolerances for gradients.
fn exact(gradients: &dyn Fn(&str) -> Nearness) -> Comparison<'_> {
    Comparison { values: Nearness::Bits, gradients, state: Some(Nearness::Bits), fresh: true }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases_wanted()) })]

    #[test]
    fn any_stack_is_as_plain(case in (1..5_usize).prop_flat_map(|stages| (Just(stages), cases(stages)))) {
        match case {
            (1, case) => stack_is_as_plain::<Stack1>(&case),
            (2, case) => stack_is_as_plain::<Stack2>(&case),
            (3, case) => stack_is_as_plain::<Stack3>(&case),
            (_, case) => stack_is_as_plain::<Stack4>(&case),
        }
    }

    #[test]
    fn any_stack_with_recomputed_layers_is_as_plain(
        case in prop::sample::select(vec![1_usize, 2, 4]).prop_flat_map(|stages| (Just(stages), cases(stages)))
    ) {
        match case {
            (1, case) => stack_is_as_plain::<Recomputed1>(&case),
            (2, case) => stack_is_as_plain::<Recomputed2>(&case),
            (_, case) => stack_is_as_plain::<Recomputed4>(&case),
        }
    }
}

/// Each gradient has memory of its own, with a place for each number, even where one tensor is the
/// gradient of two weights: optimizers change it in place.
#[test]
fn no_schedule_lets_gradients_share_memory() {
    let _serial = pipe_tests::serial();
    let layers = [LayerSpec::from(Creature::SummedWeights); 4].to_vec();
    let steps = ScheduleKind::ALL.map(Call::Step);
    for call in [Call::Forward { wants_gradient: true }].into_iter().chain(steps) {
        for (mode, rows) in [Checkpoint::Never, Checkpoint::Always].into_iter().flat_map(|mode| [(mode, 1), (mode, 8)])
        {
            let (mut watched, _) = Watched::<Stack4>::build(&layers, 1, 8, mode, call).unwrap();
            watched.run(&Batch::of::<Stack4>(rows), 2).unwrap();
            let variables = watched.vars.var_store().variables();
            let gradients: Vec<Tensor> = variables.values().map(Tensor::grad).collect();
            let addresses: HashSet<_> = gradients.iter().map(Tensor::data_ptr).collect();
            let about = format!("{call}, {mode}, {rows} rows");
            assert_eq!((gradients.len(), addresses.len()), (12, 12), "{about}");
            assert!(gradients.iter().all(|gradient| gradient.is_contiguous()), "{about}");
        }
    }
}

/// The gradient that such a stage hands on is a part of the joined output's. What is sent instead
/// of it has the address, by its remainder, with which matrix products round as in plain tch.
#[test]
fn stages_that_only_hand_on_change_no_bit() {
    use Creature::{Chains, Identity, Mix, Twice};
    let stacks = [
        [Mix, Mix, Chains, Identity],
        [Mix, Chains, Identity, Identity],
        [Mix, Mix, Twice, Identity],
        [Identity, Mix, Twice, Identity],
    ];
    for (creatures, rows) in stacks.into_iter().flat_map(|stack| [(stack, 5), (stack, 7)]) {
        let case = Case {
            layers: creatures.map(LayerSpec::from).to_vec(),
            rows,
            chunks: 3,
            method: ScheduleKind::GPipe,
            wants_gradient: true,
            fault: None,
            seed: rows,
        };
        stack_is_as_plain::<Stack4>(&case);
        stack_is_as_plain::<Recomputed4>(&case);
    }
}
