//! A training over several processes gives the numbers of the same training in one process, bit by
//! bit.

use pipe_runtime::optim::{Adam, AdamW, LossScaler};
use pipe_runtime::{
    CheapOutputs, Checkpoint, Checkpoints, Context, Devices, Layer, Pipe, Pipeline, Result, ScheduleKind, Trainer,
    Vars, World, autocast, pipeline,
};
use pipe_tests::layers::Merge;
use tch::nn::{self, Init};
use tch::{Device, Kind, Tensor};

use crate::launch::{BOTH, Mpich, Ulfm, in_processes};
use crate::model::{Four, FourVars, batch};

/// Settings of a training, drawn from its seed.
#[derive(Clone, Copy, Debug)]
struct Case {
    seed: i64,
    stages: usize,
    rows: i64,
    chunks: usize,
    checkpoint: Checkpoint,
    cheap: CheapOutputs,
    schedule: ScheduleKind,
    keeps_output: bool,
    /// Whether matrices are multiplied in 16 bits.
    autocast: bool,
    /// Whether the loss is scaled, and two steps make an update.
    accumulates: bool,
    /// Whether moving averages are kept, and evaluated.
    averages: bool,
}

impl Case {
    /// Draws a case that `processes` can run.
    fn draw(seed: i64, processes: usize) -> Self {
        let mut state = seed as u64;
        let mut below = |most: usize| {
            // SplitMix64.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) % most as u64) as usize
        };
        let stages = processes + below(Four::STAGES + 1 - processes);
        let chunks = stages + below(5);
        let one_stage_per_rank: Vec<_> =
            ScheduleKind::ALL.into_iter().filter(|kind| kind.check(stages, 1, chunks).is_ok()).collect();
        Self {
            seed,
            stages,
            rows: 1 + below(14) as i64,
            chunks,
            checkpoint: [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never][below(3)],
            cheap: [CheapOutputs::Keep, CheapOutputs::RecomputePointwise, CheapOutputs::RecomputeAll][below(3)],
            schedule: one_stage_per_rank[below(one_stage_per_rank.len())],
            keeps_output: below(2) == 0,
            autocast: below(4) == 0,
            accumulates: below(3) == 0,
            averages: below(3) == 0,
        }
    }
}

/// The numbers of a training: losses, gradient norms, outputs and predictions.
fn train(case: Case, devices: &Devices) -> Result<(Vec<Tensor>, FourVars)> {
    match case.autocast {
        true => autocast(Device::Cpu, Kind::BFloat16, || train_here(case, devices))?,
        false => train_here(case, devices),
    }
}

fn train_here(case: Case, devices: &Devices) -> Result<(Vec<Tensor>, FourVars)> {
    tch::manual_seed(case.seed);
    let (model, vars) = Four::make(devices)?;
    let pipe = model.pipe(&vars).chunks(case.chunks).checkpoint(case.checkpoint).schedule(case.schedule);
    let pipe = pipe.cheap_outputs(case.cheap).ranks(case.stages).intra_op_threads(1).build()?;
    let mut optimizer = pipe.optimizer(AdamW { lr: 0.01, ..AdamW::default() }).clip_norm(0.5);
    if case.averages {
        optimizer = optimizer.moving_average(0.8);
    }
    let optimizer = optimizer.build()?;
    let mut trainer = Trainer::new(pipe, optimizer)?;
    if case.accumulates {
        trainer = trainer.accumulate(2)?.loss_scaling(LossScaler::default().with_scale(64.).growth(2., 1))?;
    }
    let mse = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
    let mut numbers = Vec::new();
    for step in 0..3 {
        // A mini-batch of another size at each step.
        let (x, y) = batch(case.rows + step);
        let update = if case.keeps_output {
            let report = trainer.step_by(|step| step.keep_output().run(&x, &y, mse))?;
            numbers.push(report.step.output);
            numbers.extend(report.step.losses);
            report.update
        } else {
            let report = trainer.step(&x, &y, mse)?;
            numbers.push(report.step.loss);
            report.update
        };
        assert!(update.is_some() || (case.accumulates && step != 1), "an update, {case:?}");
        numbers.extend(update.map(|update| Tensor::from(update.norm)));
        numbers.push(trainer.pipe().predict(&x)?);
        if case.averages && update.is_some() {
            numbers.push(trainer.with_average(|pipe| pipe.predict(&x))?);
        }
    }
    Ok((numbers, vars))
}

