//! What goes wrong in one process is the same error in all of them, and nothing has changed
//! anywhere.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use pipe_runtime::optim::{AdamW, LossScaler};
use pipe_runtime::{
    Checkpoints, Context, Devices, Error, Failure, Layer, Phase, Pipe, Reduction, Result, ScheduleKind, Trainer, World,
    pipeline,
};
use pipe_tests::layers::{dropout, linear};
use tch::nn::{FuncT, Linear};
use tch::{Device, Kind, Tensor};

use crate::launch::{BOTH, Launcher, Ulfm, in_processes, launch_program};

/// Fails in the third micro-batch of a stage when it is told to.
struct Fails(&'static AtomicBool);

static FIRST: AtomicBool = AtomicBool::new(false);
static LAST: AtomicBool = AtomicBool::new(false);

impl Layer<Tensor> for Fails {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        assert!(!(self.0.load(Ordering::Relaxed) && cx.micro_batch() == 2), "told to fail");
        x
    }
}

#[pipeline(chunks = 4, checkpoint = never)]
struct Fragile {
    #[device("cpu")]
    first: Linear,
    drop: FuncT<'static>,
    fails_first: Fails,
    #[device("cpu")]
    middle: Linear,
    #[device("cpu")]
    fails_last: Fails,
    last: Linear,
}

fn build(world: &World, schedule: ScheduleKind) -> (Pipe<Fragile>, FragileVars) {
    tch::manual_seed(4);
    let vars = Fragile::vars(&Devices::cpu(3).across(world).unwrap()).unwrap();
    let model = Fragile {
        first: linear(vars.first(), 8, 8),
        drop: dropout(0.4),
        fails_first: Fails(&FIRST),
        middle: linear(vars.middle(), 8, 8),
        fails_last: Fails(&LAST),
        last: linear(vars.last(), 8, 3),
    };
    (model.pipe(&vars).schedule(schedule).intra_op_threads(1).build().unwrap(), vars)
}

fn batch() -> (Tensor, Tensor) {
    let ones = |width| Tensor::ones([8, width], (Kind::Float, Device::Cpu));
    (ones(8), ones(3))
}

fn step(pipe: &mut Pipe<Fragile>) -> Result<Tensor> {
    let (x, y) = batch();
    Ok(pipe.train_step(&x, &y, |output, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean))?.loss)
}

fn gradients(vars: &FragileVars) -> Vec<Option<Tensor>> {
    let gradient = |(_, tensor): (String, Tensor)| tensor.grad().defined().then(|| tensor.grad().copy());
    vars.select("*").unwrap().into_iter().map(gradient).collect()
}

fn same(a: &[Option<Tensor>], b: &[Option<Tensor>]) -> bool {
    a.iter().zip(b).all(|(a, b)| match (a, b) {
        (Some(a), Some(b)) => a.equal(b),
        (a, b) => a.is_none() && b.is_none(),
    })
}

/// Runs `body` in three processes for each schedule with one stage per rank.
fn for_each_schedule(mpi: Launcher, name: &str, body: impl Fn(&World, ScheduleKind)) {
    in_processes(mpi, 3, name, || {
        let world = World::init().unwrap();
        tch::set_num_threads(1);
        for schedule in [ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1] {
            body(&world, schedule);
        }
    });
}

/// A process whose stages are frozen has no gradients, and counts its steps as the others do.
#[test]
fn a_failed_step_between_two_of_one_update_is_forgotten_where_all_is_frozen_too() {
    const NAME: &str = "failures::a_failed_step_between_two_of_one_update_is_forgotten_where_all_is_frozen_too";
    in_processes(Ulfm, 3, NAME, || {
        let world = World::init().unwrap();
        tch::set_num_threads(1);
        let (pipe, vars) = build(&world, ScheduleKind::OneFOneB);
        vars.freeze("middle").unwrap();
        let optimizer = pipe.optimizer(AdamW::default()).build().unwrap();
        let mut trainer = Trainer::new(pipe, optimizer).unwrap().accumulate(2).unwrap();
        let (x, y) = batch();
        let loss = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
        assert!(trainer.step(&x, &y, loss).unwrap().update.is_none());
        FIRST.store(true, Ordering::Relaxed);
        trainer.step(&x, &y, loss).unwrap_err();
        FIRST.store(false, Ordering::Relaxed);
        assert!(trainer.step(&x, &y, loss).unwrap().update.is_some());
    });
}

