//! The report of a pipeline's memory on its devices.

use pipe_runtime::{Devices, pipeline};
use pipe_tests::layers::{func, linear};
use tch::nn::{Func, Linear};

#[pipeline]
struct Net {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    second: Func<'static>,
}

/// libtorch's CPU allocator keeps no statistics, so there is nothing to report and nothing to
/// reset. (`gpu-check` tests the report of a GPU.)
#[test]
fn stages_on_the_cpu_have_no_line() {
    let _serial = pipe_tests::serial();
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    let net = Net { first: linear(vars.first(), 8, 8), second: func(|x| x.relu()) };
    let pipe = net.pipe(&vars).build().unwrap();
    let report = pipe.memory().unwrap();
    assert!(report.devices.is_empty());
    assert_eq!(report.to_string(), "");
    pipe.reset_peaks().unwrap();
}
