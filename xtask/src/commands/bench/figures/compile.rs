//! The time of `cargo build` after a change to a model of 12 layers: annotated, and the same in
//! plain tch.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail};
use pipe_libtorch::Lock;

use crate::commands::bench::Bench;
use crate::commands::bench::spread::{Spread, digits};
use crate::commands::bench::table::{Bar, Row, Table};
use crate::tools::cargo;
use crate::tools::checkout::Checkout;

const BAR: Bar = Bar::AtMost(1.2);
const LAYERS: usize = 12;
const STAGES: usize = 4;

/// The names of the crates, each like a user's crate with one binary.
const PIPELINED: &str = "pipelined";
const PLAIN: &str = "plain";

pub fn measure(bench: &Bench<'_>) -> anyhow::Result<Table> {
    let folder = bench.checkout.bench().join("compile");
    write_workspace(bench.checkout, &folder)?;
    let mut times = Vec::new();
    // The first round builds the dependencies of the crates.
    for round in 0..=bench.turns {
        let pair = [(PIPELINED, pipelined(round)), (PLAIN, plain(round))];
        for (name, source) in &pair {
            write(&folder.join(name).join("src/main.rs"), source)?;
        }
        let mut seconds = [0.; 2];
        for (place, (name, _)) in pair.iter().enumerate() {
            seconds[place] = build(bench.checkout, &folder, name)?;
        }
        if round > 0 {
            times.push(seconds);
        }
    }
    let text = |place: usize| format!("{} s", digits(Spread::of(times.iter().map(|times| times[place])).median));
    let row = Row {
        case: format!("{LAYERS} layers, `cargo build` after a change"),
        ours: text(0),
        theirs: text(1),
        figure: Spread::of(times.iter().map(|[ours, theirs]| ours / theirs)),
        bar: Some(BAR),
    };
    Ok(Table { ours: "ours", theirs: "plain tch", figure: "ours / theirs", rows: vec![row] })
}

/// Builds a crate. Returns the time in seconds.
fn build(checkout: &Checkout, folder: &Path, name: &str) -> anyhow::Result<f64> {
    let mut cargo = cargo::command(checkout);
    cargo.current_dir(folder).args(["build", "--quiet", "--package", name]);
    let start = Instant::now();
    let output = cargo.output().context(cargo::CANNOT_START)?;
    let seconds = start.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!(
            "the crate `{name}` in {} cannot be built:\n{}",
            folder.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(seconds)
}

/// Writes a workspace with the versions, settings and built dependencies of this one.
fn write_workspace(checkout: &Checkout, folder: &Path) -> anyhow::Result<()> {
    write(
        &folder.join("Cargo.toml"),
        &format!(
            "[workspace]\nresolver = \"3\"\nmembers = [\"{PIPELINED}\", \"{PLAIN}\"]\n\n\
             # As cargo builds what comes from a registry.\n\
             [profile.dev.package.\"*\"]\ncodegen-units = 16\nincremental = false\n"
        ),
    )?;
    let root = &checkout.root;
    let copy = |file: &str| {
        fs::copy(root.join(file), folder.join(file))
            .with_context(|| format!("cannot copy {file} into {}", folder.display()))
    };
    copy("Cargo.lock")?;
    copy("rust-toolchain.toml")?;
    let tch = Lock::in_folder(root).context("there is no Cargo.lock with tch")?.tch;
    let runtime = format!("pipe-runtime = {{ path = {:?} }}\n", root.join("pipe-runtime"));
    for (name, dependency) in [(PIPELINED, runtime), (PLAIN, format!("torch-sys = \"{tch}\"\n"))] {
        let manifest = format!(
            "[package]\nname = \"{name}\"\nedition = \"2024\"\n\n[dependencies]\ntch = \"{tch}\"\n{dependency}"
        );
        write(&folder.join(name).join("Cargo.toml"), &manifest)?;
        let variable = if name == PIPELINED { "DEP_PIPE_RUNTIME_LIBTORCH_LIB" } else { "DEP_TCH_LIBTORCH_LIB" };
        let script = format!(
            "fn main() {{ println!(\"cargo::rustc-link-arg=-Wl,-rpath,{{}}\", std::env::var(\"{variable}\").unwrap()); }}\n"
        );
        write(&folder.join(name).join("build.rs"), &script)?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", file.display());
    fs::create_dir_all(file.parent().unwrap_or(file)).with_context(cannot)?;
    fs::write(file, text).with_context(cannot)
}

/// The training code of both, changed in each round.
fn training(round: usize, step: &str) -> String {
    format!(
        "    let x = Tensor::randn([64, 32], (Kind::Float, Device::Cpu));
    for _ in 0..{round} {{
        {step}
        optimizer.backward_step(&output.square().mean(Kind::Float));
    }}
"
    )
}

fn fields(attribute: impl Fn(usize) -> &'static str) -> String {
    let mut fields = String::new();
    for layer in 0..LAYERS {
        let _ = writeln!(fields, "{}    layer{layer}: nn::Linear,", attribute(layer));
    }
    fields
}

fn made(path: impl Fn(usize) -> String) -> String {
    let layer = |layer| format!("        layer{layer}: nn::linear({}, 32, 32, Default::default()),\n", path(layer));
    (0..LAYERS).map(layer).collect()
}

fn pipelined(round: usize) -> String {
    let device = |layer: usize| if layer.is_multiple_of(LAYERS / STAGES) { "    #[device(\"cpu\")]\n" } else { "" };
    let (fields, made) = (fields(device), made(|layer| format!("vars.layer{layer}()")));
    let training = training(round, "let output = pipe.forward(&x)?;");
    format!(
        "use pipe_runtime::{{Devices, pipeline}};
use tch::nn::{{self, OptimizerConfig}};
use tch::{{Device, Kind, Tensor}};

#[pipeline(chunks = 4)]
struct Model {{
{fields}}}

fn main() -> Result<(), Box<dyn std::error::Error>> {{
    let vars = Model::vars(&Devices::cpu(Model::STAGES))?;
    let model = Model {{
{made}    }};
    let mut optimizer = nn::Adam::default().build(vars.var_store(), 1e-3)?;
    let mut pipe = model.pipe(&vars).build()?;
{training}    Ok(())
}}
"
    )
}

fn plain(round: usize) -> String {
    let (fields, made) = (fields(|_| ""), made(|layer| format!("vars.root() / \"layer{layer}\"")));
    let forward: String = (0..LAYERS).map(|layer| format!("        let x = x.apply(&self.layer{layer});\n")).collect();
    let training = training(round, "let output = model.forward(&x);");
    format!(
        "use tch::nn::{{self, Module, OptimizerConfig}};
use tch::{{Device, Kind, Tensor}};

#[derive(Debug)]
struct Model {{
{fields}}}

impl Module for Model {{
    fn forward(&self, x: &Tensor) -> Tensor {{
{forward}        x
    }}
}}

fn main() -> Result<(), Box<dyn std::error::Error>> {{
    let vars = nn::VarStore::new(Device::Cpu);
    let model = Model {{
{made}    }};
    let mut optimizer = nn::Adam::default().build(&vars, 1e-3)?;
{training}    Ok(())
}}
"
    )
}
