//! Compiles the mock against the libtorch that the runtime is linked to.

use std::path::PathBuf;

fn main() {
    let Some(flags) = pipe_libtorch::runtime_flags() else { return };
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .opt_level(1)
        .debug(false)
        .flags(flags)
        .file("src/mock.cpp")
        // Nothing calls the mock, so the linker would drop it: it registers itself at start-up.
        .link_lib_modifier("+whole-archive")
        .compile("pipe_mock_device");
    println!("cargo::rerun-if-changed=src/mock.cpp");
    fake_nccl();
    pipe_libtorch::link();
}

/// Builds the fake of NCCL, a library that is opened at run time.
fn fake_nccl() {
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    let library = out.join("libfake_nccl.so");
    let mut compiler = cc::Build::new().cpp(true).std("c++17").pic(true).opt_level(1).get_compiler().to_command();
    let built = compiler.args(["-shared", "-Wall", "-o"]).arg(&library).arg("src/nccl.cpp").status();
    if !built.is_ok_and(|status| status.success()) {
        println!("cargo::error=the fake of NCCL cannot be built");
    }
    println!("cargo::rerun-if-changed=src/nccl.cpp");
    println!("cargo::rustc-env=FAKE_NCCL={}", library.display());
}
