//! Compiles the allocator against the libtorch that the runtime is linked to.

fn main() {
    let Some(flags) = pipe_libtorch::runtime_flags() else { return };
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
