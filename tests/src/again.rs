//! Tests that run again in a process of their own.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The variable that says to such a process which folder is its own.
pub const FOLDER: &str = "PIPE_TEST_FOLDER";

/// The folder of this process, if it is one of a test that runs again.
pub fn folder() -> Option<OsString> {
    std::env::var_os(FOLDER)
}

/// Runs the test `name` of this binary again, by `command`, which starts the binary.
///
/// # Panics
///
/// Panics if the process cannot be started.
pub fn again(mut command: Command, name: &str, folder: &Path) -> Child {
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(FOLDER, folder);
    // To find the names for a backtrace takes more memory than a process may have here.
    command.env("RUST_BACKTRACE", "0");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the process can be started")
}
