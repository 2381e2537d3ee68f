//! Is there a C++ compiler? Without one the build would fail late, in another crate's build script.

use std::env;
use std::process::{Command, Stdio};

use anyhow::bail;

pub fn check() -> anyhow::Result<()> {
    let chosen = env::var("CXX").ok().filter(|chosen| !chosen.trim().is_empty());
    let compiler = chosen.as_deref().unwrap_or("c++");
    // CXX may name a wrapper as well: `ccache g++`.
    let mut words = compiler.split_whitespace();
    let works = words.next().is_some_and(|program| {
        let version = Command::new(program)
            .args(words)
            .arg("--version")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        version.is_ok_and(|status| status.success())
    });
    match chosen {
        _ if works => Ok(()),
        Some(chosen) => {
            bail!("CXX, set to `{chosen}`, does not run: set it to a C++ compiler, or unset it")
        }
        None => bail!(
            "there is no C++ compiler: install one (Debian: `apt install g++`; macOS: \
             `xcode-select --install`), or set CXX to yours"
        ),
    }
}
