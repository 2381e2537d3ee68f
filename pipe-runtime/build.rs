//! Compiles the C++ shim against the libtorch that `torch-sys` found, and passes the folder of that
//! libtorch on to dependents as `DEP_PIPE_RUNTIME_LIBTORCH_LIB`.

use std::env;
use std::path::PathBuf;

use pipe_libtorch::{Lock, compiler, fit};

const SHIM: &str = "src/torch/shim";

fn main() {
    if let Err(fault) = build() {
        println!("cargo::error={fault}");
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-changed={SHIM}");
    if env::var_os("CARGO_FEATURE_DOC_ONLY").is_some() {
        // Empty, so that a dependent's build script links to no libtorch either.
        println!("cargo::metadata=LIBTORCH_LIB=");
        return Ok(());
    }
    let lib = env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from);
    let lib = lib.ok_or("torch-sys did not say where libtorch is: run `cargo xtask libtorch`, or set LIBTORCH")?;
    let folder = lib.parent().unwrap_or(&lib);
    // Checked once more, after pipe-libtorch: torch-sys may have asked Python for a libtorch, or
    // downloaded one.
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fit::check(folder, Lock::above(&out).as_ref())?;
    compiler::check(folder)?;

    let mimalloc =
        env::var("DEP_MIMALLOC_INCLUDE_DIR").map_err(|_| "libmimalloc-sys did not say where its header is")?;
    let mut build = cc::Build::new();
    build.cpp(true).pic(true).opt_level(2).debug(false).flag_if_supported("-fno-plt");
    build.warnings(true).extra_warnings(true);
    build.flags(pipe_libtorch::flags(folder)?);
    build.flag(format!("-isystem{mimalloc}")).file(format!("{SHIM}/shim.cpp")).compile("pipe_torch");

    // A test reads the headers of that libtorch.
    println!("cargo::rustc-env=PIPE_LIBTORCH={}", folder.display());
    println!("cargo::metadata=LIBTORCH_LIB={}", lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
    Ok(())
}
