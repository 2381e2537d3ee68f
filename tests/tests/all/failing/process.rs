//! The output that a pipeline prints. The test runs this binary again, as a separate process.

use std::cell::RefCell;
use std::process::{Command, Output};

use pipe_runtime::balance::Balance;
use pipe_runtime::{Context, Devices, Layer, pipeline};
use pipe_tests::compare::{mse, rows};
use pipe_tests::layers::{func, linear};
use tch::Tensor;
use tch::nn::{Func, Linear};

#[pipeline(chunks = 2)]
struct Net {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Func<'static>,
}

fn net(last: Func<'static>) -> (Net, NetVars) {
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    (Net { first: linear(vars.first(), 8, 8), last }, vars)
}

/// Runs a test of this binary again, as a separate process.
fn again(name: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = format!("failing::process::{name}");
    command.args([&*name, "--exact", "--nocapture"]).env(AGAIN, "1");
    command.env_remove("RUST_BACKTRACE").envs(variables.iter().copied());
    command.output().unwrap()
}

/// Environment variable that is set in the process that [`again`] starts.
const AGAIN: &str = "PIPE_TEST_AGAIN";

#[test]
fn a_panic_that_comes_back_as_an_error_is_not_printed_as_well() {
    if std::env::var_os(AGAIN).is_some() {
        return fails();
    }
    let run = |variables| again("a_panic_that_comes_back_as_an_error_is_not_printed_as_well", variables);
    let quiet = run(&[]);
    let text = String::from_utf8_lossy(&quiet.stderr).into_owned();
    assert!(quiet.status.success(), "{text}");
    assert!(!text.contains("frame #") && !text.contains("panicked"), "{text}");
    // With RUST_BACKTRACE, the panic is printed.
    let loud = run(&[("RUST_BACKTRACE", "1")]);
    assert!(String::from_utf8_lossy(&loud.stderr).contains("panicked"));
}

fn fails() {
    let (net, vars) = net(func(|x| x.matmul(x)));
    let mut pipe = net.pipe(&vars).build().unwrap();
    let error = pipe.forward(rows(6)).unwrap_err().to_string();
    assert_eq!(
        // libtorch 2.15 prefixes the name of the operator.
        error.replace("mm: ", ""),
        "forward of micro-batch 0 in stage 1, layer `last`: mat1 and mat2 shapes cannot be multiplied (3x8 and 3x8)"
    );
}

/// Keeps its last output until the next one, as layers with a state do.
struct Keeps(Linear, RefCell<Option<Tensor>>);

impl Layer<Tensor> for Keeps {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        let y = x.apply(&self.0);
        self.1.replace(Some(y.detach().copy()));
        y
    }
}

#[pipeline(chunks = 2)]
struct Kept {
    #[device("cpu")]
    first: Keeps,
    #[device("cpu")]
    last: Keeps,
}

#[test]
fn measuring_prints_no_warning_of_memory_that_is_older() {
    let _serial = pipe_tests::serial();
    if std::env::var_os(AGAIN).is_some() {
        return measures();
    }
    let output = again("measuring_prints_no_warning_of_memory_that_is_older", &[]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !text.contains("CPUAllocator"), "{text}");
}

fn measures() {
    let vars = Kept::vars(&Devices::cpu(2)).unwrap();
    let keeps = |path| Keeps(linear(path, 8, 8), RefCell::default());
    let model = Kept { first: keeps(vars.first()), last: keeps(vars.last()) };
    let _profile = Balance::of(&model, &vars).by_size(rows(6)).unwrap();
    let mut pipe = model.pipe(&vars).build().unwrap();
    pipe.train_step(rows(6), rows(6), mse).unwrap();
    pipe.start_trace();
    pipe.train_step(rows(6), rows(6), mse).unwrap();
    assert!(pipe.stop_trace().unwrap().costs().stages[0].activation > 0.);
}