/// Compares the trainings. Each process looks at the numbers and at its own variables.
fn compare(case: Case, world: &World) {
    let devices = Devices::cpu(case.stages);
    let (expected, whole) = train(case, &devices).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let across = devices.across(world).unwrap();
    let (found, vars) = train(case, &across).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    assert_eq!(found.len(), expected.len());
    for (number, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!(found.equal(expected), "{case:?}, number {number}: {found:?} for {expected:?}");
    }
    let (found, expected) = (vars.var_store().variables(), whole.var_store().variables());
    for (name, found) in found.iter().filter(|(name, _)| vars.is_here(name)) {
        assert!(found.equal(&expected[name]), "{case:?}: {name}");
    }
}

fn many(seeds: std::ops::Range<i64>) {
    let world = World::init().unwrap();
    tch::set_num_threads(1);
    for seed in seeds {
        compare(Case::draw(seed, world.size()), &world);
    }
}

#[test]
fn trainings_over_two_processes() {
    for mpi in BOTH {
        in_processes(mpi, 2, "same_numbers::trainings_over_two_processes", || many(0..60));
    }
}

#[test]
fn trainings_over_three_and_four_processes() {
    for (mpi, processes) in [(Ulfm, 3), (Ulfm, 4), (Mpich, 3)] {
        in_processes(mpi, processes, "same_numbers::trainings_over_three_and_four_processes", || many(100..130));
    }
}

/// Eight stages with dropout and skips, for schedules that run several of them on a rank.
#[pipeline]
struct Eight {
    #[device("cpu")]
    #[stash(far = output)]
    first: nn::Linear,
    #[devices("cpu", "cpu", "cpu", "cpu", "cpu", "cpu")]
    #[recompute(4)]
    blocks: [Block; 6],
    #[device("cpu")]
    #[pop(far)]
    merge: Merge,
    last: nn::Linear,
}

struct Block(nn::Linear);

impl Layer<Tensor> for Block {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        &x + x.apply(&self.0).dropout(0.2, cx.is_training()).tanh()
    }
}

/// The stages 0 and 3 in the first process, 1 and 2 in the second one, as ZBV goes.
#[pipeline(schedule = zbv, chunks = 4)]
struct ThereAndBack {
    #[device("cpu", process = 0)]
    first: nn::Linear,
    #[devices("cpu", "cpu", process = 1)]
    blocks: [Block; 2],
    #[device("cpu", process = 0)]
    last: nn::Linear,
}

/// The losses of three steps, and the gradients of this process after them.
fn steps<M: Pipeline<Input = Tensor, Output = Tensor>>(
    mut pipe: Pipe<M>,
    vars: &Vars,
) -> (Vec<Tensor>, Vec<(String, Tensor)>) {
    tch::manual_seed(5);
    let mse = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
    let losses = (0..3).map(|step| {
        let (x, y) = batch(13 + step);
        pipe.train_step(&x, &y, mse).unwrap().loss
    });
    let losses = losses.collect();
    let own = vars.select("*").unwrap().into_iter().filter(|(name, _)| vars.is_here(name));
    (losses, own.map(|(name, tensor)| (name, tensor.grad())).collect())
}

/// Compares a part of the gradients with the whole.
fn assert_same(
    (found, own): &(Vec<Tensor>, Vec<(String, Tensor)>),
    (expected, whole): &(Vec<Tensor>, Vec<(String, Tensor)>),
    what: &dyn std::fmt::Debug,
) {
    assert!(found.iter().zip(expected).all(|(found, expected)| found.equal(expected)), "{what:?}: losses");
    assert!(!own.is_empty());
    for (name, gradient) in own {
        let (_, expected) = whole.iter().find(|(known, _)| known == name).unwrap();
        assert!(gradient.equal(expected), "{what:?}: {name}");
    }
}

