//! Compiles what fails against the libtorch that the runtime is linked to.

fn main() {
    let Some(flags) = pipe_libtorch::runtime_flags() else { return };
    cc::Build::new()
        .cpp(true)
        .pic(true)
        .warnings(false)
        .flags(flags)
        .file("src/failing.cpp")
        // Nothing calls this code, so the linker would drop it: it installs itself at start-up.
        .link_lib_modifier("+whole-archive")
        .compile("pipe_failing_libtorch");
    println!("cargo::rerun-if-changed=src/failing.cpp");
    pipe_libtorch::link();
}
