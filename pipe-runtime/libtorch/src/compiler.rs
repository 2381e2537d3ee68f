//! Checks that there is a C++ compiler that is new enough, by what libtorch's headers say.

use std::env;
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Version, version};

/// A C++ standard, as `__cplusplus` gives it: 201703 for C++17.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standard(u32);

impl Standard {
    /// Returns the two digits by which the standard is known: 17 for C++17.
    pub fn year(self) -> u32 {
        self.0 / 100 % 100
    }
}

/// What a libtorch needs of a compiler. Two of its headers say so: `ATen/ATen.h` names the
/// standard, and `c10/util/C++17.h`, which libtorch 2.11 has, the oldest GCC and Clang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    pub standard: Standard,
    gcc: Option<u32>,
    clang: Option<u32>,
}

impl Needs {
    /// Reads what the libtorch in `folder` needs.
    ///
    /// # Errors
    ///
    /// Returns a message if `ATen/ATen.h` cannot be read, or does not say which C++ it needs.
    pub fn of(folder: &Path) -> Result<Self, String> {
        let aten = folder.join("include/ATen/ATen.h");
        let text = fs::read_to_string(&aten).map_err(|error| format!("cannot read {}: {error}", aten.display()))?;
        let standard = compared(&text, "__cplusplus")
            .ok_or_else(|| format!("{} does not say which C++ it needs", aten.display()))?;
        let older = fs::read_to_string(folder.join("include/c10/util/C++17.h")).unwrap_or_default();
        Ok(Self {
            standard: Standard(standard),
            gcc: compared(&older, "__GNUC__"),
            clang: compared(&older, "__clang_major__"),
        })
    }
}

/// Finds the number below which a header refuses the value of a macro: `NAME < number`.
fn compared(header: &str, name: &str) -> Option<u32> {
    let words: Vec<_> = header.split_whitespace().collect();
    let number = words.windows(3).find_map(|three| (three[..2] == [name, "<"]).then_some(three[2]))?;
    number.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

/// The compiler that builds will use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    /// The command, with what wraps the compiler: `ccache g++`.
    words: Vec<String>,
    /// Whether it was chosen by the variable CXX.
    is_chosen: bool,
}

impl Compiler {
    /// Finds the compiler, and checks that it runs.
    ///
    /// # Errors
    ///
    /// Returns a message if there is none, or if what CXX names does not run.
    pub fn find() -> Result<Self, String> {
        let chosen = env::var("CXX").ok().filter(|chosen| !chosen.trim().is_empty());
        let words = chosen.as_deref().unwrap_or("c++").split_whitespace().map(str::to_owned).collect();
        let compiler = Self { words, is_chosen: chosen.is_some() };
        let version = compiler.command().arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if version.is_ok_and(|status| status.success()) {
            return Ok(compiler);
        }
        Err(match chosen {
            Some(chosen) => {
                format!("CXX, set to `{chosen}`, does not run: set it to a C++ compiler, or unset it")
            }
            None => "there is no C++ compiler: install one (Debian: `apt install g++`; macOS: \
                     `xcode-select --install`), or set CXX to yours"
                .to_owned(),
        })
    }

