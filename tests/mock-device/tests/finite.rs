//! NaN and infinity on accelerators: one flag per device is read back, and changed variables are
//! restored.

use pipe_mock_device::is_skipped;
use pipe_runtime::{Checkpoint, Context, Devices, Layer, Pipe, pipeline};
use tch::nn::{self, Linear};
use tch::{Device, Reduction, Tensor};

const GPU0: Device = Device::Cuda(0);
const GPU1: Device = Device::Cuda(1);

/// Keeps the variance of what passes, as batch norm does: that of a single row is not a number.
/// (The mock's batch norm, which runs on the CPU, leaves its statistics there.)
struct Spread {
    weight: Tensor,
    variance: Tensor,
}

impl Layer<Tensor> for Spread {
    type Out = Tensor;

    fn run(&self, x: Tensor, _cx: &Context) -> Tensor {
        let rows = x.size()[0] as f64;
        let deviations = (&x - x.mean_dim([0_i64].as_slice(), true, None)).square();
        let variance = tch::no_grad(|| deviations.sum_dim_intlist([0_i64].as_slice(), false, None) / (rows - 1.));
        self.variance.data().copy_(&variance);
        x * &self.weight
    }
}

#[pipeline(chunks = 3)]
struct Net {
    #[device("cuda:0")]
    norm: Spread,
    #[device("cuda:1")]
    last: Linear,
}

fn net(checkpoint: Checkpoint, allowed: bool) -> (Pipe<Net>, NetVars) {
    let vars = Net::vars(&Devices::new([GPU0, GPU1])).unwrap();
    let norm = Spread {
        weight: vars.norm().ones("weight", &[8]),
        variance: vars.norm().ones("running_var", &[8]).set_requires_grad(false),
    };
    let net = Net { norm, last: nn::linear(vars.last(), 8, 8, Default::default()) };
    (net.pipe(&vars).checkpoint(checkpoint).allow_non_finite(allowed).build().unwrap(), vars)
}

fn rows(rows: i64, device: Device) -> Tensor {
    Tensor::randn([rows, 8], (tch::Kind::Float, Device::Cpu)).to_device(device)
}

fn mse(output: &Tensor, y: &Tensor) -> Tensor {
    output.mse_loss(y, Reduction::Mean)
}

#[test]
fn statistics_and_losses_that_stop_being_finite_fail_the_step_and_are_put_back() {
    if is_skipped() {
        return;
    }
    for checkpoint in [Checkpoint::Always, Checkpoint::Never] {
        // Micro-batches of 3, 3 and 1 rows. A single row has no unbiased variance.
        let (mut pipe, vars) = net(checkpoint, false);
        let variance = || vars.var_store().variables()["norm.running_var"].to_device(Device::Cpu);
        let trained =
            || vars.var_store().trainable_variables().iter().filter(|variable| variable.grad().defined()).count();
        let error = pipe.train_step(rows(7, GPU0), rows(7, GPU1), mse).unwrap_err().to_string();
        assert!(error.starts_with("stage 0: the variable `norm.running_var` is no longer finite"), "{error}");
        assert_eq!((variance().double_value(&[0]), trained()), (1., 0));

        let bad = |output: &Tensor, y: &Tensor| mse(output, y) * f64::NAN;
        let error = pipe.train_step(rows(6, GPU0), rows(6, GPU1), bad).unwrap_err().to_string();
        assert!(error.starts_with("the loss of micro-batch 0 is not finite"), "{error}");
        assert_eq!((variance().double_value(&[0]), trained()), (1., 0));

        pipe.train_step(rows(6, GPU0), rows(6, GPU1), mse).unwrap();
        assert_eq!(trained(), 3);
        let (mut pipe, _vars) = net(checkpoint, true);
        pipe.train_step(rows(7, GPU0), rows(7, GPU1), bad).unwrap();
    }
}
