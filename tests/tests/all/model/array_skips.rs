//! A skip of each layer of an array, beside plain tch on the whole batch: spread over stages in
//! several ways, recomputed or not, with lent values and sums.

use std::ops::Deref;
use std::time::Duration;

use pipe_runtime::balance::Balance;
use pipe_runtime::{Checkpoint, Context, Devices, Layer, Mean, Pipe, Pipeline, ScheduleKind, Vars, pipeline};
use pipe_tests::layers::linear;
use pipe_tests::way::{Way, assert_near, assert_trained};
use proptest::prelude::*;
use tch::nn::{Linear, Path};
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 6;
const DEPTH: usize = 5;

/// Returns its output, a skip of another form, and what it adds.
struct Down(Linear);

impl Layer<(Tensor, Tensor)> for Down {
    type Out = (Tensor, (Tensor, i64), Tensor);

    fn run(&self, (x, scale): (Tensor, Tensor), _cx: &Context) -> Self::Out {
        let x = (x * scale).apply(&self.0).tanh();
        let skip = (&x * 2., x.size()[0]);
        let penalty = penalty(&x);
        (x, skip, penalty)
    }
}

fn penalty(x: &Tensor) -> Tensor {
    x.square().mean_dim(1, false, Kind::Float).mean(Kind::Float)
}

/// Takes two skips.
struct Up(Linear);

impl Layer<(Tensor, (Tensor, i64), Tensor)> for Up {
    type Out = Tensor;

    fn run(&self, (x, (skip, rows), input): (Tensor, (Tensor, i64), Tensor), _cx: &Context) -> Tensor {
        assert_eq!(rows, x.size()[0]);
        (x + skip.sin()).apply(&self.0) * input
    }
}

type Output = (Tensor, Mean);

