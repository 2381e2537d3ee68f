//! Lent values, beside plain tch on the whole batch: read by arrays, blocks and single layers, in
//! the stage that lends them and in others, recomputed or not.

use std::ops::Deref;

use pipe_runtime::balance::Balance;
use pipe_runtime::{Checkpoint, Context, Devices, Flow, Layer, Pipe, Pipeline, ScheduleKind, Vars, pipeline};
use pipe_tests::layers::linear;
use pipe_tests::way::{Way, assert_near, assert_trained};
use proptest::prelude::*;
use tch::nn::{Linear, Path};
use tch::{Device, Kind, Tensor};

const WIDTH: i64 = 6;

/// Lends its second input, and goes on with the first.
struct First;

impl Layer<(Tensor, Option<Tensor>)> for First {
    type Out = Tensor;

    fn run(&self, (x, _): (Tensor, Option<Tensor>), _cx: &Context) -> Tensor {
        x
    }
}

/// Reads what is lent: a memory and a mask, which may be absent.
struct Decode(Linear);

impl Layer<(Tensor, Tensor, Option<Tensor>)> for Decode {
    type Out = Tensor;

    fn run(&self, (x, memory, mask): (Tensor, Tensor, Option<Tensor>), _cx: &Context) -> Tensor {
        decode(&x, &memory, mask.as_ref(), &self.0.ws, self.0.bs.as_ref().unwrap())
    }
}

fn decode(x: &Tensor, memory: &Tensor, mask: Option<&Tensor>, weight: &Tensor, bias: &Tensor) -> Tensor {
    let x = x.linear(weight, Some(bias)) + memory.tanh() * x;
    mask.map_or_else(|| x.shallow_clone(), |mask| &x * mask)
}

/// Takes a weight beside its input.
struct Tied;

impl Layer<(Tensor, Tensor)> for Tied {
    type Out = Tensor;

    fn run(&self, (x, weight): (Tensor, Tensor), _cx: &Context) -> Tensor {
        x.matmul(&weight)
    }
}

/// Takes the mask and a skip.
struct Join;

impl Layer<(Tensor, Option<Tensor>, Tensor)> for Join {
    type Out = Tensor;

    fn run(&self, (x, mask, skip): (Tensor, Option<Tensor>, Tensor), _cx: &Context) -> Tensor {
        x + mask.unwrap_or_else(|| Tensor::ones([1], (Kind::Float, Device::Cpu))) * skip
    }
}

/// Two layers that read what their model lends.
#[pipeline(read(memory: Tensor, mask: Option<Tensor>))]
struct Block {
    #[read(memory, mask)]
    one: Decode,
    #[read(memory, mask)]
    two: Decode,
}

impl Block {
    fn new(path: Path<'_>) -> Self {
        Self { one: layer(&path / "one"), two: layer(&path / "two") }
    }
}

fn layer(path: Path<'_>) -> Decode {
    Decode(linear(path, WIDTH, WIDTH))
}