    /// Returns a command that starts the compiler.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).stdin(Stdio::null());
        command
    }

    /// Returns the macros that the compiler defines for this standard, or nothing if it does not
    /// know the standard.
    fn macros(&self, standard: Standard) -> String {
        let flag = format!("-std=c++{}", standard.year());
        let output = self.command().args([&flag, "-x", "c++", "-dM", "-E", "/dev/null"]).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }

    /// Checks that the compiler can compile against the libtorch in `folder`.
    ///
    /// # Errors
    ///
    /// Returns a message if the compiler is too old, which says what is needed, and which header
    /// says so. Also fails if that header cannot be read, as [`Needs::of`] does.
    pub fn check(&self, folder: &Path) -> Result<(), String> {
        let needs = Needs::of(folder)?;
        let libtorch = Version::of_libtorch(folder).map_or("libtorch".to_owned(), |found| format!("libtorch {found}"));
        let macros = self.macros(needs.standard);
        let defined = |name| version::defined(&macros, name);
        let (kind, major, least) = match (defined("__clang_major__"), defined("__GNUC__")) {
            (Some(clang), _) => ("Clang", Some(clang), needs.clang),
            (None, gcc) => ("GCC", gcc, needs.gcc),
        };
        let name =
            if self.is_chosen { format!("CXX, set to `{self}`,") } else { format!("the C++ compiler, `{self}`,") };
        let way_out = if self.is_chosen { "set it to a newer one" } else { "install a newer one, or set CXX to one" };
        if let (Some(least), Some(major)) = (least, major)
            && major < least
        {
            return Err(format!(
                "{name} is {kind} {major}, but {libtorch} needs {kind} {least} or later, as its header \
                 c10/util/C++17.h says: {way_out}"
            ));
        }
        if defined("__cplusplus").is_none_or(|known| Standard(known) < needs.standard) {
            return Err(format!(
                "{name} is too old for C++{}, which {libtorch} needs, as its header ATen/ATen.h says: {way_out}",
                needs.standard.year()
            ));
        }
        Ok(())
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

/// Checks that there is a compiler, and that it can compile against the libtorch in `folder`.
///
/// # Errors
///
/// Fails as [`Compiler::find`] and [`Compiler::check`] do.
pub fn check(folder: &Path) -> Result<(), String> {
    Compiler::find()?.check(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// A folder with headers that ask for `standard`, and for GCC 9 and Clang 9 if `oldest` is set,
    /// and with a compiler that defines `macros`, one per line.
    struct Machine(PathBuf);

    impl Machine {
        fn new(test: &str, standard: u32, oldest: bool, macros: &str) -> Self {
            let folder = env::temp_dir().join(format!("pipe-compiler-{}-{test}", std::process::id()));
            let write = |path: &str, text: String| {
                fs::create_dir_all(folder.join(path).parent().unwrap()).unwrap();
                fs::write(folder.join(path), text).unwrap();
            };
            let version = "#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 15\n";
            write("include/torch/headeronly/version.h", version.to_owned());
            write(
                "include/ATen/ATen.h",
                format!(
                    "// MSVC keeps __cplusplus at 199711L\n#if !defined(_MSC_VER) && __cplusplus < {standard}L\n#error x\n#endif\n"
                ),
            );
            if oldest {
                let text = "#if defined(__GNUC__) && \\\n    __GNUC__ < 9\n#endif\n#if __clang_major__ < 9\n#endif\n";
                write("include/c10/util/C++17.h", text.to_owned());
            }
            write("c++", format!("#!/bin/sh\nprintf '{macros}'\n"));
            fs::set_permissions(folder.join("c++"), fs::Permissions::from_mode(0o755)).unwrap();
            Self(folder)
        }

        fn check(&self) -> Result<(), String> {
            let compiler = self.0.join("c++").display().to_string();
            // Runs the compiler through the shell: a file that another thread's child still holds
            // open for writing cannot be executed itself.
            let words = vec!["/bin/sh".to_owned(), compiler];
            Compiler { words, is_chosen: false }.check(&self.0)
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_compiler_that_knows_the_standard_will_do() {
        let macros = "#define __GNUC__ 12\\n#define __cplusplus 202002L\\n";
        assert_eq!(Machine::new("knows", 202_002, false, macros).check(), Ok(()));
        assert_eq!(Machine::new("knows-older", 201_703, true, macros).check(), Ok(()));
    }

    #[test]
    fn one_that_does_not_is_refused_with_the_header_that_asks() {
        for (test, macros) in [("partly", "#define __GNUC__ 10\\n#define __cplusplus 201709L\\n"), ("never-heard", "")]
        {
            let fault = Machine::new(test, 202_002, false, macros).check().unwrap_err();
            assert!(
                fault.contains("is too old for C++20, which libtorch 2.15 needs, as its header ATen/ATen.h says"),
                "{fault}"
            );
        }
    }

    #[test]
    fn the_oldest_gcc_and_clang_are_those_of_the_header() {
        let gcc = "#define __GNUC__ 8\\n#define __cplusplus 201703L\\n";
        let fault = Machine::new("gcc-8", 201_703, true, gcc).check().unwrap_err();
        assert!(
            fault.contains("is GCC 8, but libtorch 2.15 needs GCC 9 or later, as its header c10/util/C++17.h says"),
            "{fault}"
        );
        assert_eq!(Machine::new("gcc-8-unasked", 201_703, false, gcc).check(), Ok(()));

        // Clang also claims to be an old GCC.
        let clang = "#define __GNUC__ 4\\n#define __clang_major__ 9\\n#define __cplusplus 201703L\\n";
        assert_eq!(Machine::new("clang-9", 201_703, true, clang).check(), Ok(()));
    }

    #[test]
    fn headers_that_say_nothing_are_an_error() {
        let machine = Machine::new("silent", 201_703, false, "");
        fs::write(machine.0.join("include/ATen/ATen.h"), "#pragma once\n").unwrap();
        assert!(machine.check().unwrap_err().ends_with("ATen.h does not say which C++ it needs"));
    }
}
