//! What a process may lack, and what a layer may do to it: no threads, no memory, no disk to write
//! to, no standard error; a signal, destructors that panic, a layer that ends the process. Each
//! test is a process of its own.

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::path::Path;
use std::process::{Command, Output, exit};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pipe_runtime::optim::AdamW;
use pipe_runtime::{Checkpoints, Context, Devices, Error, Layer, Phase, Pipe, Trainer, pipeline};
use pipe_tests::again::{self, FOLDER};
use pipe_tests::torture::{assert_no_more, resources};
use tch::nn::{self, Linear, Module};
use tch::{Device, Kind, Tensor};

/// Seconds after which a process counts as hanging.
const LIMIT: &str = "100";

/// Runs `test` alone in a process of its own, started by `command`, and returns what came of it.
/// In that process, `test` gets an empty folder, and nothing is returned.
fn alone(name: &str, command: impl FnOnce(&Path) -> Command, test: impl FnOnce(&Path)) -> Option<Output> {
    if let Some(folder) = again::folder() {
        tch::set_num_threads(1);
        test(Path::new(&folder));
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    Some(again::again(command(folder.path()), name, folder.path()).wait_with_output().unwrap())
}

/// The command that runs this program, and ends it if it hangs.
fn this(_folder: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", LIMIT]).arg(std::env::current_exe().unwrap());
    command
}

/// The command that runs this program from a line of shell, in which `"$@"` stands for it.
fn shell(line: &str, folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", line]).arg(folder).args(["timeout", "-s", "KILL", LIMIT]);
    command.arg(std::env::current_exe().unwrap());
    command
}

fn assert_success(output: Option<Output>) {
    let Some(output) = output else { return };
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&text));
}

/// What a [`Gate`] does with its input.
type Action = Box<dyn FnMut(&Tensor, &Context) + Send>;

/// A layer that gives its input back, after whatever a test lets it do.
#[derive(Clone, Default)]
struct Gate(Arc<Mutex<Option<Action>>>);

impl Gate {
    fn does(&self, action: impl FnMut(&Tensor, &Context) + Send + 'static) {
        *self.action() = Some(Box::new(action));
    }

    fn opens(&self) {
        *self.action() = None;
    }

    /// An action that has panicked is still there.
    fn action(&self) -> MutexGuard<'_, Option<Action>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Layer<Tensor> for Gate {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        if let Some(action) = &mut *self.action() {
            action(&x, cx);
        }
        x
    }
}

#[pipeline(chunks = 4, schedule = "1f1b")]
struct Net {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    gate: Gate,
    second: Linear,
    #[device("cpu")]
    last: Linear,
}

const WIDTH: i64 = 8;

fn net() -> (Net, NetVars, Gate) {
    tch::manual_seed(1);
    let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
    let linear = |path: nn::Path<'_>| nn::linear(path, WIDTH, WIDTH, Default::default());
    let gate = Gate::default();
    let net = Net {
        first: linear(vars.first()),
        gate: gate.clone(),
        second: linear(vars.second()),
        last: linear(vars.last()),
    };
    (net, vars, gate)
}

fn rows(count: i64) -> Tensor {
    Tensor::arange(count * WIDTH, (Kind::Float, Device::Cpu)).view([count, WIDTH]) / 100.
}

fn loss(output: &Tensor, target: &Tensor) -> Tensor {
    output.mse_loss(target, tch::Reduction::Mean)
}

/// The loss of a step, and then no gradients.
fn step(pipe: &mut Pipe<Net>, vars: &NetVars, rows: &Tensor) -> pipe_runtime::Result<f64> {
    let report = pipe.train_step(rows, rows, loss)?;
    for variable in vars.var_store().trainable_variables() {
        let _ = variable.grad().zero_();
    }
    Ok(report.loss.double_value(&[]))
}

/// Asserts that the second stage failed, for this cause.
fn assert_failed(error: &Error, phase: Phase, cause: &str) {
    let Error::Failed(failure) = error else { panic!("{error:?}") };
    assert_eq!((failure.phase, failure.stage), (phase, 1), "{error}");
    assert!(failure.cause.contains(cause), "{error}");
}