/// The same model, spread in another way, or with `#[recompute]` on its arrays.
macro_rules! net {
    ($name:ident, $vars:ident, [$($down:meta),+], $downs:ty, [$($up:meta),+], $ups:ty $(, $count:literal)?) => {
        #[pipeline(sum(penalty: Mean), allow(single_stage))]
        struct $name {
            #[device("cpu")]
            #[lend(scale = output)]
            first: Linear,
            $(#[$down])+
            #[stash(level[..], before[..] = input)]
            #[sum(penalty)]
            #[read(scale)]
            downs: $downs,
            middle: Linear,
            $(#[$up])+
            #[pop(level[..], before[..])]
            ups: $ups,
            last: Linear,
        }

        impl Net for $name {
            type Vars = $vars;

            fn make(stages: usize) -> (Self, $vars) {
                let vars = Self::vars(&Devices::cpu(stages)).unwrap();
                let linear = |path: Path<'_>| linear(path, WIDTH, WIDTH);
                let [first, middle, last] = [vars.first(), vars.middle(), vars.last()].map(linear);
                let downs = vars.downs($($count)?).into_iter().map(|path| Down(linear(path))).collect::<Vec<_>>();
                let ups = vars.ups($($count)?).into_iter().map(|path| Up(linear(path))).collect::<Vec<_>>();
                let (downs, ups) = (downs.try_into().ok().unwrap(), ups.try_into().ok().unwrap());
                (Self { first, downs, middle, ups, last }, vars)
            }
        }
    };
}

/// One of the models.
trait Net: Pipeline<Input = Tensor, Output = Output> {
    type Vars: Deref<Target = Vars>;

    fn make(stages: usize) -> (Self, Self::Vars);
}

net!(Spread, SpreadVars, [devices("cpu", "cpu")], [Down; DEPTH], [devices("cpu" = 4, "cpu" = 1)], [Up; DEPTH]);
net!(Vecs, VecsVars, [devices("cpu" = 1, "cpu" = 3, "cpu" = 1)], Vec<Down>, [devices("cpu", "cpu")], Vec<Up>, 5);
net!(Local, LocalVars, [repeat], [Down; 5], [repeat], [Up; 5]);
net!(
    Again,
    AgainVars,
    [devices("cpu", "cpu"), recompute],
    [Down; 5],
    [devices("cpu" = 2, "cpu" = 3), recompute(2)],
    [Up; 5]
);
net!(AgainLocal, AgainLocalVars, [repeat, recompute(2)], [Down; 5], [repeat, recompute], [Up; 5]);

/// The model in plain tch: the output and the sum.
fn plain(vars: &Vars, x: &Tensor) -> [Tensor; 2] {
    let variables = vars.var_store().variables();
    let dense = |x: &Tensor, name: &str| {
        x.linear(&variables[&format!("{name}.weight")], Some(&variables[&format!("{name}.bias")]))
    };
    let scale = dense(x, "first");
    let (mut x, mut skips, mut sum) = (scale.shallow_clone(), Vec::new(), None);
    for number in 0..DEPTH {
        let input = x;
        x = dense(&(&input * &scale), &format!("downs.{number}")).tanh();
        skips.push((&x * 2., input));
        sum = Some(sum.map_or_else(|| penalty(&x), |sum: Tensor| sum + penalty(&x)));
    }
    x = dense(&x, "middle");
    for number in 0..DEPTH {
        let (skip, input) = skips.pop().unwrap();
        x = dense(&(x + skip.sin()), &format!("ups.{number}")) * input;
    }
    [dense(&x, "last"), sum.unwrap()]
}

fn input(rows: i64) -> Tensor {
    Tensor::rand([rows, WIDTH], (Kind::Float, Device::Cpu))
}

fn loss(output: &Tensor, sum: &Tensor) -> Tensor {
    output.square().mean_dim(1, false, Kind::Float).mean(Kind::Float) + sum * 0.3
}

fn build<M: Net>(way: Way) -> (Pipe<M>, M::Vars) {
    tch::manual_seed(3);
    let (model, vars) = M::make(way.stages);
    (way.pipe(model, &vars), vars)
}

fn train<M: Net>(way: Way) {
    let (mut pipe, vars) = build::<M>(way);
    let x = input(way.rows);
    let report = pipe.train_step(&x, (), |(output, Mean(sum)): &Output, ()| loss(output, sum)).unwrap();
    let [output, sum] = plain(&vars, &x);
    assert_trained(&vars, &report.loss, &loss(&output, &sum), &format!("{}, {way:?}", M::PLAN.name));
}

fn train_all<M: Net>() {
    let stages = M::PLAN.stages.len();
    for checkpoint in [Checkpoint::Never, Checkpoint::ExceptLast, Checkpoint::Always] {
        Way::all(stages, checkpoint).into_iter().for_each(train::<M>);
    }
    for stages in 1..stages {
        train::<M>(Way::new(stages, ScheduleKind::OneFOneB, Checkpoint::Never));
        train::<M>(Way::new(stages, ScheduleKind::GPipe, Checkpoint::Always));
    }
}

#[test]
fn every_schedule_trains_as_plain_tch_does() {
    let _serial = pipe_tests::serial();
    // DualPipeV wants as many micro-batches as there are stages, so six.
    assert_eq!(Way::all(Vecs::STAGES, Checkpoint::Never).len(), ScheduleKind::ALL.len() - 1);
    train_all::<Spread>();
    train_all::<Vecs>();
    train_all::<Local>();
    train_all::<Again>();
    train_all::<AgainLocal>();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_way_trains_as_plain_tch_does(six in Way::any(Vecs::STAGES), five in Way::any(Again::STAGES)) {
        let _serial = pipe_tests::serial();
        train::<Vecs>(six);
        train::<Again>(five);
        train::<Spread>(five);
    }
}

#[test]
fn skips_go_straight_from_part_to_part() {
    let _serial = pipe_tests::serial();
    let ways = |plan: &pipe_runtime::Plan| {
        let level = plan.skips.iter().filter(|skip| skip.name == "level");
        level.map(|skip| (skip.stash, skip.from, skip.pop, skip.to)).collect::<Vec<_>>()
    };
    // The length is a constant, so the macro does not know which parts share none.
    assert_eq!(
        ways(&Spread::PLAN),
        [("downs", 1, "ups", 3), ("downs", 1, "ups", 4), ("downs", 2, "ups", 3), ("downs", 2, "ups", 4)]
    );
    // Three layers stash in stage 1 and two in stage 2; two pop in stage 3 and three in stage 4.
    assert_eq!(ways(&Again::PLAN), [("downs", 1, "ups", 4), ("downs", 2, "ups", 3)]);
    assert_eq!(ways(&Local::PLAN), [("downs", 0, "ups", 0)]);
}

#[test]
fn other_runs_have_the_same_skips() {
    let _serial = pipe_tests::serial();
    let (mut pipe, vars) = build::<Again>(Way::new(Again::STAGES, ScheduleKind::GPipe, Checkpoint::Never));
    let x = input(15).set_requires_grad(true);
    let [expected, sum] = plain(&vars, &x);
    let (output, Mean(found)) = pipe.forward(&x).unwrap();
    let gradients = Tensor::run_backward(&[loss(&expected, &sum)], &[&x], false, false);
    loss(&output, &found).backward();
    assert_near(&x.grad(), &gradients[0], "the input of `forward`");
    let (output, _) = tch::no_grad(|| pipe.evaluating(|pipe| pipe.forward(&x).unwrap()));
    assert_near(&output, &expected, "an evaluation");
    let (output, _) = pipe.into_inner().unpipelined().chunks(2).forward(&x).unwrap();
    assert_near(&output, &expected, "an unpipelined run");

    let (model, vars) = Spread::make(Spread::STAGES);
    let profile = Balance::of(&model, &vars).stages(4).by_size(input(15)).unwrap();
    let ways = profile.skips().iter().filter(|skip| ["level", "before"].contains(&skip.name));
    let ways: Vec<_> = ways.map(|skip| (skip.from, skip.to)).collect();
    assert_eq!(ways, [(1, 11), (2, 10), (3, 9), (4, 8), (5, 7)]);
    let profile =
        Balance::of(&model, &vars).chunks(4).memory_limit(1 << 30).timeout(Duration::ZERO).advise(input(15), 2);
    assert!(profile.unwrap().choice().is_some_and(|choice| choice.ranks == 2));
}

#[test]
fn arrays_of_other_lengths_are_refused() {
    let _serial = pipe_tests::serial();
    let make = |downs: usize, ups: usize| {
        let vars = Vecs::vars(&Devices::cpu(Vecs::STAGES)).unwrap();
        let linear = |path: Path<'_>| linear(path, WIDTH, WIDTH);
        let [first, middle, last] = [vars.first(), vars.middle(), vars.last()].map(linear);
        let downs = vars.downs(downs).into_iter().map(|path| Down(linear(path))).collect();
        let ups = vars.ups(ups).into_iter().map(|path| Up(linear(path))).collect();
        (Vecs { first, downs, middle, ups, last }, vars)
    };
    let (model, vars) = make(5, 4);
    let unpipelined = model.unpipelined().forward(input(15)).map(drop).unwrap_err().to_string();
    assert!(unpipelined.contains("1 of `level` are left: fewer layers pop it than have stashed it"), "{unpipelined}");
    let error = model.pipe(&vars).build().map(drop).unwrap_err().to_string();
    let expected = "each layer of `downs` stashes `level`, and each of `ups` pops one: there are 5 and 4 of them, and \
                    must be as many";
    assert_eq!(error, expected);
    let unpipelined = make(5, 6).0.unpipelined().forward(input(15)).map(drop).unwrap_err().to_string();
    assert!(unpipelined.contains("there is no `level` left: more layers pop it than have stashed it"), "{unpipelined}");
}