#[test]
fn a_failed_layer_is_the_same_failure_everywhere_and_the_next_step_is_as_if_nothing_had_been() {
    const NAME: &str =
        "failures::a_failed_layer_is_the_same_failure_everywhere_and_the_next_step_is_as_if_nothing_had_been";
    for mpi in BOTH {
        for_each_schedule(mpi, NAME, |world, schedule| {
            let (mut untouched, untouched_vars) = build(world, schedule);
            let (mut pipe, vars) = build(world, schedule);
            tch::manual_seed(9);
            let expected = [step(&mut untouched).unwrap(), step(&mut untouched).unwrap()];
            tch::manual_seed(9);
            assert!(step(&mut pipe).unwrap().equal(&expected[0]));
            let before = gradients(&vars);
            let mut failures = Vec::new();
            for (first, last) in [(true, false), (false, true), (true, true)] {
                FIRST.store(first, Ordering::Relaxed);
                LAST.store(last, Ordering::Relaxed);
                match step(&mut pipe) {
                    Err(Error::Failed(failure)) => failures.push(failure),
                    other => panic!("{schedule:?}: {other:?}"),
                }
                assert!(same(&gradients(&vars), &before), "{schedule:?}: gradients of a failed step");
            }
            FIRST.store(false, Ordering::Relaxed);
            LAST.store(false, Ordering::Relaxed);
            let place = |failure: &Failure| (failure.phase, failure.stage, failure.layer.clone(), failure.micro_batch);
            let places: Vec<_> = failures.iter().map(place).collect();
            let at = |stage: usize, layer: &str| (Phase::Forward, stage, layer.to_owned(), 2);
            assert_eq!(places[..2], [at(0, "fails_first"), at(2, "fails_last")], "{schedule:?}");
            // The forward of the first stage comes before that of the last one.
            assert_eq!(places[2], at(0, "fails_first"), "{schedule:?}");
            assert!(failures.iter().all(|failure| failure.cause.contains("told to fail")), "{failures:?}");
            assert!(step(&mut pipe).unwrap().equal(&expected[1]), "{schedule:?}: the step after failures");
            assert!(same(&gradients(&vars), &gradients(&untouched_vars)), "{schedule:?}: its gradients");
        });
    }
}

#[test]
fn calls_that_do_not_match_are_an_error_that_names_both() {
    const NAME: &str = "failures::calls_that_do_not_match_are_an_error_that_names_both";
    for_each_schedule(Ulfm, NAME, |world, schedule| {
        let (mut pipe, _vars) = build(world, schedule);
        let (x, _) = batch();
        let error = match world.process() {
            0 => step(&mut pipe).map(drop),
            _ => pipe.predict(&x).map(drop),
        };
        let error = error.unwrap_err().to_string();
        assert!(error.contains("process 0 calls train_step in training mode"), "{error}");
        assert!(error.contains("process 1 calls forward in evaluation mode"), "{error}");
        // The next calls match again.
        let _ = step(&mut pipe).unwrap();

        pipe.eval();
        if world.process() == 2 {
            pipe.train();
        }
        let error = step(&mut pipe).unwrap_err().to_string();
        assert!(error.contains("process 2 calls train_step in training mode"), "{error}");
    });
}