/// rustc's library asks for stacks that no address space holds.
#[test]
fn without_threads_a_pipeline_is_an_error_and_the_rest_works() {
    let no_threads = |folder: &Path| {
        let mut command = this(folder);
        command.env("RUST_MIN_STACK", (1_u64 << 50).to_string());
        command
    };
    assert_success(alone("without_threads_a_pipeline_is_an_error_and_the_rest_works", no_threads, |folder| {
        assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "there is no thread to be had");
        let (net, vars, _) = net();
        let before = resources();
        let error = net.pipe(&vars).build().unwrap_err().to_string();
        assert!(error.starts_with("cannot start a worker thread: "), "{error}");
        assert_no_more(before, &"without threads");

        let (net, vars, _) = self::net();
        assert_eq!(net.unpipelined().forward(rows(4)).unwrap().size(), [4, WIDTH]);
        // A file that several threads would read.
        let large = nn::VarStore::new(Device::Cpu);
        let weight = large.root().ones("weight", &[5000, 5000]);
        drop(vars);
        large.save(folder.join("large.safetensors")).unwrap();
        assert_eq!(weight.size(), [5000, 5000]);
    }));
}

/// The limit stands for a machine without memory. Twice the size of what fits is asked for.
#[test]
fn without_memory_a_step_is_an_error_and_a_smaller_one_works() {
    assert_success(alone("without_memory_a_step_is_an_error_and_a_smaller_one_works", this, |_| {
        let (net, vars, gate) = net();
        let mut pipe = net.pipe(&vars).build().unwrap();
        let expected = step(&mut pipe, &vars, &rows(8)).unwrap();
        // In pages, of which the first number is the address space.
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = status.split(' ').next().unwrap().parse().unwrap();
        let limit = format!("--as={}", pages * 4096 + (256 << 20));
        let limited = Command::new("prlimit").args(["--pid", &std::process::id().to_string(), &limit]).status();
        assert!(limited.unwrap().success());

        gate.does(|x, _| drop(Tensor::zeros([512 << 20], (x.kind(), x.device()))));
        for _ in 0..5 {
            let error = step(&mut pipe, &vars, &rows(8)).unwrap_err();
            assert_failed(&error, Phase::Forward, "can't allocate memory");
        }
        gate.opens();
        // An input of 32 GiB that takes no memory itself.
        let too_large = rows(1).expand([1 << 30, WIDTH], false);
        let error = step(&mut pipe, &vars, &too_large).unwrap_err().to_string();
        assert!(error.contains("can't allocate memory"), "{error}");
        assert_eq!(step(&mut pipe, &vars, &rows(8)).unwrap(), expected);
    }));
}

#[test]
fn a_disk_that_is_read_only_is_an_error_and_what_is_there_stays() {
    const NAME: &str = "a_disk_that_is_read_only_is_an_error_and_what_is_there_stays";
    let own_mounts = ["--map-root-user", "--mount"];
    if !Command::new("unshare").args(own_mounts).arg("true").status().is_ok_and(|status| status.success()) {
        pipe_tests::skip("this user may not mount a disk for a process of its own (`unshare`)");
        return;
    }
    let mounted = |folder: &Path| {
        let line = format!("mount -t tmpfs tmpfs \"${FOLDER}\" && exec \"$@\"");
        let mut command = Command::new("unshare");
        let shell = shell(&line, folder);
        command.args(own_mounts).arg(shell.get_program()).args(shell.get_args());
        command
    };
    assert_success(alone(NAME, mounted, |folder| {
        let (net, vars, _) = net();
        let pipe = net.pipe(&vars).build().unwrap();
        let optimizer = pipe.optimizer(AdamW::default()).build().unwrap();
        let mut training = Trainer::new(pipe, optimizer).unwrap();
        let mut checkpoints = Checkpoints::in_folder(folder).keep(1);
        let kept = checkpoints.save(&training).unwrap();
        vars.save(folder.join("model.safetensors")).unwrap();
        assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(folder).status().unwrap().success());

        training.step(rows(8), rows(8), loss).unwrap();
        let is_read_only = |error: Error| error.to_string().contains("Read-only file system (os error 30)");
        assert!(is_read_only(checkpoints.save(&training).unwrap_err()));
        checkpoints.save_in_background(&training).unwrap();
        assert!(is_read_only(checkpoints.finish().unwrap_err()));
        assert!(is_read_only(vars.save(folder.join("model.safetensors")).unwrap_err()));
        assert!(is_read_only(vars.save(folder.join("other.safetensors")).unwrap_err()));
        training.step(rows(8), rows(8), loss).unwrap();

        vars.load(folder.join("model.safetensors")).unwrap();
        Checkpoints::resume_from(kept, &mut training).unwrap();
        assert_eq!(training.steps(), 0);
    }));
}

/// A program that is started without a standard error, as services are, still gets its errors.
#[test]
fn without_a_standard_error_panics_are_errors() {
    let closed = |folder: &Path| shell("exec \"$@\" 2>&-", folder);
    assert_success(alone("without_a_standard_error_panics_are_errors", closed, |_| {
        let (net, vars, gate) = net();
        let mut pipe = net.pipe(&vars).build().unwrap();
        let expected = step(&mut pipe, &vars, &rows(8)).unwrap();
        gate.does(|_, _| panic!("on purpose"));
        for _ in 0..5 {
            let error = step(&mut pipe, &vars, &rows(8)).unwrap_err();
            assert_failed(&error, Phase::Forward, "on purpose");
        }
        gate.opens();
        assert_eq!(step(&mut pipe, &vars, &rows(8)).unwrap(), expected);
    }));
}

