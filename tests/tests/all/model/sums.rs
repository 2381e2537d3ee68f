//! Values that layers add up, beside plain tch on the whole batch: by single layers, arrays and
//! blocks, recomputed or not, under every schedule.

use std::ops::Deref;
use std::time::Duration;

use pipe_runtime::balance::Balance;
use pipe_runtime::{Checkpoint, Context, Devices, Layer, Mean, Pipe, Pipeline, ScheduleKind, Sum, Vars, pipeline};
use pipe_tests::layers::linear;
use pipe_tests::way::{Way, assert_near, assert_trained};
use proptest::prelude::*;
use tch::nn::{Linear, Path};
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 6;

/// What flows, and a penalty: a mean over the rows.
fn expert(x: &Tensor, weight: &Tensor, bias: &Tensor) -> (Tensor, Tensor) {
    let y = x.linear(weight, Some(bias)).tanh();
    let penalty = y.square().mean_dim(1, false, Kind::Float).mean(Kind::Float);
    (y, penalty)
}

fn expert_of(x: &Tensor, layer: &Linear) -> (Tensor, Tensor) {
    expert(x, &layer.ws, layer.bs.as_ref().unwrap())
}

/// A sum over the rows.
fn used(x: &Tensor) -> Tensor {
    x.sin().sum(Kind::Float)
}

/// Adds its penalty.
struct Gate(Linear);

impl Layer<Tensor> for Gate {
    type Out = (Tensor, Tensor);

    fn run(&self, x: Tensor, _cx: &Context) -> (Tensor, Tensor) {
        expert_of(&x, &self.0)
    }
}

/// Reads a scale, and adds to both sums.
struct Expert(Linear);

impl Layer<(Tensor, Tensor)> for Expert {
    type Out = (Tensor, Tensor, Tensor);

    fn run(&self, (x, scale): (Tensor, Tensor), _cx: &Context) -> (Tensor, Tensor, Tensor) {
        let (x, penalty) = expert_of(&(x * scale), &self.0);
        let used = used(&x);
        (x, penalty, used)
    }
}

/// Adds what it uses, and stashes.
struct Split;

impl Layer<Tensor> for Split {
    type Out = (Tensor, Tensor, Tensor);

    fn run(&self, x: Tensor, _cx: &Context) -> (Tensor, Tensor, Tensor) {
        (x.cos(), used(&x), x)
    }
}

/// Takes what was stashed.
struct Join;

impl Layer<(Tensor, Tensor)> for Join {
    type Out = Tensor;

    fn run(&self, (x, skip): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x * skip
    }
}

/// Adds up inside, and hands the sum on.
#[pipeline(sum(penalty: Tensor))]
struct Block {
    #[sum(penalty)]
    one: Gate,
    between: Linear,
    #[sum(penalty)]
    two: Gate,
}

impl Block {
    fn new(path: Path<'_>) -> Self {
        let linear = |name: &str| linear(&path / name, WIDTH, WIDTH);
        Self { one: Gate(linear("one")), between: linear("between"), two: Gate(linear("two")) }
    }
}

type Output = (Tensor, Mean, Sum);