#[test]
fn bad_inputs_and_targets_are_errors_everywhere() {
    const NAME: &str = "failures::bad_inputs_and_targets_are_errors_everywhere";
    for_each_schedule(Ulfm, NAME, |world, schedule| {
        let (mut pipe, _vars) = build(world, schedule);
        let mse = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
        let (x, y) = batch();
        let error = pipe.train_step(x.get(0).get(0), &y, mse).unwrap_err();
        assert!(matches!(&error, Error::Input(words) if words.contains("cannot be split")), "{error:?}");
        let error = pipe.train_step(&x, &y.narrow(0, 0, 5), mse).unwrap_err();
        assert!(matches!(&error, Error::Input(words) if words.contains("rows of the targets")), "{error:?}");
        let error = pipe.forward(&x).unwrap_err().to_string();
        assert!(error.contains("train with `train_step`"), "{error}");
        let _ = step(&mut pipe).unwrap();
    });
}

/// Only the first process has inputs, and only the last one has targets.
#[test]
fn inputs_and_targets_of_other_processes_are_ignored() {
    const NAME: &str = "failures::inputs_and_targets_of_other_processes_are_ignored";
    for_each_schedule(Ulfm, NAME, |world, schedule| {
        let run = |x: &Tensor, y: &Tensor| {
            let (mut pipe, _vars) = build(world, schedule);
            tch::manual_seed(2);
            pipe.train_step(x, y, |output, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean)).unwrap().loss
        };
        let (x, y) = batch();
        let nothing = Tensor::from(0.);
        let expected = run(&x, &y);
        let found = match world.process() {
            0 => run(&x, &nothing),
            2 => run(&nothing, &y),
            _ => run(&nothing, &nothing),
        };
        assert!(found.equal(&expected));
    });
}

#[test]
fn a_gradient_that_is_not_finite_is_the_same_error_everywhere() {
    const NAME: &str = "failures::a_gradient_that_is_not_finite_is_the_same_error_everywhere";
    for_each_schedule(Ulfm, NAME, |world, schedule| {
        let (mut pipe, vars) = build(world, schedule);
        let mut optimizer = pipe.optimizer(AdamW::default()).build().unwrap();
        let error = optimizer.step().unwrap_err().to_string();
        assert!(error.contains("no parameter has a gradient"), "{error}");
        let _ = step(&mut pipe).unwrap();
        let before = optimizer.updates();
        if vars.is_here("middle.bias") {
            let mut gradient = vars.select("middle.bias").unwrap()[0].1.grad();
            let _ = gradient.fill_(f64::NAN);
        }
        let error = optimizer.step().unwrap_err().to_string();
        assert!(error.contains("the gradient of `middle.bias` is not finite"), "{error}");
        assert_eq!(optimizer.updates(), before);
    });
}

/// Methods of different kinds, a collective of the user's own, and options that change what
/// processes send each other.
#[test]
fn calls_of_different_kinds_are_an_error_that_names_both_and_the_next_ones_work() {
    const NAME: &str = "failures::calls_of_different_kinds_are_an_error_that_names_both_and_the_next_ones_work";
    for_each_schedule(Ulfm, NAME, |world, schedule| {
        let (pipe, vars) = build(world, schedule);
        let (mut other, _other_vars) = build(world, schedule);
        let folder = std::env::temp_dir().join(format!("pipe-calls-{}", std::process::id()));
        let optimizer = pipe.optimizer(AdamW::default()).build().unwrap();
        let mut trainer = Trainer::new(pipe, optimizer).unwrap();
        let mut checkpoints = Checkpoints::in_folder(&folder);
        let (x, y) = batch();
        let mse = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
        let mut call = |number: usize| -> Result<()> {
            match number {
                0 => trainer.pipe().train_step(&x, &y, mse).map(drop),
                1 => checkpoints.save(&trainer).map(drop),
                2 => vars.save(folder.with_extension("safetensors")),
                3 => world.all_gather(b"own").map(drop),
                4 => trainer.pipe().step().keep_output().run(&x, &y, mse).map(drop),
                5 => vars.load("nowhere.safetensors").map(drop),
                6 => checkpoints.resume(&mut trainer).map(drop),
                _ => other.train_step(&x, &y, mse).map(drop),
            }
        };
        let words = [
            "train_step in training mode",
            "a save of a checkpoint",
            "Vars::save",
            "World::all_gather",
            "train_step that keeps the output in training mode",
            "Vars::load",
            "the search for a checkpoint",
        ];
        for first in 0..words.len() {
            for second in (0..words.len()).filter(|&second| second != first) {
                let error = call(if world.is_first() { first } else { second }).unwrap_err().to_string();
                let both = format!(
                    "the calls of the processes do not match: process 0 calls {}, and process 1 calls {}",
                    words[first], words[second]
                );
                assert_eq!(error, both);
            }
            // They work again, also if the calls never match in the same place.
            call(0).unwrap();
        }
        let error = call(if world.is_first() { 0 } else { 7 }).unwrap_err().to_string();
        assert!(error.contains("all processes call the same ones"), "{error}");
        call(7).unwrap();
        call(0).unwrap();
    });
}

