//! Iterations, saves and resumes of a training of which an allocation or an operator fails,
//! wherever it is.

use std::collections::BTreeSet;
use std::path::Path;

use pipe_runtime::{Checkpoints, Result, ScheduleKind};
use pipe_tests::torture::Countdown;
use pipe_tests::torture::training::{Everything, Recipe, Training, WITHOUT_STATISTICS, folder};
use pipe_tests::zoo::train::MODES;
use pipe_tests::zoo::{Batch, Call, LayerSpec, Stack2, Watchable};

mod countdowns;

const COUNTDOWNS: [Countdown; 2] = [countdowns::ALLOCATION, countdowns::OPERATOR];

fn new(seed: i64, recipe: Recipe) -> Training<Stack2> {
    let layers: Vec<LayerSpec> = WITHOUT_STATISTICS[..4].iter().map(|&creature| creature.into()).collect();
    let call = Call::Step(ScheduleKind::OneFOneB);
    Training::new(seed, &layers, recipe, call, MODES[0]).expect("the training can be built")
}

fn batch(seed: i64) -> Batch {
    tch::manual_seed(seed);
    Batch::of::<Stack2>(4)
}

/// A step with these random numbers.
fn step(training: &mut Training<Stack2>, seed: i64) -> Result<()> {
    let batch = batch(seed);
    training.step(&batch, None).map(drop)
}

/// Makes as many steps as an update has, so that no gradient waits.
fn update(training: &mut Training<Stack2>, recipe: Recipe, seed: i64) {
    (0..recipe.steps()).for_each(|_| step(training, seed).expect("a step without a fault"));
}

fn everything(training: &Training<Stack2>, folder: &Path) -> Everything {
    tch::manual_seed(9);
    training.everything(folder)
}

/// What became of a call of which something fails.
struct Tried {
    result: Result<()>,
    /// Whether there was as much that could fail.
    reached: bool,
}

impl Tried {
    fn new(countdown: Countdown, number: i64, call: impl FnOnce() -> Result<()>) -> Self {
        (countdown.fail_at)(number);
        let result = call();
        let reached = (countdown.left)() == 0;
        (countdown.fail_at)(0);
        Self { result, reached }
    }
}

/// Tries every so many-th number, until the call has no more that can fail. Returns how many calls
/// have failed.
fn each(countdown: Countdown, stride: usize, mut call: impl FnMut(i64) -> Tried) -> usize {
    let mut failed = 0;
    for number in (1..).step_by(stride) {
        match call(number) {
            Tried { result: Ok(()), reached: false } => break,
            Tried { result: Ok(()), reached: true } => {}
            Tried { result: Err(error), reached } => {
                assert!(reached && error.to_string().contains(countdown.says), "{error}");
                failed += 1;
            }
        }
    }
    failed
}

/// The forward, the backward, and the update with its state.
#[test]
fn an_iteration_of_which_anything_fails_changes_nothing() {
    let _serial = pipe_tests::serial();
    let with = |recipe| COUNTDOWNS.map(|countdown| (recipe, countdown));
    for (recipe, countdown) in Recipe::ALL.into_iter().flat_map(with) {
        // The first update makes the optimizer's state.
        for updates in 0..2 {
            let (count, halfway) = iterations_that_fail(recipe, countdown, updates);
            let what = countdown.what;
            println!(
                "{recipe:?} after {updates}: {count} times, an {what} failed, {halfway} in the middle of an update"
            );
            assert!(count > 10 && (halfway == 0 || what == "operator"), "{count}, {halfway}");
        }
    }
}

/// In an iteration, one of so many fails. With `PIPE_STRIDE`, each does.
fn stride() -> usize {
    if std::env::var_os("PIPE_STRIDE").is_some() { 1 } else { 23 }
}