#[test]
fn every_schedule_runs_over_processes() {
    for (mpi, processes) in [(Ulfm, 2), (Mpich, 3), (Ulfm, 4)] {
        in_processes(mpi, processes, "same_numbers::every_schedule_runs_over_processes", || {
            let world = World::init().unwrap();
            tch::set_num_threads(1);
            let run = |devices: &Devices, kind: ScheduleKind| {
                tch::manual_seed(3);
                let vars = Eight::vars(devices).unwrap();
                let first = nn::linear(vars.first(), 8, 8, Default::default());
                let blocks = vars.blocks().map(|path| Block(nn::linear(path, 8, 8, Default::default())));
                let last = nn::linear(vars.last(), 8, 3, Default::default());
                let net = Eight { first, blocks, merge: Merge, last };
                let pipe = net.pipe(&vars).chunks(8).schedule(kind).intra_op_threads(1).build().unwrap();
                steps(pipe, &vars)
            };
            for kind in ScheduleKind::ALL {
                let devices = Devices::cpu(8).for_schedule(kind, None);
                let found = run(&devices.clone().across(&world).unwrap(), kind);
                assert_same(&found, &run(&devices, kind), &kind);
            }
        });
    }
}

#[test]
fn annotated_processes_run_their_stages() {
    in_processes(Ulfm, 2, "same_numbers::annotated_processes_run_their_stages", || {
        let world = World::init().unwrap();
        tch::set_num_threads(1);
        let run = |devices: &Devices| {
            tch::manual_seed(3);
            let vars = ThereAndBack::vars(devices).unwrap();
            let first = nn::linear(vars.first(), 8, 8, Default::default());
            let blocks = vars.blocks().map(|path| Block(nn::linear(path, 8, 8, Default::default())));
            let last = nn::linear(vars.last(), 8, 3, Default::default());
            let net = ThereAndBack { first, blocks, last };
            let names: Vec<_> = vars.select("*").unwrap().into_iter().map(|(name, _)| name).collect();
            let own = names.iter().filter(|name| vars.is_here(name)).count();
            let pipe = net.pipe(&vars).intra_op_threads(1).build().unwrap();
            (steps(pipe, &vars), own)
        };
        let (found, own) = run(&ThereAndBack::devices().across(&world).unwrap());
        let (expected, all) = run(&ThereAndBack::devices());
        assert_eq!((own, all), (4, 8), "each process has half of the variables");
        assert_same(&found, &expected, &"zbv");
        assert!(ThereAndBack::PLAN.to_string().contains("3      0        cpu"), "{}", ThereAndBack::PLAN);

        let error = Eight::devices().for_schedule(ScheduleKind::Zbv, 1).across(&world).unwrap_err().to_string();
        assert!(error.contains("2 processes for 1 ranks"), "{error}");
        // Stages of a rank in two processes.
        let vars = Eight::vars(&Eight::devices().across(&world).unwrap()).unwrap();
        let linear = |path| nn::linear(path, 8, 8, Default::default());
        let blocks = vars.blocks().map(|path| Block(linear(path)));
        let net = Eight { first: linear(vars.first()), blocks, merge: Merge, last: linear(vars.last()) };
        let error = net.pipe(&vars).chunks(8).schedule(ScheduleKind::Zbv).build().unwrap_err().to_string();
        assert!(error.contains("stages 3 and 4 on one rank") && error.contains("for_schedule"), "{error}");
    });
}

/// Each process has its own variables, with the values of the whole model's, and no memory for the
/// others.
#[test]
fn initial_weights_are_those_of_one_process() {
    for (mpi, processes) in [(Ulfm, 2), (Mpich, 4)] {
        in_processes(mpi, processes, "same_numbers::initial_weights_are_those_of_one_process", || {
            let world = World::init().unwrap();
            let make = |devices: &Devices| {
                tch::manual_seed(3);
                Four::make(devices).unwrap().1
            };
            let (whole, part) = (make(&Devices::cpu(4)), make(&Devices::cpu(4).across(&world).unwrap()));
            let mut own = 0;
            for ((name, expected), (same_name, found)) in
                whole.select("*").unwrap().into_iter().zip(part.select("*").unwrap())
            {
                assert_eq!((&name, expected.size()), (&same_name, found.size()));
                if part.is_here(&name) {
                    own += 1;
                    assert!(found.equal(&expected), "{name}");
                } else {
                    assert!(found.f_to_device(Device::Cpu).is_err(), "{name} has memory");
                }
            }
            assert!(own > 0);
        });
    }
}

/// Has variables of all kinds of initial values.
#[derive(Debug)]
struct Kinds(nn::Linear);

