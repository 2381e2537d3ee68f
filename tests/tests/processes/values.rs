//! Values of every form between processes: lent values and tied weights, sums, inputs that each
//! micro-batch gets whole, integers, `Option`s, lists, stages without a gradient and micro-batches
//! that do not count.

use pipe_runtime::optim::{LossScaler, Sgd};
use pipe_runtime::{
    Checkpoint, Context, Devices, Error, Layer, Mean, Pipe, Reduction, Replicate, Result, ScheduleKind, Trainer, World,
};
use pipe_runtime::{List, pipeline};
use pipe_tests::layers::linear;
use tch::nn::{self, Embedding, Linear};
use tch::{Device, Kind, Tensor};

use crate::launch::{BOTH, Mpich, Ulfm, in_processes};

type Inputs = (Tensor, Replicate<Tensor>, f64);

#[pipeline(input = Inputs, output = (Tensor, List<i64>), sum(size: Mean), allow(short_skip))]
struct Mixed {
    #[device("cpu")]
    begin: Begin,
    #[lend(words = tied, first = output)]
    #[sum(size)]
    embed: Embed,
    #[device("cpu")]
    frozen: Linear,
    #[stash(maybe, order)]
    sometimes: Sometimes,
    #[device("cpu")]
    #[pop(maybe, order)]
    #[read(words, first)]
    #[sum(size)]
    gather: Gather,
    #[device("cpu")]
    #[read(first, words)]
    head: Head,
}

/// Passes on the words, and adds nothing to them.
struct Begin;

impl Layer<Inputs> for Begin {
    type Out = (Tensor, Tensor, f64);

    fn run(&self, (words, Replicate(table), scale): Inputs, _cx: &Context) -> Self::Out {
        (words, table, scale)
    }
}

#[derive(Debug)]
struct Embed(Embedding);

impl pipe_runtime::Tied for Embed {
    type Value = Tensor;

    fn tied(&self) -> Tensor {
        self.0.ws.shallow_clone()
    }
}

impl Layer<(Tensor, Tensor, f64)> for Embed {
    type Out = (Tensor, Tensor);

    fn run(&self, (words, table, scale): (Tensor, Tensor, f64), _cx: &Context) -> Self::Out {
        with_size(words.apply(&self.0).mean_dim(1, false, Kind::Float).matmul(&table) * scale)
    }
}

/// The value, and what is added up of it.
fn with_size(x: Tensor) -> (Tensor, Tensor) {
    let size = x.square().mean(Kind::Float);
    (x, size)
}

/// Sends an `Option` that is `None` in odd micro-batches, and integers in a list.
struct Sometimes;

impl Layer<Tensor> for Sometimes {
    type Out = (Tensor, Option<Tensor>, Vec<Tensor>);

    fn run(&self, x: Tensor, cx: &Context) -> Self::Out {
        let maybe = cx.micro_batch().is_multiple_of(2).then(|| x.sin());
        let order = (0..cx.micro_batch()).map(|_| x.argsort(-1, false)).collect();
        (x, maybe, order)
    }
}

struct Gather;

impl Layer<(Tensor, Option<Tensor>, Vec<Tensor>, Tensor, Tensor)> for Gather {
    type Out = (Tensor, Tensor);

    fn run(
        &self,
        (x, maybe, order, words, first): (Tensor, Option<Tensor>, Vec<Tensor>, Tensor, Tensor),
        _cx: &Context,
    ) -> Self::Out {
        let x = x + first * words.mean(Kind::Float);
        let x = maybe.map_or_else(|| x.shallow_clone(), |maybe| &x + maybe);
        with_size(order.iter().fold(x, |x, order| x.gather(-1, order, false)))
    }
}

struct Head;

impl Layer<(Tensor, Tensor, Tensor)> for Head {
    type Out = (Tensor, List<i64>);

    fn run(&self, (x, first, words): (Tensor, Tensor, Tensor), cx: &Context) -> Self::Out {
        ((x + first).matmul(&words.tr()), List(vec![cx.micro_batch() as i64]))
    }
}

