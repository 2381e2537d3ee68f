//! The memory of tensors may be taken from mimalloc while other threads compute. This has a process
//! of its own, because it is a setting of the whole process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tch::{Device, Kind, Tensor};

/// A convolution holds memory that it frees by the allocator that there is when it ends.
#[test]
fn the_allocator_changes_while_convolutions_run() {
    let done = AtomicBool::new(false);
    tch::set_num_threads(1);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let x = Tensor::rand([4, 8, 32], (Kind::Float, Device::Cpu));
                    let weight = Tensor::rand([8, 8, 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
                    x.conv1d::<&Tensor>(&weight, None, 1, 1, 1, 1).sum(Kind::Float).backward();
                    assert!(weight.grad().defined());
                }
            });
        }
        thread::sleep(Duration::from_millis(50));
        pipe_runtime::keep_freed_memory();
        thread::sleep(Duration::from_millis(50));
        pipe_runtime::keep_freed_memory();
        done.store(true, Ordering::Relaxed);
    });
}