impl Kinds {
    fn new(path: nn::Path<'_>) -> Self {
        for (number, size) in [1, 15, 16, 17, 1000, (2 << 20) + 5, 3 << 20].into_iter().enumerate() {
            let path = &path / number;
            let _ = path.var("randn", &[size], Init::Randn { mean: 0.5, stdev: 2. });
            let _ = path.var("uniform", &[size], Init::Uniform { lo: -1., up: 3. });
            let _ = path.var("const", &[size], Init::Const(2.));
            let _ = path.zeros_no_train("zeros", &[size]);
        }
        nn::conv2d(&path / "conv", 3, 8, 3, Default::default());
        nn::embedding(&path / "embedding", 100, 16, Default::default());
        nn::batch_norm2d(&path / "norm", 8, Default::default());
        nn::layer_norm(&path / "layer_norm", vec![8], Default::default());
        nn::lstm(&(&path / "lstm"), 4, 6, Default::default());
        let _ = path.var("orthogonal", &[6, 4], Init::Orthogonal { gain: 1. });
        let _ = path.var_copy("copied", &Tensor::from_slice(&[1_f32, 2.]).to_device(path.device()));
        Self(nn::linear(&path / "linear", 4, 4, Default::default()))
    }
}

impl nn::Module for Kinds {
    fn forward(&self, x: &Tensor) -> Tensor {
        x.apply(&self.0)
    }
}

#[pipeline]
struct AllKinds {
    #[device("cpu")]
    first: Kinds,
    #[device("cpu")]
    last: Kinds,
}

/// The variables of other processes draw the random numbers that they would have got.
#[test]
fn every_kind_of_initial_value_is_that_of_one_process() {
    in_processes(Ulfm, 2, "same_numbers::every_kind_of_initial_value_is_that_of_one_process", || {
        let world = World::init().unwrap();
        let make = |devices: &Devices| {
            tch::manual_seed(12);
            let vars = AllKinds::vars(devices).unwrap();
            let _ = AllKinds { first: Kinds::new(vars.first()), last: Kinds::new(vars.last()) };
            (vars, Tensor::rand([3], (tch::Kind::Double, Device::Cpu)))
        };
        let (whole, next) = make(&Devices::cpu(2));
        let (part, next_of_part) = make(&Devices::cpu(2).across(&world).unwrap());
        assert!(next_of_part.equal(&next), "the random numbers after the model");
        let both = whole.select("*").unwrap().into_iter().zip(part.select("*").unwrap());
        for ((name, expected), (_, found)) in both.filter(|((name, _), _)| part.is_here(name)) {
            assert!(found.equal(&expected), "{name}");
        }
    });
}

#[pipeline(chunks = 2)]
struct Wide {
    #[device("cpu")]
    first: nn::Linear,
    #[device("cpu")]
    second: nn::Linear,
    #[device("cpu")]
    third: nn::Linear,
    #[device("cpu")]
    last: nn::Linear,
}

/// The memory of this process that is no file's, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[test]
fn each_process_has_memory_for_its_own_stages_alone() {
    in_processes(Ulfm, 4, "same_numbers::each_process_has_memory_for_its_own_stages_alone", || {
        let world = World::init().unwrap();
        // 64 MiB for each stage.
        const WIDTH: i64 = 4096;
        let before = resident();
        let vars = Wide::vars(&Devices::cpu(4).across(&world).unwrap()).unwrap();
        let linear = |path| nn::linear(path, WIDTH, WIDTH, Default::default());
        let net = Wide {
            first: linear(vars.first()),
            second: linear(vars.second()),
            third: linear(vars.third()),
            last: linear(vars.last()),
        };
        let pipe = net.pipe(&vars).build().unwrap();
        let grown = resident() - before;
        // The allocator keeps the memory in which the values of one weight were drawn.
        assert!((64 << 20..160 << 20).contains(&grown), "{} MiB for a stage of 64", grown >> 20);
        drop(pipe);
    });
}