fn train(devices: &Devices, checkpoint: Checkpoint, schedule: ScheduleKind) -> Result<(Vec<Tensor>, MixedVars)> {
    tch::manual_seed(21);
    let vars = Mixed::vars(devices)?;
    let model = Mixed {
        begin: Begin,
        embed: Embed(nn::embedding(vars.embed(), 11, 8, Default::default())),
        frozen: linear(vars.frozen(), 8, 8),
        sometimes: Sometimes,
        gather: Gather,
        head: Head,
    };
    vars.freeze("frozen")?;
    let pipe = model.pipe(&vars).chunks(4).checkpoint(checkpoint).schedule(schedule).intra_op_threads(1).build()?;
    let optimizer = pipe.optimizer(Sgd { lr: 0.1, momentum: 0.9, ..Sgd::default() }).build()?;
    let scaler = LossScaler::default().with_scale(1024.);
    let mut trainer = Trainer::new(pipe, optimizer)?.loss_scaling(scaler)?;
    let mut numbers = Vec::new();
    for step in 0..4 {
        let words = Tensor::randint(11, [9 + step, 5], (Kind::Int64, Device::Cpu));
        let labels = Tensor::randint(11, [9 + step], (Kind::Int64, Device::Cpu));
        // The rows of the last micro-batch are all ignored: its loss is NaN and does not count.
        let _ = labels.narrow(0, 9 + step - 2, 2).fill_(-100);
        let table = Tensor::randn([8, 8], (Kind::Float, Device::Cpu));
        let counted = |labels: &Tensor| labels.ne(-100).sum(Kind::Int64).int64_value(&[]) as f64;
        let report = trainer.step_by(|step| {
            step.reduction(Reduction::Weighted(&counted)).keep_output().run(
                (words, Replicate(table), 0.5),
                &labels,
                |((logits, _), Mean(size)): &((Tensor, List<i64>), Mean), labels: &Tensor| {
                    logits.cross_entropy_for_logits(labels) + size * 0.1
                },
            )
        })?;
        numbers.push(report.step.loss);
        let ((logits, List(micro_batches)), Mean(size)) = report.step.output;
        numbers.extend([logits, size]);
        numbers.push(Tensor::from_slice(&micro_batches));
        numbers.push(Tensor::from(report.update.expect("each step updates").norm));
    }
    Ok((numbers, vars))
}

#[test]
fn values_of_every_form_are_those_of_one_process() {
    const NAME: &str = "values::values_of_every_form_are_those_of_one_process";
    for (mpi, processes) in [(Ulfm, 2), (Ulfm, 4), (Mpich, 3)] {
        in_processes(mpi, processes, NAME, || {
            let world = World::init().unwrap();
            tch::set_num_threads(1);
            for schedule in [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1] {
                for checkpoint in [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never] {
                    let (expected, whole) = train(&Devices::cpu(4), checkpoint, schedule).unwrap();
                    let across = Devices::cpu(4).across(&world).unwrap();
                    let (found, vars) = train(&across, checkpoint, schedule).unwrap();
                    assert_eq!(found.len(), expected.len());
                    for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        assert!(found.equal(expected), "{schedule:?} {checkpoint:?}, {number}: {found:?} {expected:?}");
                    }
                    for (name, found) in vars.select("*").unwrap().into_iter().filter(|(name, _)| vars.is_here(name)) {
                        assert!(found.equal(&whole.select(&name).unwrap()[0].1), "{schedule:?} {checkpoint:?} {name}");
                    }
                }
            }
        });
    }
}

/// Two arrays of which each layer has a skip, over four stages.
#[pipeline(chunks = 3, schedule = "1f1b")]
struct Ladder {
    #[devices("cpu", "cpu")]
    #[stash(level[..])]
    down: [Down; 3],
    #[devices("cpu", "cpu")]
    #[pop(level[..])]
    up: [Up; 3],
}

/// Stashes a number with a tensor.
struct Down(Linear);

impl Layer<Tensor> for Down {
    type Out = (Tensor, (Tensor, f64));

    fn run(&self, x: Tensor, cx: &Context) -> Self::Out {
        let y = x.apply(&self.0).tanh();
        (y, (x.sin(), cx.micro_batch() as f64))
    }
}

struct Up(Linear);

impl Layer<(Tensor, (Tensor, f64))> for Up {
    type Out = Tensor;

    fn run(&self, (x, (level, number)): (Tensor, (Tensor, f64)), _cx: &Context) -> Tensor {
        (x + level * number).apply(&self.0)
    }
}

#[test]
fn the_skips_of_an_array_go_to_another_process() {
    const NAME: &str = "values::the_skips_of_an_array_go_to_another_process";
    let step = |devices: &Devices| {
        tch::manual_seed(6);
        let vars = Ladder::vars(devices).unwrap();
        let (down, up) = (vars.down(), vars.up());
        let net = Ladder { down: down.map(|path| Down(linear(path, 8, 8))), up: up.map(|path| Up(linear(path, 8, 8))) };
        let mut pipe = net.pipe(&vars).intra_op_threads(1).build().unwrap();
        let x = Tensor::rand([8, 8], (Kind::Float, Device::Cpu));
        let report = pipe.train_step(&x, &x, |y: &Tensor, x: &Tensor| y.mse_loss(x, tch::Reduction::Mean)).unwrap();
        (report.loss, vars)
    };
    for processes in [2, 4] {
        in_processes(Ulfm, processes, NAME, || {
            let world = World::init().unwrap();
            tch::set_num_threads(1);
            let (expected, whole) = step(&Devices::cpu(4));
            let (found, vars) = step(&Devices::cpu(4).across(&world).unwrap());
            assert!(found.equal(&expected), "{found:?} {expected:?}");
            for (name, own) in vars.select("*").unwrap().into_iter().filter(|(name, _)| vars.is_here(name)) {
                assert!(own.grad().equal(&whole.select(&name).unwrap()[0].1.grad()), "{name}");
            }
        });
    }
}

/// Gives a text as long as its input says.
struct Speaker;

impl Layer<Tensor> for Speaker {
    type Out = (Tensor, String);

