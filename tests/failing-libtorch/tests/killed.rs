//! A process of three that is killed at one of libtorch's operators: in a layer, a loss, a
//! backward, a recomputation, an update or a save. The others have an error at once, and their
//! state is that of a step: the one that failed has changed nothing, or it was done. What is saved
//! goes on.

use std::collections::BTreeMap;
use std::path::Path;

use pipe_failing_libtorch::operators;
use pipe_runtime::optim::AdamW;
use pipe_runtime::{Checkpoints, Devices, Error, Result, ScheduleKind, Trainer, World, pipeline};
use pipe_tests::layers::{dropout, linear};
use pipe_tests::zoo::same_bits;
use pipe_tests::zoo::train::MODES;
use tch::nn::{FuncT, Linear};
use tch::{Device, Kind, Tensor};

#[allow(dead_code)]
#[path = "../../tests/processes/launch.rs"]
mod launch;

use launch::{LIMIT, Ulfm, launch};

const NAME: &str = "a_process_that_is_killed_at_an_operator_leaves_the_others_whole";

/// Steps before the one in which a process is killed: the first makes the optimizer's state, and
/// the second is the one whose operators are counted.
const BEFORE: u64 = 2;

const SCHEDULES: [ScheduleKind; 3] = [ScheduleKind::OneFOneB, ScheduleKind::GPipe, ScheduleKind::ZbH1];

#[pipeline(chunks = 4)]
struct Three {
    #[device("cpu")]
    first: Linear,
    first_drop: FuncT<'static>,
    #[device("cpu")]
    middle: Linear,
    middle_drop: FuncT<'static>,
    #[device("cpu")]
    last: Linear,
    last_drop: FuncT<'static>,
}

/// A training by one of the schedules and modes.
fn training(devices: &Devices, setting: usize) -> (Trainer<Three>, ThreeVars) {
    tch::set_num_threads(1);
    tch::manual_seed(1);
    let vars = Three::vars(devices).unwrap();
    let model = Three {
        first: linear(vars.first(), 8, 8),
        first_drop: dropout(0.3),
        middle: linear(vars.middle(), 8, 8),
        middle_drop: dropout(0.3),
        last: linear(vars.last(), 8, 8),
        last_drop: dropout(0.3),
    };
    let mode = MODES[setting % MODES.len()];
    let builder = model.pipe(&vars).schedule(SCHEDULES[setting % SCHEDULES.len()]).intra_op_threads(1);
    let pipe = builder.checkpoint(mode.checkpoint).cheap_outputs(mode.cheap).build().unwrap();
    let optimizer = pipe.optimizer(AdamW::default()).clip_norm(1.).moving_average(0.9).build().unwrap();
    (Trainer::new(pipe, optimizer).unwrap(), vars)
}

/// A step, which is the same in every training.
fn step(trainer: &mut Trainer<Three>) -> Result<()> {
    let x = Tensor::full([8, 8], trainer.steps() as f64 / 10. - 1., (Kind::Float, Device::Cpu));
    tch::manual_seed(trainer.steps() as i64);
    trainer.step(&x, &x, |output, x: &Tensor| output.mse_loss(x, tch::Reduction::Mean)).map(drop)
}

fn draw() -> Tensor {
    Tensor::rand([4], (Kind::Double, Device::Cpu))
}

/// The variables of this process.
fn state(vars: &ThreeVars) -> BTreeMap<String, Tensor> {
    let own = vars.select("*").unwrap().into_iter().filter(|(_, tensor)| tensor.device() == Device::Cpu);
    own.map(|(name, tensor)| (name, tensor.detach().copy())).collect()
}

fn same(found: &BTreeMap<String, Tensor>, expected: &BTreeMap<String, Tensor>) -> bool {
    found.iter().all(|(name, value)| same_bits(value, &expected[name]))
}

