//! Replicas of a pipeline, each on rows of its own, train as one pipeline on all rows.

use pipe_runtime::optim::AdamW;
use pipe_runtime::{
    Checkpoints, Context, Devices, Error, Layer, Pipe, Reduction, Result, ScheduleKind, StepReport, Trainer, World,
    pipeline,
};
use pipe_tests::layers::{dropout, linear};
use tch::nn::{self, BatchNorm, FuncT, Linear};
use tch::{Device, Kind, Tensor};

use crate::launch::{BOTH, LIMIT, Launcher, Ulfm, in_processes, launch};

/// A layer that some rows do not use: then its weight gets no gradient.
#[derive(Debug)]
struct Seldom(Linear);

impl Layer<Tensor> for Seldom {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        match f64::try_from(x.max()).unwrap() > 100. {
            true => panic!("told to fail"),
            false if f64::try_from(x.max()).unwrap() > 50. => &x + (&x * 0.01).apply(&self.0),
            false => x,
        }
    }
}

#[pipeline]
struct Net {
    #[device("cpu")]
    seldom: Seldom,
    wide: Linear,
    drop: FuncT<'static>,
    #[device("cpu")]
    last: Linear,
}

fn make(devices: &Devices, chunks: usize) -> (Pipe<Net>, NetVars) {
    make_for(devices, chunks, ScheduleKind::OneFOneB)
}

fn make_for(devices: &Devices, chunks: usize, kind: ScheduleKind) -> (Pipe<Net>, NetVars) {
    tch::manual_seed(7);
    let vars = Net::vars(devices).unwrap();
    let net = Net {
        seldom: Seldom(linear(vars.seldom(), 8, 8)),
        // Large enough to be cut.
        wide: linear(vars.wide(), 8, 900),
        drop: dropout(0.3),
        last: linear(vars.last(), 900, 3),
    };
    let pipe = net.pipe(&vars).chunks(chunks).schedule(kind).ranks(2).intra_op_threads(1);
    (pipe.build().unwrap(), vars)
}

/// Rows from this one on: the first ones use all layers.
fn batch(rows: std::ops::Range<i64>) -> (Tensor, Tensor) {
    let whole = Tensor::arange(64 * 8, (Kind::Float, Device::Cpu)).view([64, 8]);
    let (x, y) = (whole.sin() + whole.lt(16.).to_kind(Kind::Float) * 60., whole.cos().narrow(1, 0, 3));
    let part = |tensor: Tensor| tensor.narrow(0, rows.start, rows.end - rows.start);
    (part(x), part(y))
}

fn mse(output: &Tensor, y: &Tensor) -> Tensor {
    output.mse_loss(y, tch::Reduction::Mean)
}

fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    f64::try_from((found - expected).norm() / expected.norm().clamp_min(1e-3)).unwrap()
}

/// The rows of a replica: eight for each, or five and eleven for each two.
fn rows(world: &World, uneven: bool) -> std::ops::Range<i64> {
    let start = 8 * world.replica() as i64;
    match (uneven, world.replica() % 2) {
        (false, _) => start..start + 8,
        (true, 0) => start..start + 5,
        (true, _) => start - 3..start + 8,
    }
}

/// Runs `body` in so many processes, which are so many replicas. No two launches have as many.
fn for_replicas(name: &str, launches: &[(Launcher, usize, usize)], body: impl Fn(&World, usize)) {
    for &(mpi, processes, _) in launches {
        in_processes(mpi, processes, &format!("replicas::{name}"), || {
            let alone = World::init().unwrap();
            let (_, _, replicas) = launches.iter().find(|launch| launch.1 == alone.size()).unwrap();
            tch::set_num_threads(1);
            body(&alone.replicas(*replicas).unwrap(), *replicas);
        });
    }
}

const LAUNCHES: [(Launcher, usize, usize); 3] = [(BOTH[0], 2, 2), (BOTH[1], 4, 2), (BOTH[0], 3, 3)];

