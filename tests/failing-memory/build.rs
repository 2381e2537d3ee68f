//! Compiles the allocator against the libtorch that the runtime is linked to.

use std::path::PathBuf;

fn main() {
    let Some(lib) = std::env::var_os("DEP_PIPE_RUNTIME_LIBTORCH_LIB").map(PathBuf::from) else { return };
    let flags = match pipe_libtorch::flags(lib.parent().unwrap_or(&lib)) {
        Ok(flags) => flags,
        Err(fault) => return println!("cargo::error={fault}"),
    };
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .flags(flags)
        .file("src/memory.cpp")
        // Nothing calls the allocator, so the linker would drop it: it installs itself at start-up.
        .link_lib_modifier("+whole-archive")
        .compile("pipe_failing_memory");
    println!("cargo::rerun-if-changed=src/memory.cpp");
    pipe_libtorch::link();
}