/// The part of a process. The one that is lost is killed at so many thousandths of the operators of
/// a step, or of a save.
fn train_until_killed(folder: &Path, setting: usize, (lost, in_save): (usize, bool), thousandths: usize) {
    let world = World::init().unwrap();
    let (mut trainer, vars) = training(&Devices::cpu(3).across(&world).unwrap(), setting);
    let mut checkpoints = Checkpoints::in_folder(folder).keep(2);
    let is_lost = world.process() == lost;
    for _ in 0..BEFORE {
        operators::fail_at(i64::MAX);
        step(&mut trainer).unwrap();
        let of_step = i64::MAX - operators::left();
        checkpoints.save(&trainer).unwrap();
        let all = i64::MAX - operators::left();
        operators::fail_at(0);
        if is_lost && trainer.steps() == BEFORE {
            let (before, count) = if in_save { (of_step, all - of_step) } else { (0, of_step) };
            let number = 1 + before + count * thousandths as i64 / 1000;
            println!(
                "killed in the {}: {number} of {of_step} and {}",
                ["step", "save"][usize::from(in_save)],
                all - of_step
            );
            operators::kill_at(number);
        }
    }
    let error = loop {
        let before = state(&vars);
        if let Err(error) = step(&mut trainer) {
            let drawn = draw();
            tch::manual_seed(trainer.steps() as i64);
            assert!(same_bits(&drawn, &draw()), "the random numbers that follow {error}");
            let has_none = |(_, tensor): (String, Tensor)| !tensor.grad().defined();
            assert!(vars.select("*").unwrap().into_iter().all(has_none), "gradients after {error}");
            println!("the step {}", if same(&state(&vars), &before) { "changed nothing" } else { "was done" });
            break error;
        }
        if let Err(error) = checkpoints.save(&trainer) {
            break error;
        }
    };
    assert!(matches!(error, Error::Connection(_)), "{error:?}");
    println!("\nprocess {} has made {} steps", world.process(), trainer.steps());
    vars.save_part(folder.join(format!("part-{}.safetensors", world.process()))).unwrap();
}

/// How many are killed. More are for a night: `PIPE_KILLS=200`.
fn kills() -> usize {
    std::env::var("PIPE_KILLS").map_or(12, |text| text.parse().expect("a number"))
}

#[test]
fn a_process_that_is_killed_at_an_operator_leaves_the_others_whole() {
    let this = std::process::id() as usize;
    let folder = |starter: usize, kill: usize| std::env::temp_dir().join(format!("pipe-killed-at-{starter}-{kill}"));
    let mut tally: BTreeMap<String, usize> = BTreeMap::new();
    for kill in 0..kills() {
        let (lost, setting) = (kill % 3, kill / 3 % (SCHEDULES.len() * MODES.len()));
        // By the golden ratio, so that few are as good a sample as many.
        let thousandths = (kill * 618 + 300) % 1000;
        let launched = launch(Ulfm, 3, NAME, &[this, kill, setting, lost, thousandths], LIMIT, |numbers| {
            let &[starter, kill, setting, lost, thousandths] = numbers else { panic!("{numbers:?}") };
            let folder = folder(starter, kill);
            std::fs::create_dir_all(&folder).unwrap();
            train_until_killed(&folder, setting, (lost, kill % 4 == 3), thousandths);
        });
        let output = &launched.output;
        let about = format!("kill {kill}, process {lost}, setting {setting}, {thousandths}/1000:\n{output}");
        for what in ["killed in the step", "killed in the save", "the step changed nothing", "the step was done"] {
            *tally.entry(what.to_owned()).or_default() += output.matches(what).count();
        }

        // What each step of such a training leaves.
        let (mut whole, vars) = training(&Devices::cpu(3), setting);
        let mut states = vec![state(&vars)];
        while states.len() < BEFORE as usize + 5 {
            step(&mut whole).unwrap();
            states.push(state(&vars));
        }
        let folder = folder(this, kill);
        let (mut resumed, vars) = training(&Devices::cpu(3), setting);
        for process in (0..3).filter(|process| *process != lost) {
            let line = output.lines().find_map(|line| line.strip_prefix(&format!("process {process} has made ")));
            let steps = line.and_then(|line| line.strip_suffix(" steps")).unwrap_or_else(|| panic!("{about}"));
            let steps: usize = steps.parse().unwrap();
            let loaded =
                vars.loader(folder.join(format!("part-{process}.safetensors"))).partial().load().unwrap().loaded;
            assert_eq!(loaded.len(), 2, "{about}");
            let part = state(&vars).into_iter().filter(|(name, _)| loaded.contains(name)).collect();
            let of = [&states[steps], &states[steps + 1]];
            assert!(of.into_iter().any(|state| same(&part, state)), "process {process} is torn: {about}");
        }
        assert!(Checkpoints::in_folder(&folder).resume(&mut resumed).unwrap(), "{about}");
        let steps = resumed.steps() as usize;
        assert!(steps >= BEFORE as usize && same(&state(&vars), &states[steps]), "{about}");
        step(&mut resumed).unwrap();
        assert!(same(&state(&vars), &states[steps + 1]), "after {about}");
        std::fs::remove_dir_all(folder).unwrap();
    }
    println!("{} processes were killed at an operator: {tally:?}", kills());
}