/// A program that catches `SIGINT` goes on with the step that it is in, and can save and end. Calls
/// that the signal interrupts, to locks and files, are no errors.
#[test]
fn a_signal_that_the_program_catches_disturbs_nothing() {
    assert_success(alone("a_signal_that_the_program_catches_disturbs_nothing", this, |folder| {
        let caught = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&caught)).unwrap();
        let train = |folder: &Path, interrupt: bool| {
            let (net, vars, gate) = net();
            if interrupt {
                gate.does(|_, _| signal_hook::low_level::raise(signal_hook::consts::SIGINT).unwrap());
            }
            let pipe = net.pipe(&vars).build().unwrap();
            let optimizer = pipe.optimizer(AdamW::default()).build().unwrap();
            let mut training = Trainer::new(pipe, optimizer).unwrap();
            let mut checkpoints = Checkpoints::in_folder(folder).keep(2);
            for _ in 0..50 {
                training.step(rows(8), rows(8), loss).unwrap();
                checkpoints.save_in_background(&training).unwrap();
            }
            checkpoints.finish().unwrap();
            std::fs::read(folder.join("step-0000000050/model-00001-of-00003.safetensors")).unwrap()
        };
        let expected = train(&folder.join("calm"), false);
        // The other threads wait on locks meanwhile, or write files.
        let others = Command::new("sh")
            .args(["-c", "while kill -INT $0 2>/dev/null; do sleep 0.001; done", &std::process::id().to_string()])
            .spawn();
        let found = train(&folder.join("interrupted"), true);
        others.unwrap().kill().unwrap();
        assert!(caught.load(SeqCst), "the signal came");
        assert!(found == expected, "the trainings differ");
    }));
}

/// A panic's value that panics again when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic_any(Bomb);
    }
}

#[test]
fn a_panic_whose_value_panics_when_it_is_dropped_is_an_error() {
    assert_success(alone("a_panic_whose_value_panics_when_it_is_dropped_is_an_error", this, |_| {
        let (net, vars, gate) = net();
        let mut pipe = net.pipe(&vars).build().unwrap();
        let expected = step(&mut pipe, &vars, &rows(8)).unwrap();
        let before = resources();
        for _ in 0..5 {
            gate.does(|_, _| panic_any(Bomb));
            let error = step(&mut pipe, &vars, &rows(8)).unwrap_err();
            assert_failed(&error, Phase::Forward, "a panic without a message");
            gate.opens();
            let error = pipe.train_step(rows(8), rows(8), |_: &Tensor, _: &Tensor| panic_any(Bomb)).unwrap_err();
            assert!(error.to_string().contains("a panic without a message"), "{error}");
            assert_eq!(step(&mut pipe, &vars, &rows(8)).unwrap(), expected);
            assert_no_more(before, &"after a panic");
        }
    }));
}

/// Of so many more [`Fuse`]s, the last one panics when it is dropped; 0: none does.
static FUSES: AtomicUsize = AtomicUsize::new(0);

/// A value that layers hand on, and that may panic when it is dropped.
struct Fuse;

impl Drop for Fuse {
    fn drop(&mut self) {
        let left = FUSES.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        assert!(left != Ok(1) || std::thread::panicking(), "a value's destructor");
    }
}

struct Light;

impl Layer<Tensor> for Light {
    type Out = (Tensor, Arc<Fuse>);

    fn run(&self, x: Tensor, _cx: &Context) -> Self::Out {
        (x, Arc::new(Fuse))
    }
}

struct Burn;

impl Layer<(Tensor, Arc<Fuse>)> for Burn {
    type Out = (Tensor, Arc<Fuse>);

    fn run(&self, input: (Tensor, Arc<Fuse>), _cx: &Context) -> Self::Out {
        input
    }
}

struct End;

impl Layer<(Tensor, Arc<Fuse>)> for End {
    type Out = Tensor;

    fn run(&self, (x, _fuse): (Tensor, Arc<Fuse>), _cx: &Context) -> Tensor {
        x
    }
}

#[pipeline(chunks = 4, checkpoint = always)]
struct Fused {
    #[device("cpu")]
    first: Linear,
    light: Light,
    #[device("cpu")]
    burn: Burn,
    second: Beside,
    #[device("cpu")]
    end: End,
    last: Linear,
}

