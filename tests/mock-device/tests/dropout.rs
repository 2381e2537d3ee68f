//! Dropout on accelerators draws from the model's own random number generators, so the masks do not
//! depend on the devices, the checkpoint mode or the schedule.

use pipe_mock_device::{draw, is_skipped, log, named, violations};
use pipe_runtime::{Checkpoint, Devices, ScheduleKind, pipeline};
use tch::nn::{self, Linear};
use tch::{Device, Kind, Tensor};

const GPU0: Device = Device::Cuda(0);
const GPU1: Device = Device::Cuda(1);

#[pipeline(chunks = 3)]
struct Net {
    #[device("cpu")]
    first: Linear,
    drop_first: nn::FuncT<'static>,
    #[device("cpu")]
    second: Linear,
    drop_second: nn::FuncT<'static>,
}

/// Runs a training step from a fixed seed, and returns the output and the gradients.
fn step(places: [Device; 2], checkpoint: Checkpoint, method: ScheduleKind) -> Vec<Tensor> {
    let vars = Net::vars(&Devices::new(places)).unwrap();
    let dropout = || nn::func_t(|x, train| x.dropout(0.5, train));
    let net = Net {
        first: nn::linear(vars.first(), 8, 8, Default::default()),
        drop_first: dropout(),
        second: nn::linear(vars.second(), 8, 8, Default::default()),
        drop_second: dropout(),
    };
    draw(vars.var_store(), 1, |_| true);
    let x = (Tensor::rand([7, 8], (Kind::Float, Device::Cpu)) - 0.5).to_device(places[0]);
    let mut pipe = net.pipe(&vars).checkpoint(checkpoint).schedule(method).intra_op_threads(1).build().unwrap();
    tch::manual_seed(2);
    let report =
        pipe.step().keep_output().run(&x, (), |output: &Tensor, ()| output.square().mean(Kind::Float)).unwrap();
    let gradients = named(vars.var_store()).into_iter().map(|(_, variable)| variable.grad());
    [report.output].into_iter().chain(gradients).map(|tensor| tensor.to_device(Device::Cpu)).collect()
}

#[test]
fn masks_depend_neither_on_placement_nor_on_checkpoints_nor_on_the_schedule() {
    if is_skipped() {
        return;
    }
    tch::set_num_threads(1);
    let expected = step([GPU0; 2], Checkpoint::Never, ScheduleKind::GPipe);
    let dropped = expected[0].eq(0.).sum(Kind::Int64).int64_value(&[]);
    assert!((10..46).contains(&dropped), "about half of 56 values are dropped, not {dropped}");
    for places in [[GPU0; 2], [GPU0, GPU1], [GPU1, GPU0]] {
        // 1F1B needs one stage per device.
        let methods: &[_] = if places[0] == places[1] {
            &[ScheduleKind::GPipe, ScheduleKind::ZbH1]
        } else {
            &[ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::ZbH1]
        };
        for checkpoint in [Checkpoint::Always, Checkpoint::ExceptLast, Checkpoint::Never] {
            for &method in methods {
                let from = log(0).len();
                let found = step(places, checkpoint, method);
                let what = format!("{places:?}, {checkpoint}, {method}");
                for (found, expected) in found.iter().zip(&expected) {
                    assert!(found.allclose(expected, 1e-5, 1e-6, false), "{what}: {found:?} instead of {expected:?}");
                }
                let log = log(from);
                assert!(
                    log.iter().any(|entry| entry.name == "_fused_dropout"),
                    "{what}: no mask was drawn by a generator"
                );
                assert!(violations(&log).is_empty(), "{what}");
            }
        }
    }
}
