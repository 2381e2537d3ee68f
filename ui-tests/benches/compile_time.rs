//! How long `cargo check` takes on an annotated model, and on the same stages written by hand:
//! `cargo bench -p pipe-ui-tests --bench compile_time`.
//!
//! Both are written into a workspace of their own below `target`, against the mock of the runtime, and checked in turn.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LAYERS: usize = 1000;
/// Layers in a stage.
const STAGE: usize = 10;
/// Of each stage, the layer that stashes, and the one that pops what the stage before has stashed.
const STASH: usize = 1;
const POP: usize = 5;

const ROUNDS: usize = 9;

fn main() {
    // `cargo test --benches` asks whether it runs at all.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { ROUNDS } else { 1 };
    let workspace = workspace();
    let crates = [("annotated", annotated()), ("stages_by_hand", stages_by_hand())];
    for (name, source) in &crates {
        let folder = workspace.join(name);
        write(&folder.join("Cargo.toml"), &manifest(name));
        write(&folder.join("src/lib.rs"), source);
        check(&workspace, name);
    }
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for ((name, source), times) in crates.iter().zip(&mut times) {
            write(&workspace.join(name).join("src/lib.rs"), source);
            times.push(check(&workspace, name));
        }
    }
    let [annotated, by_hand] = times.map(median);
    println!("cargo check, {LAYERS} layers in {} stages, median of {rounds}:", LAYERS / STAGE);
    println!("  annotated struct:       {:>6.0} ms", annotated.as_secs_f64() * 1e3);
    println!("  its stages by hand:     {:>6.0} ms", by_hand.as_secs_f64() * 1e3);
    println!("  ratio:                  {:>6.2}", annotated.as_secs_f64() / by_hand.as_secs_f64());
}

/// Empty but for the manifest and the versions that this workspace has.
fn workspace() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a workspace");
    let workspace = root.join("target/compile-time");
    let profile = "[profile.release.build-override]\nopt-level = 3\n";
    let members = "[workspace]\nresolver = \"3\"\nmembers = [\"annotated\", \"stages_by_hand\"]\n\n";
    write(&workspace.join("Cargo.toml"), &format!("{members}{profile}"));
    fs::copy(root.join("Cargo.lock"), workspace.join("Cargo.lock")).expect("the lock file can be copied");
    for name in ["annotated", "stages_by_hand"] {
        write(&workspace.join(name).join("Cargo.toml"), &manifest(name));
        write(&workspace.join(name).join("src/lib.rs"), "");
    }
    workspace
}

fn manifest(name: &str) -> String {
    let mock = Path::new(env!("CARGO_MANIFEST_DIR")).join("mock");
    format!(
        "[package]\nname = \"{name}\"\nedition = \"2024\"\n\n[dependencies]\n\
         pipe-runtime = {{ package = \"pipe-mock\", path = {:?} }}\n",
        mock.display().to_string()
    )
}

/// The time that the check takes.
fn check(workspace: &Path, name: &str) -> Duration {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let start = Instant::now();
    let output = Command::new(cargo)
        .current_dir(workspace)
        .args(["check", "--offline", "--release", "--quiet", "--package", name])
        .output()
        .expect("cargo runs");
    let time = start.elapsed();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    time
}

fn write(file: &Path, text: &str) {
    fs::create_dir_all(file.parent().expect("a file is in a folder")).expect("the folder can be made");
    fs::write(file, text).expect("the file can be written");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// What a layer is to skips, by its number.
fn stash(layer: usize) -> Option<usize> {
    (layer % STAGE == STASH && layer + STAGE < LAYERS).then_some(layer / STAGE)
}

fn pop(layer: usize) -> Option<usize> {
    (layer % STAGE == POP && layer >= STAGE).then(|| layer / STAGE - 1)
}

fn layer_type(layer: usize) -> &'static str {
    if pop(layer).is_some() { "Concat" } else { "Linear" }
}

fn annotated() -> String {
    let mut source =
        "use pipe_runtime::nn::{Concat, Linear};\n\n#[pipe_runtime::pipeline]\npub struct Model {\n".to_owned();
    for layer in 0..LAYERS {
        if layer % STAGE == 0 {
            let _ = writeln!(source, "    #[device(\"cuda:{}\")]", layer / STAGE % 8);
        }
        if let Some(skip) = stash(layer) {
            let _ = writeln!(source, "    #[stash(skip{skip} = output)]");
        }
        if let Some(skip) = pop(layer) {
            let _ = writeln!(source, "    #[pop(skip{skip})]");
        }
        let _ = writeln!(source, "    layer{layer}: {},", layer_type(layer));
    }
    source + "}\n"
}

fn stages_by_hand() -> String {
    let stages = LAYERS / STAGE;
    let mut source = "use pipe_runtime::__rt::{Graph, keep, run};\nuse pipe_runtime::nn::{Concat, Linear, Tensor};\n\n\
         pub struct Model {\n"
        .to_owned();
    for layer in 0..LAYERS {
        let _ = writeln!(source, "    pub layer{layer}: {},", layer_type(layer));
    }
    source += "}\n\npub fn stages(model: Model, graph: &mut Graph) {\n";
    for boundary in 0..=stages {
        let _ = writeln!(source, "    let flow{boundary} = graph.port::<Tensor>({boundary}, {boundary} + 1);");
    }
    for skip in (0..LAYERS).filter_map(stash) {
        let _ = writeln!(source, "    let skip{skip} = graph.port::<Tensor>({skip}, {skip} + 1);");
    }
    for stage in 0..stages {
        let layers = stage * STAGE..(stage + 1) * STAGE;
        let owned: String = layers.clone().map(|layer| format!("model.layer{layer}, ")).collect();
        let bound: String = layers.clone().map(|layer| format!("layer{layer}, ")).collect();
        let _ = writeln!(source, "    graph.stage(({owned}), move |({bound}), io, cx| {{");
        let _ = writeln!(source, "        let x = io.receive(flow{stage});");
        for layer in layers {
            let input = match pop(layer) {
                Some(skip) => {
                    let _ = writeln!(source, "        let skip = io.receive(skip{skip});");
                    "(x, skip)"
                }
                None => "x",
            };
            let _ = writeln!(source, "        let x = run({input}, layer{layer}, cx.layer(\"layer{layer}\"));");
            if let Some(skip) = stash(layer) {
                let _ = writeln!(source, "        io.send(skip{skip}, keep(&x));");
            }
        }
        let _ = writeln!(source, "        io.send(flow{}, x);\n    }});", stage + 1);
    }
    source + "}\n"
}
