//! Lent values, beside plain tch on the whole batch: read by arrays, blocks and single layers, in
//! the stage that lends them and in others, recomputed or not.

use pipe_runtime::balance::Balance;
use pipe_runtime::{Checkpoint, Context, Devices, Flow, Layer, Pipe, ScheduleKind, pipeline};
use pipe_tests::layers::linear;
use pipe_tests::mirrored::lent::{Again, Input, Kept, plain};
use pipe_tests::mirrored::uneven::Uneven;
use pipe_tests::mirrored::{Mirror, Mirrored, WIDTH, build, mean_square as loss, rows};
use pipe_tests::way::{Way, assert_near, assert_trained};
use proptest::prelude::*;
use tch::Tensor;
use tch::nn::Linear;

fn input(count: i64) -> (Tensor, Tensor) {
    (rows(count), rows(count))
}

fn train<M: Mirrored<Input = Input>>(way: Way, masked: bool) {
    let (mut pipe, vars) = build::<M>(way);
    let (x, mask) = input(way.rows);
    let about = format!("{}, {way:?}, mask: {masked}", M::PLAN.name);
    Mirror::of(&vars, vec![(x, masked.then_some(mask))], way.chunks).check(&mut pipe, &vars, &about);
}

#[test]
fn every_schedule_trains_as_plain_tch_does() {
    let _serial = pipe_tests::serial();
    for (checkpoint, masked) in [(Checkpoint::Never, true), (Checkpoint::Always, false), (Checkpoint::ExceptLast, true)]
    {
        let ways = Way::all(Kept::STAGES, checkpoint);
        assert_eq!(ways.len(), ScheduleKind::ALL.len());
        for way in ways {
            train::<Kept>(way, masked);
            train::<Again>(way, true);
        }
    }
}

#[test]
fn what_micro_batches_have_of_another_form_trains_as_plain_tch_does() {
    let _serial = pipe_tests::serial();
    for checkpoint in [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always] {
        for kind in ScheduleKind::ALL {
            let way = Way { chunks: 8, ..Way::new(Uneven::STAGES, kind, checkpoint) };
            let (mut pipe, vars) = build::<Uneven>(way);
            let mirror = Mirror::of(&vars, vec![rows(15), rows(5)], way.chunks);
            mirror.check(&mut pipe, &vars, &format!("{way:?}"));
            mirror.check_predictions(&mut pipe, &format!("{way:?}"));
        }
    }
}