/// One process reads what several have written, and the other way round.
#[test]
fn files_of_several_processes_are_those_of_one() {
    in_processes(Ulfm, 3, "same_numbers::files_of_several_processes_are_those_of_one", || {
        let world = World::init().unwrap();
        let make = |seed: i64, devices: &Devices| {
            tch::manual_seed(seed);
            Four::make(devices).unwrap().1
        };
        let name = world.all_gather(std::process::id().to_string().as_bytes()).unwrap().swap_remove(0);
        let file = std::env::temp_dir().join(format!("pipe-{}.safetensors", String::from_utf8(name).unwrap()));
        let across = || Devices::cpu(4).across(&world).unwrap();
        let whole = make(3, &Devices::cpu(4));
        make(3, &across()).save(&file).unwrap();
        let read = make(4, &Devices::cpu(4));
        read.load(&file).unwrap();
        let same = |a: &FourVars, b: &FourVars| {
            let pairs = a.select("*").unwrap().into_iter().zip(b.select("*").unwrap());
            pairs.filter(|((name, _), _)| b.is_here(name)).all(|((_, a), (_, b))| a.equal(&b))
        };
        assert!(same(&whole, &read));
        let part = make(5, &across());
        assert!(!same(&whole, &part));
        part.load(&file).unwrap();
        assert!(same(&whole, &part));
        world.all_gather(&[]).unwrap();
        if world.is_first() {
            std::fs::remove_file(&file).unwrap();
        }
        // A file that cannot be written is the same error everywhere.
        let error = part.save("/nowhere/at/all.safetensors").unwrap_err().to_string();
        assert!(error.contains("cannot write /nowhere/at/all.safetensors"), "{error}");
    });
}

/// A training over three processes is saved, and goes on there and in one process.
#[test]
fn a_checkpoint_of_several_processes_goes_on_in_one() {
    const NAME: &str = "same_numbers::a_checkpoint_of_several_processes_goes_on_in_one";
    in_processes(Ulfm, 3, NAME, || {
        let world = World::init().unwrap();
        tch::set_num_threads(1);
        let trainer = |seed: i64, devices: &Devices| {
            tch::manual_seed(seed);
            let (model, vars) = Four::make(devices).unwrap();
            let pipe = model.pipe(&vars).chunks(3).intra_op_threads(1).build().unwrap();
            let adam = Adam { lr: 0.02, ..Adam::default() };
            let optimizer = pipe.optimizer(adam).clip_norm(0.3).moving_average(0.9).build().unwrap();
            (Trainer::new(pipe, optimizer).unwrap(), vars)
        };
        let train = |trainer: &mut Trainer<Four>, steps: std::ops::Range<i64>| -> Vec<Tensor> {
            let mse = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
            let step = |step: i64| {
                let (x, y) = batch(7 + step);
                trainer.step(&x, &y, mse).unwrap().step.loss
            };
            steps.map(step).collect()
        };
        let name = world.all_gather(std::process::id().to_string().as_bytes()).unwrap().swap_remove(0);
        let folder = std::env::temp_dir().join(format!("pipe-checkpoints-{}", String::from_utf8(name).unwrap()));

        let (mut across, vars) = trainer(6, &Devices::cpu(4).across(&world).unwrap());
        train(&mut across, 0..2);
        // A layer of one process that is frozen after it was trained, and another that is again.
        vars.freeze("first").unwrap();
        vars.freeze("fourth").unwrap();
        assert_eq!(vars.unfreeze("fourth").unwrap(), 2);
        train(&mut across, 2..3);
        let mut checkpoints = Checkpoints::in_folder(&folder);
        checkpoints.save_in_background(&across).unwrap();
        let saved = checkpoints.finish().unwrap().unwrap();
        let expected = train(&mut across, 3..6);

        let (mut alone, whole) = trainer(7, &Devices::cpu(4));
        whole.freeze("first").unwrap();
        Checkpoints::resume_from(&saved, &mut alone).unwrap();
        assert_eq!(train(&mut alone, 3..6), expected);
        // And in another training over the processes.
        let (mut again, vars_again) = trainer(8, &Devices::cpu(3).across(&world).unwrap());
        vars_again.freeze("first").unwrap();
        assert!(Checkpoints::in_folder(&folder).resume(&mut again).unwrap());
        assert_eq!(train(&mut again, 3..6), expected);
        for (vars, place) in [(&vars, "the same training"), (&vars_again, "another one")] {
            for (name, found) in vars.select("*").unwrap().into_iter().filter(|(name, _)| vars.is_here(name)) {
                assert!(found.equal(&whole.select(&name).unwrap()[0].1), "{name} in {place}");
            }
        }
        world.all_gather(&[]).unwrap();
        if world.is_first() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
    });
}
