//! Checks that a libtorch goes with a tch.

use std::env;
use std::path::Path;

use super::{Lock, PAIRS, Pair, Version};

/// The variable with which torch-sys, and this library too, accepts any libtorch.
pub const BYPASS: &str = "LIBTORCH_BYPASS_VERSION_CHECK";

/// Checks that `folder` holds the libtorch that the lock file's tch is made for. Without a lock
/// file, it must hold one that some tch is made for. With [`BYPASS`] set, any libtorch passes.
///
/// # Errors
///
/// Returns a message if it does not, with both versions and the command that installs the right
/// one.
pub fn check(folder: &Path, lock: Option<&Lock>) -> Result<(), String> {
    judge(folder, lock, env::var_os(BYPASS).is_some())
}

fn judge(folder: &Path, lock: Option<&Lock>, any: bool) -> Result<(), String> {
    let shown = folder.display();
    let pair = lock.and_then(|lock| Pair::of_tch(&lock.tch));
    let Some(found) = Version::of_libtorch(folder) else {
        return Err(format!("there is no libtorch at `{shown}`: {}", way_out(pair, lock)));
    };
    match pair {
        _ if any => Ok(()),
        Some(pair) if found == pair.libtorch_version() => Ok(()),
        Some(pair) => Err(format!(
            "`{shown}` holds libtorch {found}, but tch {} is made for libtorch {}: {}",
            lock.map_or(pair.tch, |lock| &lock.tch),
            pair.libtorch_version(),
            way_out(Some(pair), lock)
        )),
        None if PAIRS.iter().any(|pair| found == pair.libtorch_version()) => Ok(()),
        None => Err(format!(
            "`{shown}` holds libtorch {found}, but {}: {}",
            PAIRS.map(|pair| format!("tch {} is made for libtorch {}", pair.tch, pair.libtorch_version())).join(", "),
            way_out(None, lock)
        )),
    }
}

fn way_out(pair: Option<Pair>, lock: Option<&Lock>) -> String {
    let own = match pair {
        Some(pair) => format!("set LIBTORCH to a libtorch {}", pair.libtorch_version()),
        None => "set LIBTORCH to the one for your tch".to_owned(),
    };
    // A published crate has no checkout around it.
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize();
    match checkout.ok().filter(|checkout| checkout.join("xtask").is_dir()) {
        None => own,
        Some(checkout) => {
            let users = lock.map(Lock::folder).filter(|folder| **folder != checkout);
            let user = users.map_or(String::new(), |folder| format!(" --for {}", folder.display()));
            format!("run `cargo xtask libtorch{user}` in {}, or {own}", checkout.display())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// Makes a folder with the header that says the version.
    fn libtorch(test: &str, major: u32, minor: u32) -> PathBuf {
        let folder = env::temp_dir().join(format!("pipe-libtorch-{}-{test}", std::process::id()));
        let header = folder.join("include").join(super::super::VERSION_HEADERS[0]);
        fs::create_dir_all(header.parent().unwrap()).unwrap();
        let text = format!("#define TORCH_VERSION_MAJOR {major}\n#define TORCH_VERSION_MINOR {minor}\n");
        fs::write(header, text).unwrap();
        folder
    }

    fn lock(tch: &str) -> Lock {
        Lock { path: "/my-model/Cargo.lock".into(), tch: tch.to_owned() }
    }

    #[test]
    fn each_tch_takes_its_own_libtorch_and_no_other() {
        for (test, pair) in PAIRS.iter().enumerate() {
            let version = pair.libtorch_version();
            let folder = libtorch(&format!("own-{test}"), version.major, version.minor);
            assert_eq!(judge(&folder, None, false), Ok(()));
            for other in PAIRS {
                assert_eq!(
                    judge(&folder, Some(&lock(other.tch)), false).is_ok(),
                    other == *pair,
                    "{other:?} on {version}"
                );
            }
            fs::remove_dir_all(folder).unwrap();
        }
    }

    #[test]
    fn a_refusal_names_both_versions_and_the_command() {
        let folder = libtorch("refused", 2, 13);
        let fault = judge(&folder, Some(&lock("0.24.0")), false).unwrap_err();
        let start = format!(
            "`{}` holds libtorch 2.13, but tch 0.24.0 is made for libtorch 2.11: run `cargo xtask libtorch --for /my-model` in /",
            folder.display()
        );
        assert!(fault.starts_with(&start), "{fault}");
        assert!(fault.ends_with(", or set LIBTORCH to a libtorch 2.11"), "{fault}");
        assert_eq!(judge(&folder, Some(&lock("0.24.0")), true), Ok(()), "where the user says so");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_no_tch_is_made_for_is_refused_without_a_lock_file() {
        let folder = libtorch("old", 2, 9);
        let fault = judge(&folder, None, false).unwrap_err();
        assert!(fault.contains("holds libtorch 2.9, but tch 0.24.0 is made for libtorch 2.11, tch"), "{fault}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_without_libtorch_is_named() {
        let fault = judge(Path::new("/nowhere"), Some(&lock("0.26.0")), false).unwrap_err();
        assert!(fault.starts_with("there is no libtorch at `/nowhere`: run `cargo xtask libtorch --for"), "{fault}");
    }
}