#[test]
fn merged_stages_train_as_plain_tch_does() {
    let _serial = pipe_tests::serial();
    for stages in 1..Kept::STAGES {
        for checkpoint in [Checkpoint::Never, Checkpoint::Always] {
            train::<Kept>(Way::new(stages, ScheduleKind::OneFOneB, checkpoint), true);
            train::<Again>(Way::new(stages, ScheduleKind::GPipe, checkpoint), true);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_way_trains_as_plain_tch_does(way in Way::any(Kept::STAGES), masked in any::<bool>()) {
        let _serial = pipe_tests::serial();
        train::<Kept>(way, masked);
        train::<Again>(way, masked);
    }
}

#[test]
fn a_forward_and_its_backward_give_the_inputs_their_gradients() {
    let _serial = pipe_tests::serial();
    for checkpoint in [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always] {
        let (mut pipe, vars) = build::<Again>(Way::new(Again::STAGES, ScheduleKind::GPipe, checkpoint));
        let leaves = || {
            let (x, mask) = input(15);
            [x.set_requires_grad(true), mask.set_requires_grad(true)]
        };
        let [x, mask] = leaves();
        let output = pipe.forward((&x, Some(&mask))).unwrap();
        let expected = plain(&vars, &x, Some(&mask));
        assert_near(&output, &expected, checkpoint.name());
        let gradients = Tensor::run_backward(&[loss(&expected)], &[&x, &mask], false, false);
        loss(&output).backward();
        for (leaf, expected) in [x, mask].iter().zip(gradients) {
            assert_near(&leaf.grad(), &expected, checkpoint.name());
        }
    }
}

#[test]
fn a_lent_value_goes_to_each_stage_once() {
    let _serial = pipe_tests::serial();
    let [mask, weight, memory] = Kept::PLAN.lent else { panic!("three are lent: {}", Kept::PLAN) };
    let stages = |lent| Kept::PLAN.reading_stages(lent);
    assert_eq!((mask.name, mask.lender, mask.from, stages(mask)), ("mask", "first", 0, vec![1, 2, 3]));
    assert_eq!((weight.name, weight.lender, stages(weight)), ("weight", "embed", vec![2, 3]));
    assert_eq!((memory.name, memory.lender, stages(memory)), ("memory", "encode", vec![1, 2, 3]));
    let table = Kept::PLAN.to_string();
    assert!(table.contains("\n  lent: mask of first, from 0 to 1, 2, 3\n"), "{table}");
    assert!(table.contains("\n  lent: memory of encode, from 0 to 1, 2, 3\n"), "{table}");

    // Layers that are recomputed hand it on within their stage.
    let (mut pipe, _vars) = build::<Kept>(Way::new(Kept::STAGES, ScheduleKind::GPipe, Checkpoint::Never));
    let kept = ways(&mut pipe);
    assert_eq!(kept, [(0, 1), (0, 1), (0, 2), (0, 2), (0, 2), (0, 3), (0, 3), (0, 3), (0, 3)]);
    let (mut pipe, _vars) = build::<Again>(Way::new(Again::STAGES, ScheduleKind::GPipe, Checkpoint::Never));
    assert_eq!(ways(&mut pipe), kept);
}

/// The stages between which skips and lent values go.
fn ways<M: Mirrored<Input = Input, Output = Tensor>>(pipe: &mut Pipe<M>) -> Vec<(usize, usize)> {
    let (x, mask) = input(15);
    pipe.start_trace();
    pipe.train_step((&x, Some(&mask)), (), |output: &Tensor, ()| loss(output)).unwrap();
    let costs = pipe.stop_trace().unwrap().costs();
    let mut ways: Vec<_> = costs.skips.iter().map(|skip| (skip.from, skip.to)).collect();
    ways.sort_unstable();
    ways
}

#[test]
fn an_unpipelined_run_reads_too() {
    let _serial = pipe_tests::serial();
    let (model, vars) = Kept::make(&Devices::cpu(1));
    let (x, mask) = input(15);
    let output = model.unpipelined().chunks(3).forward((&x, Some(&mask))).unwrap();
    assert_near(&output, &plain(&vars, &x, Some(&mask)), "an unpipelined run");
}

/// An array that is recomputed layer by layer, and lends both of its ends.
#[pipeline]
struct Ends {
    #[devices("cpu", "cpu")]
    #[recompute]
    #[lend(start = input, end = output)]
    encode: [Linear; 4],
    #[read(end, start)]
    near: Both,
    #[device("cpu")]
    #[read(start, end)]
    far: Both,
}

/// What the model below takes.
#[derive(Flow)]
struct Source {
    x: Tensor,
    memory: Tensor,
}

/// Goes on with the first value.
struct Begin;

impl Layer<Source> for Begin {
    type Out = Tensor;

    fn run(&self, source: Source, _cx: &Context) -> Tensor {
        source.x
    }
}

/// Reads a memory.
struct Scale;

impl Layer<(Tensor, Tensor)> for Scale {
    type Out = Tensor;

    fn run(&self, (x, memory): (Tensor, Tensor), _cx: &Context) -> Tensor {
        scale(&x, &memory)
    }
}

fn scale(x: &Tensor, memory: &Tensor) -> Tensor {
    (x * memory).sin() + x
}

/// Several readers in each stage of a value that has a name.
#[pipeline(input = Source)]
struct Named {
    #[device("cpu")]
    #[lend(memory = input.memory)]
    begin: Begin,
    first: Linear,
    #[repeat]
    #[read(memory)]
    near: [Scale; 3],
    #[device("cpu")]
    #[repeat]
    #[read(memory)]
    far: [Scale; 3],
    #[device("cpu")]
    #[repeat]
    #[read(memory)]
    farther: [Scale; 2],
}

/// Within a stage, the gradient of the last reader comes first. The sums of the later stages come
/// before what the lending stage has.
#[test]
fn gradients_of_readers_are_summed_in_the_stated_order() {
    let _serial = pipe_tests::serial();
    let vars = Named::vars(&Devices::cpu(Named::STAGES)).unwrap();
    let first = linear(vars.first(), WIDTH, WIDTH);
    let (weight, bias) = (first.ws.shallow_clone(), first.bs.as_ref().unwrap().shallow_clone());
    let model =
        Named { begin: Begin, first, near: [Scale, Scale, Scale], far: [Scale, Scale, Scale], farther: [Scale, Scale] };
    let mut pipe = model.pipe(&vars).chunks(1).checkpoint(Checkpoint::Never).build().unwrap();
    let (x, memory) = (input(15).0, input(15).0.set_requires_grad(true));
    let output = pipe.forward(Source { x: x.shallow_clone(), memory: memory.shallow_clone() }).unwrap();
    loss(&output).backward();

    // Each reader has a memory of its own, whose gradients are added by hand.
    let memories: Vec<_> = (0..8).map(|_| memory.detach().set_requires_grad(true)).collect();
    let plain = memories.iter().fold(x.linear(&weight, Some(&bias)), |x, memory| scale(&x, memory));
    assert!(plain.equal(&output));
    let gradients = Tensor::run_backward(&[loss(&plain)], &memories, false, false);
    let last_first = |stage: std::ops::Range<usize>, from: Option<Tensor>| {
        let gradients = gradients[stage].iter().rev().map(Tensor::shallow_clone);
        from.into_iter().chain(gradients).reduce(|sum, gradient| sum + gradient).unwrap()
    };
    let later = last_first(6..8, None) + last_first(3..6, None);
    assert!(memory.grad().equal(&last_first(0..3, Some(later.shallow_clone()))));
    assert!(!memory.grad().equal(&(last_first(0..3, None) + later)), "the order makes no difference here");
}

/// Takes two values beside its input.
struct Both;

impl Layer<(Tensor, Tensor, Tensor)> for Both {
    type Out = Tensor;

    fn run(&self, (x, one, other): (Tensor, Tensor, Tensor), _cx: &Context) -> Tensor {
        x * one.sin() + other
    }
}

#[test]
fn an_array_lends_its_ends_also_if_it_is_recomputed() {
    let _serial = pipe_tests::serial();
    let vars = Ends::vars(&Devices::cpu(Ends::STAGES)).unwrap();
    let encode = vars.encode().map(|path| linear(path, WIDTH, WIDTH));
    let layers: Vec<_> =
        encode.iter().map(|one| (one.ws.shallow_clone(), one.bs.as_ref().unwrap().shallow_clone())).collect();
    let mut pipe = Ends { encode, near: Both, far: Both }.pipe(&vars).chunks(4).build().unwrap();
    let (x, _) = input(15);
    let report = pipe.train_step(&x, (), |output: &Tensor, ()| loss(output)).unwrap();
    let end = layers.iter().fold(x.shallow_clone(), |x, (weight, bias)| x.linear(weight, Some(bias)));
    let near = &end * end.sin() + &x;
    assert_trained(&vars, &report.loss, &loss(&(near * x.sin() + &end)), "both ends of an array");
}

#[test]
fn an_evaluation_and_a_measurement_read_too() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = build::<Again>(Way::new(Again::STAGES, ScheduleKind::GPipe, Checkpoint::Never));
    let (x, mask) = input(15);
    let output = tch::no_grad(|| pipe.evaluating(|pipe| pipe.forward((&x, Some(&mask))).unwrap()));
    assert_near(&output, &plain(&vars, &x, Some(&mask)), "an evaluation");

    let (model, vars) = Kept::make(&Devices::cpu(Kept::STAGES));
    let profile = Balance::of(&model, &vars).stages(4).by_size((&x, Some(&mask))).unwrap();
    // From the layer that lends it to the first reader, and from each reader to the next one.
    let memory = profile.skips().iter().filter(|skip| skip.name == "memory");
    let memory: Vec<_> = memory.map(|skip| (skip.from, skip.to)).collect();
    assert_eq!(memory, [(2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9), (9, 12), (12, 13)]);
}
