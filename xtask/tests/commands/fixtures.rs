//! Tests `cargo xtask fixtures`.

use crate::workbench::{Workbench, succeeds};

#[test]
fn each_torch_is_installed_once_and_writes_its_schedules() {
    let bench = Workbench::new("fixtures");
    for _ in 0..2 {
        let mut fixtures = bench.xtask(&["fixtures"]);
        fixtures.env_remove("PIPE_ORACLE_PYTHON").env_remove("PIPE_BENCH_NEW_PYTHON");
        let output = succeeds(&mut fixtures);
        assert_eq!(output.matches("ran dump.py\n").count(), 2, "{output}");
    }
    let installs: Vec<_> = bench.pip_calls().into_iter().filter(|call| call.contains("install")).collect();
    assert_eq!(installs.len(), 2, "{installs:?}");
    assert!(installs[0].contains("torch==2.11.0") && installs[1].contains("torch==2.15.0"), "{installs:?}");
}
