//! A process that is forked from a process with a pipeline. The test needs a separate binary,
//! because the forked process has only the thread of the test.

use fork::{Fork, fork, waitpid};
use pipe_runtime::{Devices, Pipe, pipeline};
use pipe_tests::compare::rows;
use pipe_tests::layers::linear;
use tch::nn::Linear;
use tch::{Reduction, Tensor};

#[pipeline(chunks = 2)]
struct Net {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Linear,
}

fn build() -> Pipe<Net> {
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    let net = Net { first: linear(vars.first(), 8, 8), last: linear(vars.last(), 8, 8) };
    net.pipe(&vars).build().unwrap()
}

fn train(pipe: &mut Pipe<Net>) -> pipe_runtime::Result<()> {
    pipe.train_step(rows(4), rows(4), |y, x: &Tensor| y.mse_loss(x, Reduction::Mean)).map(drop)
}

/// Uses the parent's pipelines in the forked process. Returns the exit status, which is 0 on
/// success.
fn in_the_child(mut run: Pipe<Net>, dropped: Pipe<Net>, left: Pipe<Net>) -> i32 {
    let refused = train(&mut run).map_err(|error| error.to_string());
    let says_why =
        matches!(&refused, Err(words) if words.contains("forked from it") && words.contains("Build another one here"));
    drop(dropped);
    drop(left.into_inner());
    drop(run);
    let trains = train(&mut build()).is_ok();
    i32::from(!says_why) + 2 * i32::from(!trains)
}

#[test]
fn a_forked_process_leaves_and_drops_pipelines_and_builds_its_own() {
    let _serial = pipe_tests::serial();
    let mut pipes = [build(), build(), build()];
    pipes.iter_mut().for_each(|pipe| train(pipe).unwrap());
    let [run, dropped, left] = pipes;
    match fork().unwrap() {
        Fork::Child => std::process::exit(in_the_child(run, dropped, left)),
        Fork::Parent(child) => {
            let status = waitpid(child).unwrap();
            assert_eq!(format!("{status:?}"), format!("{:?}", 0));
        }
    }
}
