//! A pipeline reports the numbers of the accelerators' allocators.

use pipe_mock_device::is_installed;
use pipe_runtime::{Checkpoint, Devices, pipeline};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

#[pipeline(chunks = 4)]
struct Net {
    #[device("cuda:0")]
    first: Linear,
    #[device("cuda:1")]
    second: Linear,
    third: Linear,
}

/// Bytes of a layer's parameters: 64 x 64 weights and 64 biases of 4 bytes.
const LAYER: u64 = (64 * 64 + 64) * 4;

#[test]
fn the_report_tells_what_each_device_holds_now_and_at_most() {
    if !is_installed() {
        eprintln!("skipped: libtorch has CUDA of its own here, so the mock is not in");
        return;
    }
    let places = Devices::new([Device::Cuda(0), Device::Cuda(1)]);
    let vars = Net::vars(&places).unwrap();
    let linear = |path| nn::linear(path, 64, 64, Default::default());
    let net = Net { first: linear(vars.first()), second: linear(vars.second()), third: linear(vars.third()) };
    let mut pipe = net.pipe(&vars).checkpoint(Checkpoint::Never).build().unwrap();

    pipe.reset_peaks().unwrap();
    let before = pipe.memory().unwrap();
    let devices: Vec<_> = before.devices.iter().map(|memory| memory.device).collect();
    assert_eq!(devices, [Device::Cuda(0), Device::Cuda(1)]);
    let [first, second] = [&before.devices[0], &before.devices[1]];
    assert!(first.allocated >= LAYER && second.allocated >= 2 * LAYER, "{before:?}");
    assert_eq!(first.peak_allocated, first.allocated, "{before:?}");

    let x = Tensor::rand([32, 64], (Kind::Float, Device::Cuda(0)));
    let report = pipe.train_step(&x, (), |output: &Tensor, ()| output.square().mean(Kind::Float)).unwrap();
    let after = pipe.memory().unwrap();
    for (memory, (before, layers)) in after.devices.iter().zip(before.devices.iter().zip([1, 2])) {
        // The gradients remain. The activations are freed, but count for the peak.
        assert!(memory.allocated >= before.allocated + layers * LAYER, "{after:?}");
        assert!(memory.peak_allocated > memory.allocated, "{after:?}");
        assert!(memory.peak_reserved >= memory.peak_allocated, "{after:?}");
    }
    assert_eq!(after.to_string().lines().count(), 2, "{after}");
    assert!(after.to_string().starts_with("cuda:0: "), "{after}");
    drop(report);
}
