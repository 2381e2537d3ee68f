//! Time of `cargo check` for an annotated model, and for the same code written by hand:
//! `cargo bench -p pipe-ui-tests --bench compile_time`.
//!
//! Each is a crate in a separate workspace below `target`, against the mock of the runtime. They
//! are checked in turn. The minimum of each counts, because other load affects it least.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LAYERS: usize = 1000;
/// Layers in a stage.
const STAGE: usize = 10;
/// Positions in each stage of the layer that stashes, and of the layer that pops the skip of the
/// stage before.
const STASH: usize = 1;
const POP: usize = 5;

const ROUNDS: usize = 15;

/// A function that generates a crate's source.
type Source = fn() -> String;

/// Crates, with the functions that generate their source.
const CRATES: [(&str, Source); 4] = [
    ("annotated", || annotated(false)),
    ("by_hand", by_hand),
    ("stages_by_hand", stages_by_hand),
    ("reading", || annotated(true)),
];

fn main() {
    // `cargo test` runs this too: one round shows that it works.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { ROUNDS } else { 1 };
    let workspace = workspace();
    let mut times = [Duration::MAX; CRATES.len()];
    // The first round builds what the crates depend on.
    for round in 0..=rounds {
        for ((name, source), least) in CRATES.iter().zip(&mut times) {
            write(&workspace.join(name).join("src/lib.rs"), &source());
            let time = check(&workspace, name);
            *least = if round == 0 { *least } else { time.min(*least) };
        }
    }
    let [annotated, by_hand, stages, reading] = times.map(|time| time.as_secs_f64());
    println!("`cargo check` of {LAYERS} layers in {} stages, least of {rounds} times:", LAYERS / STAGE);
    println!("  annotated struct                         {:5.0} ms", annotated * 1e3);
    println!("  what it stands for, by hand              {:5.0} ms  ratio {:.2}", by_hand * 1e3, annotated / by_hand);
    println!("  its stages alone, by hand                {:5.0} ms  ratio {:.2}", stages * 1e3, annotated / stages);
    println!("  annotated, each layer reads two values   {:5.0} ms  ratio {:.2}", reading * 1e3, reading / annotated);
}

/// Creates the workspace: manifests, empty crates, and a copy of this workspace's lock file.
fn workspace() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a workspace");
    let workspace = root.join("target/compile-time");
    let names = CRATES.map(|(name, _)| name);
    let members = format!("[workspace]\nresolver = \"3\"\nmembers = {names:?}\n");
    let profile = "[profile.release.build-override]\nopt-level = 3\n";
    write(&workspace.join("Cargo.toml"), &format!("{members}\n{profile}"));
    fs::copy(root.join("Cargo.lock"), workspace.join("Cargo.lock")).expect("the lock file can be copied");
    for name in names {
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

/// Runs `cargo check` on a crate and returns the time that it takes.
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

/// Number of the skip that a layer stashes. Layers are numbered over the whole model.
fn stash(layer: usize) -> Option<usize> {
    (layer % STAGE == STASH && layer + STAGE < LAYERS).then_some(layer / STAGE)
}

fn pop(layer: usize) -> Option<usize> {
    (layer % STAGE == POP && layer >= STAGE).then(|| layer / STAGE - 1)
}

fn layer_type(layer: usize) -> &'static str {
    if pop(layer).is_some() { "Concat" } else { "Linear" }
}

/// Source of the annotated struct. If the layers are `reading`, the first two lend their outputs,
/// and all others take them.
fn annotated(reading: bool) -> String {
    let types = if reading { "Linear, Reader" } else { "Concat, Linear" };
    let mut source = format!("use pipe_runtime::nn::{{{types}}};\n\n#[pipe_runtime::pipeline]\npub struct Model {{\n");
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
        let ty = match layer {
            0 | 1 if reading => {
                let _ = writeln!(source, "    #[lend(lent{layer} = output)]");
                "Linear"
            }
            _ if reading => {
                let _ = writeln!(source, "    #[read(lent0, lent1)]");
                "Reader"
            }
            _ => layer_type(layer),
        };
        let _ = writeln!(source, "    layer{layer}: {ty},");
    }
    source + "}\n"
}

/// Source of the stages alone.
fn stages_by_hand() -> String {
    let uses = "use pipe_runtime::__rt::{Graph, keep, pass};\nuse pipe_runtime::nn::{Concat, Linear, Tensor};\n\n";
    let stages = stages("model");
    format!("{uses}{}pub fn stages(model: Model, graph: &mut Graph) {{\n{stages}}}\n", model())
}

