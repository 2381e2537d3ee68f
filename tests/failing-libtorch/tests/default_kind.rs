//! The default kind is libtorch's, for the whole process: each stage computes with the caller's, in
//! the recomputation, too. The test needs a process of its own: all threads share that kind.

use std::sync::{Arc, Mutex};

use pipe_failing_libtorch::set_default_kind;
use pipe_runtime::{Checkpoint, Context, Devices, Layer, pipeline};
use pipe_tests::compare::leaf;
use pipe_tests::layers::linear;
use tch::nn::Linear;
use tch::{Kind, Tensor};

/// A layer whose output has the default kind, as the quotient of two integers has. It writes down
/// the kinds, and whether it is recomputed.
struct Quotient(Linear, Arc<Mutex<Vec<(Kind, bool)>>>);

impl Layer<Tensor> for Quotient {
    type Out = Tensor;

    fn run(&self, x: Tensor, cx: &Context) -> Tensor {
        let half = Tensor::from_slice(&[1_i64]) / 2;
        self.1.lock().unwrap().push((half.kind(), cx.is_recomputing()));
        x.to_kind(Kind::Float).apply(&self.0) * half
    }
}

#[pipeline(chunks = 4)]
struct Net {
    #[device("cpu")]
    first: Quotient,
    #[device("cpu")]
    second: Quotient,
}

#[test]
fn the_default_kind_holds_in_every_stage_and_in_the_recomputation() {
    let seen = Arc::<Mutex<Vec<(Kind, bool)>>>::default();
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    let net = Net {
        first: Quotient(linear(vars.first(), 8, 8), seen.clone()),
        second: Quotient(linear(vars.second(), 8, 8), seen.clone()),
    };
    let mut pipe = net.pipe(&vars).checkpoint(Checkpoint::Always).build().unwrap();
    for kind in [Kind::Double, Kind::Float] {
        set_default_kind(kind);
        let y = pipe.forward(leaf(8)).unwrap();
        assert_eq!(y.kind(), kind);
        y.sum(Kind::Float).backward();
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert_eq!(seen.len(), 2 * 4 * 2);
        assert!(seen.iter().all(|(found, _)| *found == kind));
        assert_eq!(seen.iter().filter(|(_, recomputing)| *recomputing).count(), 2 * 4);
    }

    // A recomputation that would compute with another kind than the first pass is an error.
    set_default_kind(Kind::Double);
    let y = pipe.forward(leaf(8)).unwrap();
    set_default_kind(Kind::Float);
    let error = y.sum(Kind::Float).f_backward().unwrap_err().to_string();
    assert!(error.contains("the recomputation gave other values than the first pass"), "{error}");
}