/// The second process runs a copy of this program that is a byte longer, as another build would be.
#[test]
fn another_program_is_an_error_that_says_so() {
    const NAME: &str = "failures::another_program_is_an_error_that_says_so";
    let folder = tempfile::tempdir().unwrap();
    let (script, copy) = (folder.path().join("either"), folder.path().join("copy"));
    let this = std::env::current_exe().unwrap();
    std::fs::copy(&this, &copy).unwrap();
    std::fs::OpenOptions::new().append(true).open(&copy).unwrap().write_all(b"\n").unwrap();
    let text =
        "#!/bin/sh\nif [ \"$OMPI_COMM_WORLD_RANK\" = 1 ]; then exec \"$COPY\" \"$@\"; fi\nexec \"$THIS\" \"$@\"\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let launched = launch_program(&script, &[("COPY", &copy), ("THIS", &this)], NAME, || {
        let world = World::init().unwrap();
        let (mut pipe, _vars) = build(&world, ScheduleKind::OneFOneB);
        let error = step(&mut pipe).unwrap_err().to_string();
        assert!(error.ends_with("run different programs, or different builds of one: start the same file everywhere"));
    });
    launched.check(3);
}

#[test]
fn settings_of_calls_that_differ_are_an_error_that_names_both() {
    const NAME: &str = "failures::settings_of_calls_that_differ_are_an_error_that_names_both";
    in_processes(Ulfm, 3, NAME, || {
        let world = World::init().unwrap();
        tch::set_num_threads(1);
        let (mut pipe, _vars) = build(&world, ScheduleKind::OneFOneB);
        let mut optimizer = pipe.optimizer(AdamW::default()).build().unwrap();
        let mut scaler = LossScaler::default();
        let (x, y) = batch();
        let mse = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
        let _ = step(&mut pipe).unwrap();
        let error = match world.is_first() {
            true => optimizer.step().unwrap_err(),
            false => optimizer.step_scaled(&mut scaler).unwrap_err(),
        };
        assert!(
            error.to_string().contains("process 1 calls an optimizer's update of gradients times 65536"),
            "{error}"
        );
        let _ = optimizer.step().unwrap();
        let lr = if world.is_first() { 0.1 } else { 0.2 };
        let mut other = pipe.optimizer(AdamW { lr, ..AdamW::default() }).build().unwrap();
        let error = other.step().unwrap_err().to_string();
        assert!(error.contains("learning rate 0.1 and") && error.contains("learning rate 0.2 and"), "{error}");
        let error = match world.is_first() {
            true => pipe.step().gradient_scale(0.5).run(&x, &y, mse).unwrap_err(),
            false => pipe.step().reduction(Reduction::Sum).run(&x, &y, mse).unwrap_err(),
        };
        let error = error.to_string();
        assert!(error.contains("process 0 calls train_step with gradients times 0.5 in training mode"), "{error}");
        assert!(error.contains("process 1 calls train_step with `Reduction::Sum` in training mode"), "{error}");
        // A panic in the user's weights, in the process that has the targets.
        let wrong = |_: &Tensor| -> f64 { panic!("no weights for these") };
        let error = pipe.step().reduction(Reduction::Weighted(&wrong)).run(&x, &y, mse).unwrap_err();
        assert!(matches!(&error, Error::Input(words) if words.ends_with("no weights for these")), "{error:?}");
        let _ = step(&mut pipe).unwrap();
    });
}