#[test]
fn a_training_of_replicas_is_one_on_all_rows() {
    for_replicas("a_training_of_replicas_is_one_on_all_rows", &LAUNCHES, |world, replicas| {
        for uneven in [false, true].into_iter().filter(|uneven| !uneven || replicas % 2 == 0) {
            let all = 0..8 * replicas as i64;
            let (mut whole, expected) = make(&Devices::cpu(2), 2 * replicas);
            let (mut part, found) = make(&Devices::cpu(2).across(world).unwrap(), 2);
            // Other micro-batches have other masks of dropout, and `Seldom` sees other rows
            // together.
            let shift = if uneven { 16 } else { 0 };
            if uneven {
                whole.eval();
                part.eval();
            }
            let batch = |rows: std::ops::Range<i64>| batch(rows.start + shift..rows.end + shift);
            tch::manual_seed(3);
            let (x, y) = batch(all);
            let one: StepReport = whole.train_step(&x, &y, mse).unwrap();
            tch::manual_seed(3);
            let (x, y) = batch(rows(world, uneven));
            let report = part.train_step(&x, &y, mse).unwrap();
            assert!(distance(&report.loss, &one.loss) < 1e-6, "{} for {}", report.loss, one.loss);
            assert_eq!(report.losses.len(), 2 * replicas, "the losses of all replicas");
            for ((name, found_tensor), (_, expected)) in
                found.select("*").unwrap().iter().zip(expected.select("*").unwrap())
            {
                assert!(uneven || expected.grad().defined(), "{name} has no gradient");
                if found.is_here(name) && expected.grad().defined() {
                    let distance = distance(&found_tensor.grad(), &expected.grad());
                    assert!(distance < 2e-6, "{name}: {distance}");
                }
            }
        }
    });
}

#[test]
fn replicas_stay_equal_to_the_bit_and_repeat_themselves() {
    for_replicas("replicas_stay_equal_to_the_bit_and_repeat_themselves", &LAUNCHES, |world, _| {
        let train = || -> Vec<u8> {
            let (pipe, vars) = make(&Devices::cpu(2).across(world).unwrap(), 2);
            let optimizer = pipe.optimizer(AdamW { lr: 0.01, ..AdamW::default() }).clip_norm(0.1).build().unwrap();
            let mut trainer = Trainer::new(pipe, optimizer).unwrap();
            tch::manual_seed(1);
            let (x, y) = batch(rows(world, false));
            for _ in 0..4 {
                let _ = trainer.step(&x, &y, mse).unwrap();
            }
            let own = vars.select("*").unwrap().into_iter().filter(|(name, _)| vars.is_here(name));
            let values = own.flat_map(|(_, tensor)| Vec::<f32>::try_from(tensor.view([-1])).unwrap());
            values.flat_map(f32::to_le_bytes).collect()
        };
        let first = train();
        assert!(!first.is_empty() && first == train());
        let all = world.all_gather(&first).unwrap();
        let per_replica = world.size() / world.replica_count();
        let twins =
            all.iter().enumerate().filter(|(process, _)| process % per_replica == world.process() % per_replica);
        assert!(twins.into_iter().all(|(_, bytes)| *bytes == first), "replicas have the same parameters");
    });
}

#[test]
fn reductions_are_over_the_rows_of_all_replicas() {
    for_replicas("reductions_are_over_the_rows_of_all_replicas", &LAUNCHES[..1], |world, replicas| {
        // The second replica's rows do not count at all.
        let counted = |y: &Tensor| y.size()[0] as f64 * f64::from(u8::from(world.replica() == 0));
        let run = |pipe: &mut Pipe<Net>, rows: std::ops::Range<i64>, weighted: bool| -> Result<StepReport> {
            pipe.eval();
            let (x, y) = batch(rows);
            let squares = |output: &Tensor, y: &Tensor| (output - y).square().sum(Kind::Float);
            match weighted {
                true => pipe.step().reduction(Reduction::Weighted(&counted)).run(&x, &y, mse),
                false => pipe.step().reduction(Reduction::Sum).run(&x, &y, squares),
            }
        };
        let (mut whole, _) = make(&Devices::cpu(2), 2 * replicas);
        let (mut part, _) = make(&Devices::cpu(2).across(world).unwrap(), 2);
        let sum = run(&mut part, rows(world, false), false).unwrap().loss;
        let expected = run(&mut whole, 0..8 * replicas as i64, false).unwrap().loss;
        assert!(distance(&sum, &expected) < 1e-6, "{sum} for {expected}");
        let mean = run(&mut part, rows(world, false), true).unwrap().loss;
        let (mut whole, _) = make(&Devices::cpu(2), 2);
        whole.eval();
        let (x, y) = batch(0..8);
        let expected = whole.train_step(&x, &y, mse).unwrap().loss;
        assert!(distance(&mean, &expected) < 1e-6, "{mean} for {expected}");
    });
}

