//! A measured balance is written to a file, and a struct that names the file gets its stages.

use pipe_runtime::balance::Balance;
use pipe_runtime::{Devices, pipeline};
use pipe_tests::compare::rows;
use pipe_tests::layers::linear;
use tch::Device;
use tch::nn::{Linear, VarStore};

mod block {
    use super::*;

    /// The model as it is measured.
    #[pipeline]
    pub struct Net {
        pub wide: Linear,
        #[repeat]
        pub narrow: [Linear; 4],
        pub last: Linear,
    }
}

/// The model as it is trained, with the stages of `tests/balance/net.toml`.
#[pipeline(balance = "balance/net.toml", chunks = 2)]
struct Net {
    wide: Linear,
    narrow: [Linear; 4],
    last: Linear,
}

#[test]
fn the_file_that_a_measurement_writes_is_the_one_that_the_struct_reads() {
    let _serial = pipe_tests::serial();
    let store = VarStore::new(Device::Cpu);
    let vars = block::Net::vars_at(store.root());
    let net = block::Net {
        wide: linear(vars.wide(), 8, 64),
        narrow: vars.narrow().map(|path| linear(path, 64, 64)),
        last: linear(vars.last(), 64, 2),
    };
    let profile = Balance::of_block(&net, &store, &store.root()).stages(3).by_size(rows(8)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("net.toml");
    profile.write(&file).unwrap();
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(written, include_str!("../../../balance/net.toml"), "bytes are the same on every machine");
}

#[test]
fn the_struct_has_the_stages_of_the_file() {
    let _serial = pipe_tests::serial();
    println!("{}", Net::PLAN);
    let layers: Vec<String> = Net::PLAN.layers().map(|(stage, layer)| format!("{stage} {layer}")).collect();
    assert_eq!(layers, ["0 wide", "0 narrow[0]", "1 narrow[1..3]", "2 narrow[3]", "2 last"]);
    let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
    let net = Net {
        wide: linear(vars.wide(), 8, 64),
        narrow: vars.narrow().map(|path| linear(path, 64, 64)),
        last: linear(vars.last(), 64, 2),
    };
    let x = rows(6);
    let expected = net.unpipelined().forward(&x).unwrap();
    assert_eq!(net.pipe(&vars).build().unwrap().forward(&x).unwrap(), expected);
}

#[test]
fn on_fewer_devices_stages_are_merged_by_their_costs() {
    let _serial = pipe_tests::serial();
    assert_eq!(Net::PLAN.costs, [41984, 70656, 36432]);
    let vars = Net::vars(&Devices::cpu(2)).unwrap();
    let net = Net {
        wide: linear(vars.wide(), 8, 64),
        narrow: vars.narrow().map(|path| linear(path, 64, 64)),
        last: linear(vars.last(), 64, 2),
    };
    let mut pipe = net.pipe(&vars).build().unwrap();
    pipe.start_trace();
    let _ = pipe.forward(rows(6)).unwrap();
    let costs = pipe.stop_trace().unwrap().costs();
    // Two stages on the first device would cost more than two on the second.
    let parameters: Vec<f64> = costs.stages.iter().map(|stage| stage.parameters).collect();
    let (wide, narrow, last) = (8 * 64 + 64, 64 * 64 + 64, 64 * 2 + 2);
    let bytes = |numbers: u32| f64::from(4 * numbers);
    assert_eq!(parameters, [bytes(wide + narrow), bytes(3 * narrow + last)]);
}