/// Returns how many iterations have failed after so many updates, and how many of them in the
/// middle of the update itself, after which every other one says so.
fn iterations_that_fail(recipe: Recipe, countdown: Countdown, updates: u64) -> (usize, usize) {
    let folder = folder();
    let ready = || {
        let mut training = new(1, recipe);
        (0..updates).for_each(|_| update(&mut training, recipe, 2));
        training
    };
    let (mut troubled, mut calm) = (ready(), ready());
    let mut halfway = 0;
    let count = each(countdown, stride(), |number| {
        let about = format!("{} {number}, {recipe:?}, after {updates} updates", countdown.what);
        let before = |training: &mut _| (1..recipe.steps()).for_each(|_| step(training, number).unwrap());
        let all = batch(number + 1);
        // The last step of an update is the one that fails.
        before(&mut troubled);
        tch::manual_seed(3);
        let tried = Tried::new(countdown, number, || troubled.step(&all, None).map(drop));
        let has_failed = tried.result.is_err();
        // What fails after the backward drops all gradients: those of steps before it, too.
        let keeps = troubled.has_gradients();
        before(&mut calm);
        if has_failed && !keeps && recipe.steps() > 1 {
            calm.fail_in_update(&all);
        }
        if !has_failed {
            tch::manual_seed(3);
            drop(calm.step(&all, None).unwrap());
        }
        if keeps {
            step(&mut troubled, number).and_then(|()| step(&mut calm, number)).unwrap();
        }
        let next = (0..recipe.steps()).try_for_each(|_| step(&mut troubled, number));
        if next.as_ref().is_err_and(|error| error.to_string().contains("failed halfway")) {
            halfway += 1;
            (troubled, calm) = (ready(), ready());
            return tried;
        }
        next.unwrap_or_else(|error| panic!("after {about}: {error}"));
        update(&mut calm, recipe, number);
        let found = everything(&troubled, folder.path());
        found.assert_same(&everything(&calm, folder.path()), &about);
        if updates == 0 {
            (troubled, calm) = (ready(), ready());
        }
        tried
    });
    (count, halfway)
}

/// The names of the files and folders in a folder.
fn names(folder: &Path) -> BTreeSet<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
}

#[test]
fn a_save_and_a_resume_of_which_anything_fails_change_nothing() {
    let _serial = pipe_tests::serial();
    let (checkpoint, own) = (folder(), folder());
    for (recipe, countdown) in
        Recipe::ALL.into_iter().zip(COUNTDOWNS).chain(Recipe::ALL.into_iter().rev().zip(COUNTDOWNS))
    {
        let mut training = new(1, recipe);
        let mut checkpoints = Checkpoints::in_folder(checkpoint.path());
        (0..3).for_each(|number| update(&mut training, recipe, number));
        let kept = checkpoints.save(&training.trainer).unwrap();
        let saved = everything(&training, own.path());
        update(&mut training, recipe, 4);
        let (before, present) = (names(checkpoint.path()), everything(&training, own.path()));
        let saves = each(countdown, 1, |number| {
            let background = number % 2 == 0;
            let tried = Tried::new(countdown, number, || match background {
                true => checkpoints.save_in_background(&training.trainer).and_then(|()| checkpoints.finish()).map(drop),
                false => checkpoints.save(&training.trainer).map(drop),
            });
            everything(&training, own.path()).assert_same(&present, &format!("{} {number} of a save", countdown.what));
            assert!(tried.result.is_ok() || names(checkpoint.path()) == before, "{:?}", names(checkpoint.path()));
            tried
        });

        // Into a training that is new, and into one that has gone on.
        let mut resumes = 0;
        for updates in 0..2 {
            let ready = || {
                let mut training = new(2, recipe);
                (0..updates).for_each(|_| update(&mut training, recipe, 2));
                training
            };
            let unchanged = everything(&ready(), own.path());
            resumes += each(countdown, 1, |number| {
                let mut resumed = ready();
                let tried = Tried::new(countdown, number, || Checkpoints::resume_from(&kept, &mut resumed.trainer));
                let about = format!("{} {number} of a resume, {:?}", countdown.what, tried.result);
                match &tried.result {
                    Ok(()) => everything(&resumed, own.path()).assert_same(&saved, &about),
                    Err(error) if error.to_string().contains("restored in part") => {}
                    Err(_) => everything(&resumed, own.path()).assert_same(&unchanged, &about),
                }
                // It can be tried again.
                Checkpoints::resume_from(&kept, &mut resumed.trainer).unwrap();
                everything(&resumed, own.path()).assert_same(&saved, &format!("after {about}"));
                tried
            });
        }
        println!("{recipe:?}: {saves} times, an {} of a save failed, {resumes} of a resume", countdown.what);
        assert!(saves > 0 && resumes > 0, "{saves} and {resumes}");
        std::fs::remove_dir_all(&kept).unwrap();
    }
}

/// With a moving average in the model or without.
#[test]
fn an_exchange_with_the_average_of_which_anything_fails_changes_nothing() {
    let _serial = pipe_tests::serial();
    let own = folder();
    for countdown in COUNTDOWNS {
        let mut training = new(1, Recipe::AdamW);
        (0..2).for_each(|number| update(&mut training, Recipe::AdamW, number));
        let before = everything(&training, own.path());
        let count = each(countdown, 1, |number| {
            let input = Stack2::input(&batch(number).input);
            let tried =
                Tried::new(countdown, number, || training.trainer.with_average(|pipe| pipe.forward(input)).map(drop));
            let about = format!("{} {number} of an evaluation, {:?}", countdown.what, tried.result);
            everything(&training, own.path()).assert_same(&before, &about);
            tried
        });
        println!("{count} times, an {} of an evaluation with the average failed", countdown.what);
        assert!(count > 0);
    }
}