#[test]
fn a_failure_in_one_replica_is_that_of_all_and_nothing_has_changed() {
    for_replicas("a_failure_in_one_replica_is_that_of_all_and_nothing_has_changed", &LAUNCHES, |world, replicas| {
        let (mut pipe, vars) = make(&Devices::cpu(2).across(world).unwrap(), 2);
        let (mut untouched, expected) = make(&Devices::cpu(2).across(world).unwrap(), 2);
        let (x, y) = batch(rows(world, false));
        tch::manual_seed(1);
        let one = untouched.train_step(&x, &y, mse).unwrap().loss;
        tch::manual_seed(1);
        for failing in 0..replicas {
            let x = &x + if world.replica() == failing { 200. } else { 0. };
            match pipe.train_step(&x, &y, mse) {
                Err(Error::Failed(failure)) => assert_eq!((failure.stage, failure.layer.as_str()), (0, "seldom")),
                other => panic!("{other:?}"),
            }
            assert!(vars.select("*").unwrap().iter().all(|(_, tensor)| !tensor.grad().defined()));
        }
        assert!(pipe.train_step(&x, &y, mse).unwrap().loss.equal(&one), "the step after failures");
        for ((name, found), (_, expected)) in vars.select("*").unwrap().iter().zip(expected.select("*").unwrap()) {
            assert!(!vars.is_here(name) || found.grad().equal(&expected.grad()), "{name}");
        }
    });
}

#[pipeline(chunks = 2, allow(single_stage))]
struct Normed {
    #[device("cpu")]
    norm: Norm,
    last: Linear,
}

#[derive(Debug)]
struct Norm(BatchNorm);

impl Layer<Tensor> for Norm {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        x.apply_t(&self.0, cx.is_training())
    }
}

/// Each process is a replica. Their statistics are the mean of what each would have alone.
#[test]
fn statistics_are_the_mean_of_the_replicas() {
    in_processes(Ulfm, 2, "replicas::statistics_are_the_mean_of_the_replicas", || {
        let world = World::init().unwrap().replicas(2).unwrap();
        tch::set_num_threads(1);
        let train = |devices: &Devices, replica: i64, forward: bool| {
            tch::manual_seed(2);
            let vars = Normed::vars(devices).unwrap();
            let norm = Norm(nn::batch_norm1d(vars.norm(), 8, Default::default()));
            let last = linear(vars.last(), 8, 3);
            let mut pipe = Normed { norm, last }.pipe(&vars).intra_op_threads(1).build().unwrap();
            let (x, y) = batch(8 * replica..8 * replica + 8);
            match forward {
                true => drop(tch::no_grad(|| pipe.forward(&x).unwrap())),
                false => drop(pipe.train_step(&x, &y, mse).unwrap()),
            }
            ["norm.running_mean", "norm.running_var"].map(|name| vars.select(name).unwrap().swap_remove(0).1)
        };
        for forward in [false, true] {
            let [first, second] = [0, 1].map(|replica| train(&Devices::cpu(1), replica, forward));
            let found = train(&Devices::cpu(1).across(&world).unwrap(), world.replica() as i64, forward);
            for ((found, first), second) in found.iter().zip(first).zip(second) {
                assert!(distance(found, &((first + second) / 2)) < 1e-6);
            }
        }
    });
}

#[test]
fn replicas_must_be_alike() {
    in_processes(Ulfm, 2, "replicas::replicas_must_be_alike", || {
        let world = World::init().unwrap();
        let error = world.clone().replicas(3).unwrap_err().to_string();
        assert_eq!(error, "2 processes cannot be divided into 3 replicas of equal size");
        let world = world.replicas(2).unwrap();
        tch::set_num_threads(1);
        let (mut pipe, vars) = make(&Devices::cpu(2).across(&world).unwrap(), 2);
        let (x, y) = batch(rows(&world, false));
        // Other values.
        let weight = vars.select("last.weight").unwrap().swap_remove(0).1;
        let kept = weight.copy();
        if world.replica() == 1 {
            let _ = tch::no_grad(|| weight.shallow_clone().fill_(3.));
        }
        let error = pipe.train_step(&x, &y, mse).unwrap_err().to_string();
        assert!(error.contains("the replicas 0 and 1 have other values of `last.weight`"), "{error}");
        tch::no_grad(|| weight.shallow_clone().copy_(&kept));
        let _ = pipe.train_step(&x, &y, mse).unwrap();
        // Other frozen variables, as many or more.
        for frozen in [["seldom.weight", "wide.weight"], ["seldom.bias", "seldom.weight"], ["last.bias", "wide"]] {
            vars.freeze(frozen[world.replica()]).unwrap();
            let error = pipe.train_step(&x, &y, mse).unwrap_err().to_string();
            assert!(error.contains("differ in the variables that are trained"), "{frozen:?}: {error}");
            vars.unfreeze(frozen[world.replica()]).unwrap();
        }
        let _ = pipe.train_step(&x, &y, mse).unwrap();

        // One process knows of replicas, and the other one does not.
        let alone = World::init().unwrap();
        let other = if world.is_first() { &world } else { &alone };
        let (mut pipe, _vars) = make(&Devices::cpu(2).across(other).unwrap(), 2);
        let error = pipe.train_step(&x, &y, mse).unwrap_err().to_string();
        assert!(error.contains("have built different pipelines"), "{error}");
    });
}