/// A linear layer beside a value, which fails if [`FAILS`] is set.
struct Beside(Linear);

static FAILS: AtomicBool = AtomicBool::new(false);

impl Layer<(Tensor, Arc<Fuse>)> for Beside {
    type Out = (Tensor, Arc<Fuse>);

    fn run(&self, (x, fuse): (Tensor, Arc<Fuse>), cx: &Context) -> Self::Out {
        assert!(cx.micro_batch() < 2 || !FAILS.load(SeqCst), "on purpose");
        (self.0.forward(&x), fuse)
    }
}

/// Wherever a value is dropped, in a layer or between them, in a call that works or one that fails:
/// the call is an error or panics in its caller's thread, and the next one works.
#[test]
fn a_value_that_panics_when_it_is_dropped_ends_its_call_alone() {
    assert_success(alone("a_value_that_panics_when_it_is_dropped_ends_its_call_alone", this, |_| {
        let vars = Fused::vars(&Devices::cpu(Fused::STAGES)).unwrap();
        let linear = |path: nn::Path<'_>| nn::linear(path, WIDTH, WIDTH, Default::default());
        let [first, second, last] = [linear(vars.first()), linear(vars.second()), linear(vars.last())];
        let fused = Fused { first, light: Light, burn: Burn, second: Beside(second), end: End, last };
        let mut pipe = fused.pipe(&vars).build().unwrap();
        let mut step = || pipe.train_step(rows(8), rows(8), loss).map(|report| report.loss.double_value(&[]));
        let expected = step().unwrap();
        let before = resources();
        let mut ended = 0;
        for (fuse, fails) in (1..20).flat_map(|fuse| [(fuse, false), (fuse, true)]) {
            FUSES.store(fuse, SeqCst);
            FAILS.store(fails, SeqCst);
            let outcome = catch_unwind(AssertUnwindSafe(&mut step));
            ended += usize::from(FUSES.swap(0, SeqCst) == 0);
            FAILS.store(false, SeqCst);
            if let Ok(Ok(found)) = outcome {
                assert!(!fails);
                assert_eq!(found, expected);
            }
            assert_eq!(step().unwrap(), expected, "after fuse {fuse}, {fails}");
            assert_no_more(before, &format!("after fuse {fuse}, {fails}"));
        }
        assert!(ended >= 6, "{ended} calls have dropped a value that panics");
    }));
}

/// A layer whose destructor panics.
struct Mine(Gate);

impl Layer<Tensor> for Mine {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        self.0.run(x, cx)
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        panic!("a layer's destructor");
    }
}

#[pipeline(chunks = 2)]
struct Mined {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    mine: Mine,
    last: Linear,
}

#[test]
fn a_layer_that_panics_when_it_is_dropped_leaves_no_thread() {
    assert_success(alone("a_layer_that_panics_when_it_is_dropped_leaves_no_thread", this, |_| {
        let build = || {
            let vars = Mined::vars(&Devices::cpu(Mined::STAGES)).unwrap();
            let linear = |path: nn::Path<'_>| nn::linear(path, WIDTH, WIDTH, Default::default());
            let [first, last] = [linear(vars.first()), linear(vars.last())];
            let mut pipe = Mined { first, mine: Mine(Gate::default()), last }.pipe(&vars).build().unwrap();
            let output = pipe.forward(rows(4)).unwrap();
            (pipe, output)
        };
        let mut before = None;
        for _ in 0..10 {
            let (pipe, output) = build();
            drop(output);
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(pipe))).unwrap_err();
            assert_eq!(dropped.downcast_ref(), Some(&"a layer's destructor"));
            // A graph keeps the layers until its backward, in libtorch, where nobody can be told.
            let (pipe, output) = build();
            drop(pipe);
            output.sum(Kind::Float).backward();
            drop(output);
            assert_no_more(*before.get_or_insert_with(resources), &"with a layer that cannot be dropped");
        }
    }));
}

/// Whichever thread runs the layer, the others neither hold the process nor make it crash.
#[test]
fn a_layer_that_ends_the_process_ends_it_at_once() {
    const NAME: &str = "a_layer_that_ends_the_process_ends_it_at_once";
    for _ in 0..8 {
        let start = Instant::now();
        let output = alone(NAME, this, |_| {
            let (net, vars, gate) = net();
            let mut pipe = net.pipe(&vars).build().unwrap();
            step(&mut pipe, &vars, &rows(8)).unwrap();
            gate.does(|_, cx| {
                if cx.micro_batch() == 2 {
                    exit(7);
                }
            });
            let _ = step(&mut pipe, &vars, &rows(8));
            unreachable!("the process has ended");
        });
        let Some(output) = output else { return };
        assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}
