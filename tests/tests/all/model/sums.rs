//! Values that layers add up, beside plain tch on the whole batch: by single layers, arrays and
//! blocks, recomputed or not, under every schedule.

use std::time::Duration;

use pipe_runtime::balance::Balance;
use pipe_runtime::{Checkpoint, Context, Devices, Layer, Mean, ScheduleKind, Sum, pipeline};
use pipe_tests::layers::linear;
use pipe_tests::mirrored::nested::Nested;
use pipe_tests::mirrored::sums::{Again, Gate, Kept, Output, expert, loss, plain};
use pipe_tests::mirrored::{Mirror, Mirrored, WIDTH, build, rows as input};
use pipe_tests::way::{Way, assert_near, assert_trained};
use proptest::prelude::*;
use tch::Tensor;

fn train<M: Mirrored<Input = Tensor>>(way: Way) {
    let (mut pipe, vars) = build::<M>(way);
    let about = format!("{}, {way:?}", M::PLAN.name);
    Mirror::of(&vars, vec![input(way.rows)], way.chunks).check(&mut pipe, &vars, &about);
}

#[test]
fn every_schedule_trains_as_plain_tch_does() {
    let _serial = pipe_tests::serial();
    for checkpoint in [Checkpoint::Never, Checkpoint::Always] {
        let ways = Way::all(Kept::STAGES, checkpoint);
        assert_eq!(ways.len(), ScheduleKind::ALL.len());
        for way in ways {
            train::<Kept>(way);
            train::<Again>(way);
        }
    }
}

/// What they add is one number of each micro-batch, weighted by its rows, and so is its gradient.
#[test]
fn blocks_in_blocks_read_and_add_as_plain_tch_does() {
    let _serial = pipe_tests::serial();
    for checkpoint in [Checkpoint::Never, Checkpoint::Always] {
        Way::all(Nested::STAGES, checkpoint).into_iter().for_each(train::<Nested>);
    }
    train::<Nested>(Way::new(2, ScheduleKind::OneFOneB, Checkpoint::ExceptLast));
}

#[test]
fn merged_stages_train_as_plain_tch_does() {
    let _serial = pipe_tests::serial();
    for stages in 1..Kept::STAGES {
        train::<Kept>(Way::new(stages, ScheduleKind::OneFOneB, Checkpoint::Always));
        train::<Again>(Way::new(stages, ScheduleKind::GPipe, Checkpoint::Never));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_way_trains_as_plain_tch_does(way in Way::any(Kept::STAGES)) {
        let _serial = pipe_tests::serial();
        train::<Kept>(way);
        train::<Again>(way);
    }
}

/// The bits of a sum are those of the layers' order, whatever the stages are.
#[test]
fn the_bits_of_a_sum_do_not_depend_on_the_stages() {
    let _serial = pipe_tests::serial();
    let bits = |stages: usize, checkpoint| {
        let (mut pipe, _vars) = build::<Again>(Way::new(stages, ScheduleKind::GPipe, checkpoint));
        tch::manual_seed(4);
        let (output, Mean(balance), Sum(used)) = pipe.forward(input(15)).unwrap();
        [output, balance, used].map(|tensor| Vec::<f32>::try_from(tensor.reshape([-1])).unwrap())
    };
    let expected = bits(1, Checkpoint::Never);
    for stages in 2..=Again::STAGES {
        assert_eq!(bits(stages, Checkpoint::Always), expected);
    }
}

#[test]
fn a_forward_and_its_backward_give_the_input_its_gradient() {
    let _serial = pipe_tests::serial();
    for checkpoint in [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always] {
        let (mut pipe, vars) = build::<Again>(Way::new(Again::STAGES, ScheduleKind::GPipe, checkpoint));
        let x = input(15).set_requires_grad(true);
        let output = pipe.forward(&x).unwrap();
        let expected = Tensor::run_backward(&[loss(&plain(&vars, &x))], &[&x], false, false);
        loss(&output).backward();
        assert_near(&x.grad(), &expected[0], checkpoint.name());
    }
}

#[test]
fn runs_that_are_not_trained_add_up_too() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = build::<Again>(Way::new(Again::STAGES, ScheduleKind::GPipe, Checkpoint::Never));
    let x = input(15);
    let (_, Mean(balance), Sum(used)) = plain(&vars, &x);
    let is_right = |(_, Mean(found), Sum(found_used)): Output| {
        assert!(found.allclose(&balance, 1e-5, 1e-6, false) && found_used.allclose(&used, 1e-5, 1e-5, false));
    };
    is_right(tch::no_grad(|| pipe.evaluating(|pipe| pipe.forward(&x).unwrap())));
    is_right(pipe.into_inner().unpipelined().chunks(3).forward(&x).unwrap());

    let (model, vars) = Kept::make(&Devices::cpu(Kept::STAGES));
    let profile = Balance::of(&model, &vars).stages(4).by_size(&x).unwrap();
    assert_eq!(profile.layers().len(), 15);
    let profile = Balance::of(&model, &vars).chunks(4).memory_limit(1 << 30).timeout(Duration::ZERO).advise(&x, 2);
    assert!(profile.unwrap().choice().is_some_and(|choice| choice.ranks == 2));
}