#[test]
fn a_save_in_the_background_is_not_forgotten_when_calls_do_not_match() {
    const NAME: &str = "failures::a_save_in_the_background_is_not_forgotten_when_calls_do_not_match";
    in_processes(Ulfm, 3, NAME, || {
        let world = World::init().unwrap();
        tch::set_num_threads(1);
        let (pipe, _vars) = build(&world, ScheduleKind::OneFOneB);
        let optimizer = pipe.optimizer(AdamW::default()).build().unwrap();
        let mut trainer = Trainer::new(pipe, optimizer).unwrap();
        let mut checkpoints = Checkpoints::in_folder(shared_folder(&world));
        checkpoints.save_in_background(&trainer).unwrap();
        trainer.pipe().start_trace();
        let error = match world.is_first() {
            true => checkpoints.finish().map(drop),
            false => step(trainer.pipe()).map(drop),
        };
        let error = error.unwrap_err().to_string();
        assert!(error.contains("process 0 calls Checkpoints::finish"), "{error}");
        let saved = checkpoints.finish().unwrap().expect("it was saved");
        assert!(saved.is_dir());
        // The same for a trace.
        let _ = step(trainer.pipe()).unwrap();
        let error = match world.is_first() {
            true => trainer.pipe().stop_trace().map(drop),
            false => step(trainer.pipe()).map(drop),
        };
        assert!(error.unwrap_err().to_string().contains("process 0 calls stop_trace"));
        assert_eq!(trainer.pipe().stop_trace().unwrap().runs().len(), 1);
        let _ = world.all_gather(b"").unwrap();
        if world.is_first() {
            std::fs::remove_dir_all(saved.parent().unwrap()).unwrap();
        }
    });
}

#[test]
fn a_file_that_one_process_cannot_read_is_an_error_everywhere_and_changes_nothing() {
    const NAME: &str = "failures::a_file_that_one_process_cannot_read_is_an_error_everywhere_and_changes_nothing";
    for_each_schedule(Ulfm, NAME, |world, schedule| {
        let (pipe, vars) = build(world, schedule);
        let folder = shared_folder(world);
        let file = folder.join("model.safetensors");
        vars.save(&file).unwrap();
        let optimizer = pipe.optimizer(AdamW::default()).build().unwrap();
        let mut trainer = Trainer::new(pipe, optimizer).unwrap();
        let saved = Checkpoints::in_folder(&folder).save(&trainer).unwrap();
        let own: Vec<_> = vars.select("*").unwrap().into_iter().filter(|(name, _)| vars.is_here(name)).collect();
        for (_, tensor) in &own {
            let _ = tch::no_grad(|| tensor.shallow_clone().fill_(3.));
        }
        let unchanged = || own.iter().all(|(_, tensor)| tensor.eq(3.).all().int64_value(&[]) == 1);
        let mine = |path: &Path| match world.process() {
            1 => folder.join("nowhere"),
            _ => path.to_path_buf(),
        };
        let said = format!("in process 1 of {}: all processes read the same files", world.size());
        let error = vars.load(mine(&file)).unwrap_err().to_string();
        assert!(error.contains("nowhere") && error.contains(&said) && unchanged(), "{error}");
        let error = Checkpoints::resume_from(mine(&saved), &mut trainer).unwrap_err().to_string();
        assert!(error.contains("nowhere") && error.contains(&said) && unchanged(), "{error}");
        vars.load(&file).unwrap();
        assert!(!unchanged());
        Checkpoints::resume_from(&saved, &mut trainer).unwrap();
    });
}

/// A folder of the first process's choice, the same for all.
fn shared_folder(world: &World) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("pipe-files-{}", std::process::id()));
    let first = world.all_gather(folder.to_str().unwrap().as_bytes()).unwrap().swap_remove(0);
    let folder = PathBuf::from(String::from_utf8(first).unwrap());
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
