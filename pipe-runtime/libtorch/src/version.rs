//! Versions of tch and libtorch, as far as they matter.

use std::fmt;
use std::fs;
use std::path::Path;

/// The headers that say libtorch's version, in its `include` folder. Older versions have only the
/// second one.
pub const VERSION_HEADERS: [&str; 2] = ["torch/headeronly/version.h", "torch/csrc/api/include/torch/version.h"];

/// The first two numbers of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// Reads a version such as `2.11`, `2.11.0` or `2.11.0+cu130`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(['.', '+']).map(str::parse);
        Some(Self { major: numbers.next()?.ok()?, minor: numbers.next()?.ok()? })
    }

    /// Reads the version of the libtorch in `folder` from its headers.
    pub fn of_libtorch(folder: &Path) -> Option<Self> {
        VERSION_HEADERS.iter().find_map(|header| {
            let text = fs::read_to_string(folder.join("include").join(header)).ok()?;
            Some(Self { major: defined(&text, "TORCH_VERSION_MAJOR")?, minor: defined(&text, "TORCH_VERSION_MINOR")? })
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Finds the number in a line `#define NAME number`.
pub(super) fn defined(source: &str, name: &str) -> Option<u32> {
    source.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_it = words.next() == Some("#define") && words.next() == Some(name);
        if is_it { words.next()?.trim_end_matches('L').parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_up_to_the_second_number() {
        for text in ["2.11", "2.11.0", "2.11.0+cu130", "2.11+cpu"] {
            assert_eq!(Version::parse(text), Some(Version { major: 2, minor: 11 }), "{text}");
        }
        for text in ["", "2", "2.x", "libtorch"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_read_from_definitions() {
        let source =
            "/* x */\n#define TORCH_VERSION_MAJOR 2\n#define TORCH_VERSION_MINOR 13\n#define __cplusplus 201703L\n";
        assert_eq!(defined(source, "TORCH_VERSION_MINOR"), Some(13));
        assert_eq!(defined(source, "__cplusplus"), Some(201_703));
        assert_eq!(defined(source, "TORCH_VERSION"), None);
    }
}