#[test]
fn the_plan_names_who_adds() {
    let _serial = pipe_tests::serial();
    let [balance, used] = Kept::PLAN.sums else { panic!("two sums: {}", Kept::PLAN) };
    assert_eq!((balance.name, balance.layers), ("balance", &["gate", "experts", "blocks"][..]));
    assert_eq!((used.name, used.layers), ("used", &["experts", "split"][..]));
    let table = Kept::PLAN.to_string();
    assert!(table.contains("\n  summed: balance of gate, experts, blocks\n"), "{table}");
}

/// Every layer adds, and is recomputed: the sum begins and arrives within an array.
#[pipeline(sum(penalty: Mean), allow(recompute_of_the_last))]
struct Alone {
    #[devices("cpu", "cpu")]
    #[recompute]
    #[sum(penalty)]
    layers: [Gate; 4],
}

#[test]
fn a_sum_begins_and_arrives_in_an_array() {
    let _serial = pipe_tests::serial();
    let vars = Alone::vars(&Devices::cpu(Alone::STAGES)).unwrap();
    let model = Alone { layers: vars.layers().map(|path| Gate(linear(path, WIDTH, WIDTH))) };
    let mut pipe = model.pipe(&vars).chunks(4).build().unwrap();
    let x = input(15);
    let report = pipe.train_step(&x, (), |(_, Mean(penalty)): &(Tensor, Mean), ()| penalty.shallow_clone()).unwrap();
    let variables = vars.var_store().variables();
    let mut expected: Option<Tensor> = None;
    let mut x = x;
    for number in 0..4 {
        let get = |part: &str| &variables[&format!("layers.{number}.{part}")];
        let (y, penalty) = expert(&x, get("weight"), get("bias"));
        (x, expected) = (y, Some(expected.map_or_else(|| penalty.shallow_clone(), |sum| sum + &penalty)));
    }
    assert_trained(&vars, &report.loss, &expected.unwrap(), "an array alone");
}

/// Adds its input as it is.
struct Whole;

impl Layer<Tensor> for Whole {
    type Out = (Tensor, Tensor);

    fn run(&self, x: Tensor, _cx: &Context) -> (Tensor, Tensor) {
        (x.shallow_clone(), x)
    }
}

#[pipeline(sum(penalty: Mean))]
struct Unlike {
    #[device("cpu")]
    #[repeat]
    #[sum(penalty)]
    gates: Vec<Gate>,
    #[device("cpu")]
    #[repeat]
    #[sum(penalty)]
    whole: Vec<Whole>,
}

#[test]
fn values_that_are_unlike_or_none_are_refused() {
    let _serial = pipe_tests::serial();
    let model = |gates: usize, whole: usize| {
        let vars = Unlike::vars(&Devices::cpu(Unlike::STAGES)).unwrap();
        let gates = vars.gates(gates).into_iter().map(|path| Gate(linear(path, WIDTH, WIDTH))).collect();
        (Unlike { gates, whole: (0..whole).map(|_| Whole).collect() }, vars)
    };
    let (unlike, vars) = model(1, 2);
    let mut pipe = unlike.pipe(&vars).chunks(4).build().unwrap();
    let unlike = pipe.forward(input(15)).map(drop).unwrap_err().to_string();
    let expected = "`whole` adds Float numbers of the size [4, 6] to `penalty`, where the layers before it \
                    have added Float numbers of the size []: make them alike";
    assert!(unlike.contains(expected), "{unlike}");

    let unpipelined = |gates: usize| model(gates, 0).0.unpipelined().forward(input(15)).map(drop);
    unpipelined(2).unwrap();
    let none = unpipelined(0).unwrap_err().to_string();
    assert!(none.contains("no layer has added to `penalty`: the `Vec`s whose layers add to it are empty"), "{none}");
}
