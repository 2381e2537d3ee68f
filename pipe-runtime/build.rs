//! Compiles the C++ shim against the libtorch that `torch-sys` found, and hands its folder on to dependents
//! as `DEP_PIPE_RUNTIME_LIBTORCH_LIB`.

use std::path::PathBuf;

fn main() {
    let Some(lib) = std::env::var_os("DEP_TCH_LIBTORCH_LIB").map(PathBuf::from) else {
        println!(
            "cargo::error=torch-sys did not say where libtorch is: run `cargo xtask libtorch`, or set LIBTORCH to a libtorch 2.11 folder"
        );
        return;
    };
    let include = lib.with_file_name("include");
    let mimalloc = std::env::var("DEP_MIMALLOC_INCLUDE_DIR").expect("libmimalloc-sys says where its header is");
    let shim = PathBuf::from("src/torch/shim");
    let sources = [
        "counter",
        "cuda",
        "error",
        "fusion",
        "graph",
        "layer_key",
        "malloc",
        "memory",
        "modes",
        "node",
        "profile",
        "random",
        "split",
        "state",
        "stream",
        "transfer",
        "walk",
    ];

    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .flag("-D_GLIBCXX_USE_CXX11_ABI=1")
        // As libtorch is built: without it, some of its classes have more members.
        .define("NDEBUG", None)
        .flag_if_supported("-fno-plt")
        .warnings(false)
        .opt_level(2)
        .debug(false)
        .flag(format!("-isystem{}", include.display()))
        .flag(format!("-isystem{}", include.join("torch/csrc/api/include").display()))
        .flag(format!("-isystem{mimalloc}"))
        .files(sources.iter().map(|name| shim.join(format!("{name}.cpp"))))
        .compile("pipe_torch");

    println!("cargo::rerun-if-changed={}", shim.display());
    println!("cargo::metadata=LIBTORCH_LIB={}", lib.display());
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", lib.display());
}