/// The same model, with or without `#[recompute]` on its layers.
macro_rules! experts {
    ($name:ident, $vars:ident $(, #[$again:ident])?) => {
        #[pipeline(sum(balance: Mean, used: Sum))]
        struct $name {
            #[device("cpu")]
            #[lend(scale = output)]
            first: Linear,
            $(#[$again])?
            #[sum(balance)]
            gate: Gate,
            $(#[$again])?
            #[devices("cpu", "cpu")]
            #[read(scale)]
            #[sum(balance, used)]
            experts: [Expert; 5],
            $(#[$again])?
            #[repeat]
            plain: [Linear; 2],
            between: Linear,
            $(#[$again])?
            #[device("cpu")]
            #[repeat]
            #[sum(balance)]
            blocks: Vec<Block>,
            #[sum(used)]
            #[stash(skip)]
            split: Split,
            $(#[$again])?
            after: Linear,
            #[pop(skip)]
            join: Join,
        }

        impl Experts for $name {
            type Vars = $vars;

            fn make(stages: usize) -> (Self, $vars) {
                let vars = Self::vars(&Devices::cpu(stages)).unwrap();
                let linear = |path| linear(path, WIDTH, WIDTH);
                let model = Self {
                    first: linear(vars.first()),
                    gate: Gate(linear(vars.gate())),
                    experts: vars.experts().map(|path| Expert(linear(path))),
                    plain: vars.plain().map(linear),
                    between: linear(vars.between()),
                    blocks: vars.blocks(2).into_iter().map(Block::new).collect(),
                    split: Split,
                    after: linear(vars.after()),
                    join: Join,
                };
                (model, vars)
            }
        }
    };
}

/// One of the two models.
trait Experts: Pipeline<Input = Tensor, Output = Output> {
    type Vars: Deref<Target = Vars>;

    fn make(stages: usize) -> (Self, Self::Vars);
}

experts!(Kept, KeptVars);
experts!(Again, AgainVars, #[recompute]);

/// The model in plain tch: the output and the two sums.
fn plain(vars: &Vars, x: &Tensor) -> [Tensor; 3] {
    let variables = vars.var_store().variables();
    let get = |name: &str, part: &str| variables[&format!("{name}.{part}")].shallow_clone();
    let dense = |x: &Tensor, name: &str| x.linear(&get(name, "weight"), Some(&get(name, "bias")));
    let adds = |x: &Tensor, name: &str| expert(x, &get(name, "weight"), &get(name, "bias"));
    let scale = dense(x, "first");
    let (mut x, mut balance) = adds(&scale, "gate");
    let mut sum: Option<Tensor> = None;
    for number in 0..5 {
        let (y, penalty) = adds(&(x * &scale), &format!("experts.{number}"));
        sum = Some(sum.map_or_else(|| used(&y), |sum| sum + used(&y)));
        (x, balance) = (y, balance + penalty);
    }
    x = dense(&dense(&dense(&x, "plain.0"), "plain.1"), "between");
    for number in 0..2 {
        let (y, one) = adds(&x, &format!("blocks.{number}.one"));
        let (y, two) = adds(&dense(&y, &format!("blocks.{number}.between")), &format!("blocks.{number}.two"));
        (x, balance) = (y, balance + (one + two));
    }
    let sum = sum.unwrap() + used(&x);
    [dense(&x.cos(), "after") * &x, balance, sum]
}

fn input(rows: i64) -> Tensor {
    Tensor::rand([rows, WIDTH], (Kind::Float, Device::Cpu))
}

/// A mean over the rows.
fn loss(output: &Tensor, balance: &Tensor, used: &Tensor) -> Tensor {
    let main = output.square().mean_dim(1, false, Kind::Float).mean(Kind::Float);
    main + balance * 0.3 + used * 0.2 / output.size()[0]
}

fn build<M: Experts>(way: Way) -> (Pipe<M>, M::Vars) {
    tch::manual_seed(3);
    let (model, vars) = M::make(way.stages);
    (way.pipe(model, &vars), vars)
}

fn train<M: Experts>(way: Way) {
    let (mut pipe, vars) = build::<M>(way);
    let x = input(way.rows);
    let about = format!("{}, {way:?}", M::PLAN.name);
    let step = pipe.step().keep_output();
    let report =
        step.run(&x, (), |(output, Mean(balance), Sum(used)): &Output, ()| loss(output, balance, used)).unwrap();
    let [output, balance, used] = plain(&vars, &x);
    let (found, Mean(found_balance), Sum(found_used)) = report.output;
    for (found, expected) in [(found, &output), (found_balance, &balance), (found_used, &used)] {
        assert!(found.allclose(expected, 1e-5, 1e-5, false), "{about}: {found} {expected}");
    }
    assert_trained(&vars, &report.loss, &loss(&output, &balance, &used), &about);
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
        let (output, Mean(balance), Sum(used)) = pipe.forward(&x).unwrap();
        let [of_plain, balance_of_plain, used_of_plain] = plain(&vars, &x);
        let expected = Tensor::run_backward(&[loss(&of_plain, &balance_of_plain, &used_of_plain)], &[&x], false, false);
        loss(&output, &balance, &used).backward();
        assert_near(&x.grad(), &expected[0], checkpoint.name());
    }
}

#[test]
fn runs_that_are_not_trained_add_up_too() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = build::<Again>(Way::new(Again::STAGES, ScheduleKind::GPipe, Checkpoint::Never));
    let x = input(15);
    let [_, balance, used] = plain(&vars, &x);
    let is_right = |(_, Mean(found), Sum(found_used)): Output| {
        assert!(found.allclose(&balance, 1e-5, 1e-6, false) && found_used.allclose(&used, 1e-5, 1e-5, false));
    };
    is_right(tch::no_grad(|| pipe.evaluating(|pipe| pipe.forward(&x).unwrap())));
    is_right(pipe.into_inner().unpipelined().chunks(3).forward(&x).unwrap());

    let (model, vars) = Kept::make(Kept::STAGES);
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
