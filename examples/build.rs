//! Lets the examples find libtorch without any environment variable.

fn main() {
    if let Some(lib) = std::env::var_os("DEP_PIPE_RUNTIME_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.to_string_lossy());
    }
}