/// Source of everything that the annotation generates: parameter paths, plan, stages, reassembly of
/// the model, unpipelined run.
fn by_hand() -> String {
    let uses = "use pipe_runtime::__rt::{self, Graph, Layers, LayerPlan, Path, SkipPlan, StagePlan, Vars, keep, pass};\n\
         use pipe_runtime::nn::{Concat, Linear, Tensor};\nuse pipe_runtime::{Context, Layer};\n\n";
    let (model, paths, plan, unpipelined) = (model(), paths(), plan(), unpipelined());
    let (stages, layers) = (stages("self"), taken());
    format!(
        "{uses}{model}
#[derive(Debug)]
pub struct ModelVars {{ vars: Vars }}

impl ModelVars {{
{paths}}}

impl std::ops::Deref for ModelVars {{
    type Target = Vars;
    fn deref(&self) -> &Vars {{ &self.vars }}
}}

impl Model {{
    pub const PLAN: __rt::Plan = {plan};
    pub const STAGES: usize = {};
    pub fn devices() -> __rt::Devices {{ __rt::Devices::annotated::<Self>() }}
    pub fn vars(devices: &__rt::Devices) -> __rt::Result<ModelVars> {{
        Ok(ModelVars {{ vars: Vars::new(&Self::PLAN, devices)? }})
    }}
    pub fn pipe(self, vars: &ModelVars) -> __rt::PipeBuilder<'_, Self> {{ __rt::PipeBuilder::new(self, vars) }}
    pub fn unpipelined(&self) -> __rt::Unpipelined<'_, Self> {{ __rt::Unpipelined::new(self) }}
}}

impl __rt::Model for Model {{
    type Input = Tensor;
    type Output = Tensor;
    const PLAN: __rt::Plan = Self::PLAN;
    const DEFAULTS: __rt::Defaults = __rt::Defaults::NONE;
}}

impl __rt::Pipeline for Model {{
    type Plain = ();
    fn disassemble(self, graph: &mut Graph) -> __rt::Result<()> {{
{stages}        Ok(())
    }}
    fn assemble(layers: &mut Layers, (): ()) -> Self {{
{layers}    }}
}}

impl Layer<Tensor> for Model {{
    type Out = Tensor;
    fn run(&self, x: Tensor, cx: &Context) -> Tensor {{
{unpipelined}        x
    }}
}}
",
        LAYERS / STAGE
    )
}

fn model() -> String {
    let fields = (0..LAYERS).map(|layer| format!("    pub layer{layer}: {},\n", layer_type(layer)));
    format!("pub struct Model {{\n{}}}\n\n", fields.collect::<String>())
}

fn paths() -> String {
    let path = |layer| format!("    pub fn layer{layer}(&self) -> Path<'_> {{ self.vars.layer(\"layer{layer}\") }}\n");
    (0..LAYERS).map(path).collect()
}

fn plan() -> String {
    let layer = |layer| format!("LayerPlan::layer(\"layer{layer}\"), ");
    let stage = |stage| {
        let layers: String = layers_of(stage).map(layer).collect();
        format!("StagePlan {{ device: \"cuda:{}\", layers: &[{layers}] }},\n", stage % 8)
    };
    let stages: String = (0..LAYERS / STAGE).map(stage).collect();
    let skip = |from| {
        let (to, stash, pop) = (from + 1, from * STAGE + STASH, (from + 1) * STAGE + POP);
        format!(
            "SkipPlan {{ name: \"skip{from}\", stash: \"layer{stash}\", from: {from}, pop: \"layer{pop}\", to: {to} }},\n"
        )
    };
    let skips: String = (0..LAYERS).filter_map(stash).map(skip).collect();
    format!("__rt::Plan {{ name: \"Model\", stages: &[{stages}], skips: &[{skips}], ..__rt::Plan::EMPTY }}")
}

/// Source of the ports, and of the stages with the layers of `owner`.
fn stages(owner: &str) -> String {
    let mut source = String::new();
    let port = |name: String, number: usize, from: usize| {
        format!("    let {name} = graph.port::<Tensor>({number}, {from}, {from} + 1);\n")
    };
    source += &port("flow0".to_owned(), 0, 0);
    for stage in 0..LAYERS / STAGE {
        let stashed = layers_of(stage).filter_map(stash).map(|skip| format!("skip{skip}"));
        let popped = layers_of(stage).filter_map(pop).map(|skip| format!("skip{skip}"));
        let sent: Vec<_> = [format!("flow{}", stage + 1)].into_iter().chain(stashed).collect();
        for (place, name) in sent.iter().enumerate() {
            source += &port(name.clone(), 2 * stage + 1 + place, stage);
        }
        let ports = [format!("flow{stage}")].into_iter().chain(popped).chain(sent).collect::<Vec<_>>().join(", ");
        let owned: String = layers_of(stage).map(|layer| format!("{owner}.layer{layer}, ")).collect();
        let bound: String = layers_of(stage).map(|layer| format!("layer{layer}, ")).collect();
        let _ = writeln!(source, "    graph.stage(({owned}), ({ports}), |({bound}), ({ports}), io, cx| {{");
        let _ = writeln!(source, "        let x = io.receive(flow{stage});");
        for layer in layers_of(stage) {
            let input = match pop(layer) {
                Some(skip) => {
                    let _ = writeln!(source, "        let skip = io.receive(skip{skip});");
                    "(x, skip)"
                }
                None => "x",
            };
            let _ = writeln!(source, "        let x = pass({input}, layer{layer}, cx, \"layer{layer}\");");
            if let Some(skip) = stash(layer) {
                let _ = writeln!(source, "        io.send(skip{skip}, keep(&x));");
            }
        }
        let _ = writeln!(source, "        io.send(flow{}, x);\n    }});", stage + 1);
    }
    source
}

/// Source that takes the layers back from their stages.
fn taken() -> String {
    let bound = |stage| layers_of(stage).map(|layer| format!("layer{layer}, ")).collect::<String>();
    let take = |stage| format!("    let ({}) = layers.take();\n", bound(stage));
    let take: String = (0..LAYERS / STAGE).map(take).collect();
    format!("{take}    Self {{ {} }}\n", (0..LAYERS / STAGE).map(bound).collect::<String>())
}

fn unpipelined() -> String {
    let mut source = String::new();
    for layer in 0..LAYERS {
        let input = pop(layer).map_or_else(|| "x".to_owned(), |skip| format!("(x, skip{skip})"));
        let _ = writeln!(source, "        let x = pass({input}, &self.layer{layer}, cx, \"layer{layer}\");");
        if let Some(skip) = stash(layer) {
            let _ = writeln!(source, "        let skip{skip} = keep(&x);");
        }
    }
    source
}

fn layers_of(stage: usize) -> std::ops::Range<usize> {
    stage * STAGE..(stage + 1) * STAGE
}