    fn run(&self, x: Tensor, cx: &Context) -> Self::Out {
        let length = x.max().int64_value(&[]) as usize;
        (x, ["a", "b"][cx.micro_batch()].repeat(length))
    }
}

/// Counts the letters of a text that begins with an `a`, and fails with any other.
struct Listener;

impl Layer<(Tensor, String)> for Listener {
    type Out = Tensor;

    fn run(&self, (x, text): (Tensor, String), _cx: &Context) -> Tensor {
        assert!(text.starts_with('a'), "{text}");
        x.ones_like() * text.matches('a').count() as f64
    }
}

#[pipeline(chunks = 2)]
struct Wordy {
    #[device("cpu")]
    speaker: Speaker,
    #[device("cpu")]
    listener: Listener,
}

/// Messages and agreements of more than one piece.
#[test]
fn long_texts_and_long_errors_go_to_another_process() {
    const NAME: &str = "values::long_texts_and_long_errors_go_to_another_process";
    for mpi in BOTH {
        in_processes(mpi, 2, NAME, || {
            let world = World::init().unwrap();
            let vars = Wordy::vars(&Devices::cpu(2).across(&world).unwrap()).unwrap();
            let mut pipe = Wordy { speaker: Speaker, listener: Listener }.pipe(&vars).build().unwrap();
            for length in [1_000, 65_536, 300_000] {
                let x = Tensor::full([1, 1], length, (Kind::Float, Device::Cpu));
                let heard = pipe.predict(&x).unwrap();
                assert_eq!(f64::try_from(heard.sum(Kind::Double)).unwrap(), length as f64);
                match pipe.predict(Tensor::cat(&[&x, &x], 0)) {
                    Err(Error::Failed(failure)) => assert_eq!(failure.cause.matches('b').count(), length as usize),
                    other => panic!("{other:?}"),
                }
            }
        });
    }
}

#[pipeline(chunks = 2)]
struct Small {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Linear,
}

/// Gives another number in each micro-batch.
struct Number;

impl Layer<Tensor> for Number {
    type Out = (Tensor, usize);

    fn run(&self, x: Tensor, cx: &Context) -> Self::Out {
        (x, cx.micro_batch())
    }
}

#[pipeline(chunks = 2, output = (Tensor, usize))]
struct Numbered {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Number,
}

fn build_numbered(devices: &Devices) -> Pipe<Numbered> {
    let vars = Numbered::vars(devices).unwrap();
    let net = Numbered { first: linear(vars.first(), 8, 8), last: Number };
    net.pipe(&vars).intra_op_threads(1).build().unwrap()
}

#[test]
fn an_output_can_stay_where_the_last_stage_is() {
    const NAME: &str = "values::an_output_can_stay_where_the_last_stage_is";
    let build = |devices: &Devices| {
        tch::manual_seed(5);
        let vars = Small::vars(devices).unwrap();
        let net = Small { first: linear(vars.first(), 8, 8), last: linear(vars.last(), 8, 8) };
        net.pipe(&vars).intra_op_threads(1).build().unwrap()
    };
    let loss = |output: &Tensor, x: &Tensor| output.mse_loss(x, tch::Reduction::Mean);
    in_processes(Ulfm, 2, NAME, || {
        let world = World::init().unwrap();
        tch::set_num_threads(1);
        let mut pipe = build(&Devices::cpu(2).across(&world).unwrap());
        let x = Tensor::ones([4, 8], (Kind::Float, Device::Cpu));
        let all = pipe.predict(&x).unwrap();
        let own = pipe.predict_on_last(&x).unwrap();
        assert_eq!(own, (!world.is_first()).then_some(all));
        let kept = pipe.step().keep_output_on_last().run(&x, &x, loss).unwrap();
        assert_eq!(kept.output.is_some(), !world.is_first());
        // Both have the same error if the outputs cannot be joined, and draw the same numbers then.
        let mut numbered = build_numbered(&Devices::cpu(2).across(&world).unwrap());
        for on_last in [true, false] {
            tch::manual_seed(1);
            let error = match on_last {
                true => numbered.predict_on_last(&x).map(drop),
                false => numbered.predict(&x).map(drop),
            };
            assert!(error.unwrap_err().to_string().contains("cannot be joined"));
            let drawn = f64::try_from(Tensor::rand([1], (Kind::Double, Device::Cpu))).unwrap();
            let all = world.all_gather(&drawn.to_le_bytes()).unwrap();
            assert_eq!(all[0], all[1]);
        }
        // Both say what they want.
        let error = if world.is_first() { pipe.predict(&x).map(drop) } else { pipe.predict_on_last(&x).map(drop) };
        let error = error.unwrap_err().to_string();
        assert!(error.contains("calls predict_on_last") && error.contains("calls forward"), "{error}");
    });
    // A process that is alone gets it.
    let mut pipe = build(&Devices::cpu(2));
    let x = Tensor::ones([4, 8], (Kind::Float, Device::Cpu));
    let expected = pipe.predict(&x).unwrap();
    assert_eq!(pipe.predict_on_last(&x).unwrap(), Some(expected));
    assert!(pipe.step().keep_output_on_last().run(&x, &x, loss).unwrap().output.is_some());
}
