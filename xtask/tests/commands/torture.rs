//! Tests `cargo xtask torture`.

use std::fs;

use crate::workbench::{Workbench, succeeds};

#[test]
fn all_parts_run_and_take_longer_on_demand() {
    let bench = Workbench::new("torture");
    bench.program("cargo");
    for (mpi, library) in [("openmpi-5.0.11", "libmpi.so.40"), ("mpich-5.0.2", "libmpi.so.12")] {
        for file in ["bin/mpiexec", &format!("lib/{library}")] {
            let file = bench.path("cache/pipe-mpi").join(mpi).join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
    }
    for (args, stride) in [(&["torture"][..], "7"), (&["torture", "--long"], "1")] {
        let mut torture = bench.xtask(args);
        torture.env("LIBTORCH", bench.libtorch("own", "2.11")).env("CARGO", bench.path("bin/cargo"));
        let printed = succeeds(&mut torture);
        assert!(printed.ends_with("all parts are done, without a miss\n"), "{printed}");
        let runs = fs::read_to_string(bench.path("bin/cargo-calls")).unwrap();
        // What these need may be missing.
        let optional = ["torch::", "model::lent", "build-std", "--test all"];
        let runs: Vec<_> = runs.lines().filter(|run| !optional.iter().any(|word| run.contains(word))).collect();
        let [.., faults, soak, memory, saves, kills, lacks] = runs[..] else { panic!("{runs:?}") };
        assert!(faults.ends_with(&format!("--bin torture -- faults --stride {stride}")), "{faults}");
        assert!(soak.contains("--bin torture -- soak --steps "), "{soak}");
        assert!(lacks.contains("--test resources --test leaks --test beside"), "{lacks}");
        assert!(memory.contains("--test calls --test routes --test training --test killed"), "{memory}");
        assert!(saves.contains("--test interrupted --"), "{saves}");
        assert!(kills.contains("--test processes") && kills.contains("killed_again_and_again"), "{kills}");
    }
    fs::write(bench.path("bin/passing-tests"), "0\n").unwrap();
    let mut torture = bench.xtask(&["torture"]);
    torture.env("LIBTORCH", bench.libtorch("own", "2.11")).env("CARGO", bench.path("bin/cargo"));
    let output = torture.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        !output.status.success() && printed.contains("failed, or without a test: what fails in libtorch"),
        "{printed}"
    );
}
