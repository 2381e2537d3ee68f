//! Starts cargo as the user would.
//!
//! `cargo run` sets variables for this process. If they were passed on, `cargo xtask test` would
//! differ from `cargo test`, and rebuild what depends on them.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use crate::tools::checkout::Checkout;

pub const CANNOT_START: &str = "cannot start cargo: check that it is on the PATH";

pub fn command(checkout: &Checkout) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(&program);
    cargo.current_dir(&checkout.root);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_set_by_cargo_run) {
            cargo.env_remove(name);
        }
    }
    // The settings of `.cargo/config.toml`, of this checkout or of the one where this program was
    // called.
    let configured = [checkout.linked_libtorch(), Checkout::find().linked_libtorch()];
    if env::var_os("LIBTORCH").is_some_and(|value| configured.contains(&value.into())) {
        cargo.env_remove("LIBTORCH");
    }
    for name in ["LD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH"] {
        if let Some(value) = env::var_os(name) {
            match without(&value, &cargos_folders(Path::new(&program))) {
                Some(rest) => cargo.env(name, rest),
                None => cargo.env_remove(name),
            };
        }
    }
    cargo
}

fn is_set_by_cargo_run(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || matches!(name, "CARGO" | "CARGO_MANIFEST_DIR" | "CARGO_MANIFEST_PATH")
}

/// The folder where this program was built, and the libraries of the toolchain, which has
/// `bin/cargo`.
fn cargos_folders(cargo: &Path) -> Vec<PathBuf> {
    let built = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_path_buf()));
    let toolchain = cargo.parent().and_then(Path::parent).filter(|folder| folder.is_absolute());
    built.into_iter().chain(toolchain.map(|folder| folder.join("lib"))).collect()
}

/// A search path without the entries in `folders`; `None` if nothing remains.
fn without(search_path: &OsString, folders: &[PathBuf]) -> Option<OsString> {
    let is_users = |path: &PathBuf| !folders.iter().any(|folder| path.starts_with(folder));
    let rest = env::join_paths(env::split_paths(search_path).filter(is_users)).ok()?;
    (!rest.is_empty()).then_some(rest)
}

/// The exit code to pass on; 1 if a signal ended the command.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_users_search_path_is_passed_on() {
        let folders = ["/code/target/debug".into(), "/rust/lib".into()];
        let path = |path: &str| without(&path.into(), &folders);
        assert_eq!(path("/code/target/debug/deps:/rust/lib/rustlib:/rust/own"), Some("/rust/own".into()));
        assert_eq!(path("/code/target/debug:/rust/lib"), None);
    }

    #[test]
    fn the_users_own_settings_of_cargo_are_kept() {
        for name in ["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_TERM_COLOR", "CARGO_BUILD_JOBS"] {
            assert!(!is_set_by_cargo_run(name), "{name}");
        }
        assert!(is_set_by_cargo_run("CARGO_PKG_NAME"));
    }
}
