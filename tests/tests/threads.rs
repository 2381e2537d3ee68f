//! The threads of a pipeline end with it. The test needs a separate process, because other tests
//! start and end threads.

use pipe_runtime::{Context, Devices, Layer, pipeline};
use pipe_tests::compare::rows;
use pipe_tests::layers::linear;
use pipe_tests::torture::{assert_no_more, resources};
use tch::nn::Linear;
use tch::{Kind, Tensor};

/// A layer that fails on an empty micro-batch.
struct Picky(Linear);

impl Layer<Tensor> for Picky {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        if x.size()[0] == 0 {
            std::panic::resume_unwind(Box::new("nothing to do"));
        }
        x.apply(&self.0)
    }
}

#[pipeline(chunks = 4)]
struct Net {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    second: Picky,
    #[device("cpu")]
    third: Linear,
}

#[test]
fn they_end_also_after_failures_and_with_graphs_that_outlive_the_pipeline() {
    let step = || {
        let vars = Net::vars(&Devices::cpu(3)).unwrap();
        let net = Net {
            first: linear(vars.first(), 8, 8),
            second: Picky(linear(vars.second(), 8, 8)),
            third: linear(vars.third(), 8, 8),
        };
        let mut pipe = net.pipe(&vars).build().unwrap();
        let [running, _] = resources();
        assert!(pipe.forward(rows(0)).is_err());
        let loss = pipe.forward(rows(8)).unwrap().sum(Kind::Float);
        drop(pipe);
        loss.backward();
        running
    };
    // libtorch starts its own thread pools at the first use.
    step();
    let before = resources();
    let workers = usize::from(std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1));
    for _ in 0..20 {
        let running = step();
        // The system may list a thread for a moment after it was joined, so `before` may be one too
        // high: there was a worker if the number becomes less than it was.
        assert_no_more([running - workers, before[1]], &"after the pipeline, with its workers, was dropped");
        assert_no_more(before, &"after the pipeline was dropped");
    }
}