/// A checkpoint of replicas is one of a single process.
#[test]
fn checkpoints_and_files_of_replicas_are_those_of_one() {
    for_replicas("checkpoints_and_files_of_replicas_are_those_of_one", &LAUNCHES[1..2], |world, _| {
        let trainer = |devices: &Devices| {
            let (pipe, vars) = make(devices, 2);
            let optimizer = pipe.optimizer(AdamW::default()).build().unwrap();
            (Trainer::new(pipe, optimizer).unwrap(), vars)
        };
        let (mut parts, vars) = trainer(&Devices::cpu(2).across(world).unwrap());
        let (x, y) = batch(rows(world, false));
        let _ = parts.step(&x, &y, mse).unwrap();
        let folder = std::env::temp_dir().join(format!("pipe-replicas-{}", std::process::id()));
        let folder = world.all_gather(folder.to_str().unwrap().as_bytes()).unwrap().swap_remove(0);
        let folder = std::path::PathBuf::from(String::from_utf8(folder).unwrap());
        let saved = Checkpoints::in_folder(&folder).save(&parts).unwrap();
        vars.save(folder.join("model.safetensors")).unwrap();

        let (mut whole, all) = trainer(&Devices::cpu(2));
        Checkpoints::resume_from(&saved, &mut whole).unwrap();
        assert_eq!(whole.steps(), 1);
        let same = |all: &NetVars| {
            let pairs = vars.select("*").unwrap().into_iter().zip(all.select("*").unwrap());
            pairs.into_iter().all(|((name, found), (_, expected))| !vars.is_here(&name) || found.equal(&expected))
        };
        assert!(same(&all));
        let (_, loaded) = trainer(&Devices::cpu(2));
        loaded.load(folder.join("model.safetensors")).unwrap();
        assert!(same(&loaded));
        let (mut again, resumed) = trainer(&Devices::cpu(2).across(world).unwrap());
        Checkpoints::resume_from(&saved, &mut again).unwrap();
        assert!(same(&resumed));
        // No process is still reading.
        let _ = world.all_gather(b"").unwrap();
        if world.is_first() {
            std::fs::remove_dir_all(folder).unwrap();
        }
    });
}

#[test]
fn every_schedule_runs_in_replicas() {
    for_replicas("every_schedule_runs_in_replicas", &LAUNCHES[1..2], |world, _| {
        for kind in ScheduleKind::ALL.into_iter().filter(|kind| kind.check(2, 1, 4).is_ok()) {
            let run = |devices: &Devices| {
                let (mut pipe, _vars) = make_for(devices, 4, kind);
                let (x, y) = batch(rows(world, false));
                pipe.train_step(&x, &y, mse).unwrap().loss
            };
            let loss = run(&Devices::cpu(2).across(world).unwrap());
            assert!(loss.equal(&run(&Devices::cpu(2).across(world).unwrap())), "{kind}");
        }
    });
}

#[pipeline(chunks = 2)]
struct Annotated {
    #[device("cpu", process = 0)]
    first: Linear,
    #[device("cpu", process = 1)]
    last: Linear,
}

#[test]
fn a_model_of_two_processes_is_whole_in_each_of_two_replicas() {
    const NAME: &str = "replicas::a_model_of_two_processes_is_whole_in_each_of_two_replicas";
    let build = |devices: &Devices| {
        tch::manual_seed(3);
        let vars = Annotated::vars(devices).unwrap();
        let net = Annotated { first: linear(vars.first(), 8, 8), last: linear(vars.last(), 8, 3) };
        (net.pipe(&vars).intra_op_threads(1).build().unwrap(), vars)
    };
    for processes in [2, 4] {
        let launched = launch(Ulfm, processes, NAME, &[processes], LIMIT, |_| {
            let world = World::init().unwrap().replicas(2).unwrap();
            tch::set_num_threads(1);
            let (mut pipe, vars) = build(&Annotated::devices().across(&world).unwrap());
            let (x, y) = batch(rows(&world, false));
            let loss = pipe.train_step(&x, &y, mse).unwrap().loss;
            let (mut alone, its_vars) = build(&Devices::cpu(2));
            let (x, y) = batch(0..16);
            let expected = alone.train_step(&x, &y, mse).unwrap().loss;
            assert!(distance(&loss, &expected) < 1e-5, "{loss:?} {expected:?}");
            let expected = its_vars.var_store().variables();
            for (name, tensor) in vars.var_store().variables().into_iter().filter(|(name, _)| vars.is_here(name)) {
                assert!(distance(&tensor.grad(), &expected[&name].grad()) < 1e-5, "{name}");
            }
        });
        launched.check(processes);
    }
}
