//! Compiles the mock against the libtorch that the runtime is linked to.

use std::path::PathBuf;

fn main() {
    let Some(lib) = std::env::var_os("DEP_PIPE_RUNTIME_LIBTORCH_LIB").map(PathBuf::from) else { return };
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        // As libtorch is built.
        .define("NDEBUG", None)
        .warnings(false)
        .opt_level(1)
        .debug(false)
        .flag(format!("-isystem{}", lib.with_file_name("include").display()))
        .file("src/mock.cpp")
        // Nothing calls it: it is there and writes.
        .link_lib_modifier("+whole-archive")
        .compile("pipe_mock_device");
    println!("cargo::rerun-if-changed=src/mock.cpp");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