/// The same model, with or without `#[recompute]` on its layers.
macro_rules! translate {
    ($name:ident, $vars:ident $(, #[$again:ident])?) => {
        #[pipeline(input = (Tensor, Option<Tensor>))]
        struct $name {
            #[device("cpu")]
            #[lend(mask = input.1)]
            first: First,
            #[lend(weight = tied)]
            #[stash(start = input)]
            embed: Linear,
            #[lend(memory = output)]
            encode: Linear,
            $(#[$again])?
            #[read(memory, mask)]
            near: Decode,
            $(#[$again])?
            #[devices("cpu", "cpu")]
            #[read(memory, mask)]
            decode: [Decode; 5],
            $(#[$again])?
            #[read(memory, mask)]
            after: Decode,
            $(#[$again])?
            #[read(weight)]
            tied: Tied,
            #[device("cpu")]
            #[read(mask)]
            #[pop(start)]
            join: Join,
            $(#[$again])?
            #[repeat]
            #[read(memory, mask)]
            blocks: Vec<Block>,
            #[read(weight)]
            head: Tied,
        }

        impl Translate for $name {
            type Vars = $vars;

            fn make(stages: usize) -> (Self, $vars) {
                let vars = Self::vars(&Devices::cpu(stages)).unwrap();
                let model = Self {
                    first: First,
                    embed: linear(vars.embed(), WIDTH, WIDTH),
                    encode: linear(vars.encode(), WIDTH, WIDTH),
                    near: layer(vars.near()),
                    decode: vars.decode().map(layer),
                    after: layer(vars.after()),
                    tied: Tied,
                    join: Join,
                    blocks: vars.blocks(2).into_iter().map(Block::new).collect(),
                    head: Tied,
                };
                (model, vars)
            }
        }
    };
}

/// One of the two models.
trait Translate: Pipeline<Input = (Tensor, Option<Tensor>), Output = Tensor> {
    type Vars: Deref<Target = Vars>;

    fn make(stages: usize) -> (Self, Self::Vars);
}

translate!(Kept, KeptVars);
translate!(Again, AgainVars, #[recompute]);

/// The model in plain tch.
fn plain(vars: &Vars, x: &Tensor, mask: Option<&Tensor>) -> Tensor {
    let variables = vars.var_store().variables();
    let get = |name: &str, part: &str| variables[&format!("{name}.{part}")].shallow_clone();
    let dense = |x: &Tensor, name: &str| x.linear(&get(name, "weight"), Some(&get(name, "bias")));
    let start = x;
    let memory = dense(&dense(x, "embed"), "encode");
    let read = |x: &Tensor, name: &str| decode(x, &memory, mask, &get(name, "weight"), &get(name, "bias"));
    let mut x = read(&memory, "near");
    for number in 0..5 {
        x = read(&x, &format!("decode.{number}"));
    }
    x = read(&x, "after").matmul(&get("embed", "weight"));
    x = &x + mask.map_or_else(|| start.shallow_clone(), |mask| mask * start);
    for name in ["blocks.0.one", "blocks.0.two", "blocks.1.one", "blocks.1.two"] {
        x = read(&x, name);
    }
    x.matmul(&get("embed", "weight"))
}

fn input(rows: i64) -> (Tensor, Tensor) {
    let new = || Tensor::rand([rows, WIDTH], (Kind::Float, Device::Cpu));
    (new(), new())
}

fn loss(output: &Tensor) -> Tensor {
    output.square().mean_dim(1, false, Kind::Float).mean(Kind::Float)
}

fn build<M: Translate>(way: Way) -> (Pipe<M>, M::Vars) {
    tch::manual_seed(3);
    let (model, vars) = M::make(way.stages);
    (way.pipe(model, &vars), vars)
}

fn train<M: Translate>(way: Way, masked: bool) {
    let (mut pipe, vars) = build::<M>(way);
    let (x, mask) = input(way.rows);
    let mask = masked.then_some(mask);
    let report = pipe.train_step((&x, mask.as_ref()), (), |output: &Tensor, ()| loss(output)).unwrap();
    let about = format!("{}, {way:?}, mask: {masked}", M::PLAN.name);
    assert_trained(&vars, &report.loss, &loss(&plain(&vars, &x, mask.as_ref())), &about);
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
fn ways<M: Translate>(pipe: &mut Pipe<M>) -> Vec<(usize, usize)> {
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
    let (model, vars) = Kept::make(1);
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

    let (model, vars) = Kept::make(Kept::STAGES);
    let profile = Balance::of(&model, &vars).stages(4).by_size((&x, Some(&mask))).unwrap();
    // From the layer that lends it to the first reader, and from each reader to the next one.
    let memory = profile.skips().iter().filter(|skip| skip.name == "memory");
    let memory: Vec<_> = memory.map(|skip| (skip.from, skip.to)).collect();
    assert_eq!(memory, [(2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8), (8, 9), (9, 12), (12, 13)]);
}
