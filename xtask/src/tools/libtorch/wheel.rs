//! The versions of libtorch in PyPI's wheels.

use pipe_libtorch::Version;

/// One version of PyPI's `torch`, with the libraries that its CPU part links to on Linux. The wheel
/// itself requires a `cuda-toolkit`, which requires these versions.
#[derive(Debug, PartialEq, Eq)]
pub struct Wheel {
    pub version: &'static str,
    pub cuda_runtime: &'static str,
    pub cuda_cupti: &'static str,
}

/// The versions against which the shim compiles.
pub static WHEELS: [Wheel; 5] = [
    Wheel { version: "2.11.0", cuda_runtime: "13.0.96", cuda_cupti: "13.0.85" },
    Wheel { version: "2.12.1", cuda_runtime: "13.0.96", cuda_cupti: "13.0.85" },
    Wheel { version: "2.13.0", cuda_runtime: "13.0.96", cuda_cupti: "13.0.85" },
    Wheel { version: "2.14.1", cuda_runtime: "13.0.96", cuda_cupti: "13.0.85" },
    Wheel { version: "2.15.0", cuda_runtime: "13.2.86", cuda_cupti: "13.2.86" },
];

impl Wheel {
    /// The wheel of this version, where only the first two numbers count.
    pub fn of(version: &str) -> Option<&'static Self> {
        let wanted = Version::parse(version)?;
        WHEELS.iter().find(|wheel| wheel.minor() == wanted)
    }

    /// Its version without the last number.
    pub fn minor(&self) -> Version {
        Version::parse(self.version).expect("a version")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_its_wheel() {
        for pair in pipe_libtorch::PAIRS {
            assert_eq!(Wheel::of(pair.libtorch).map(|wheel| wheel.version), Some(pair.libtorch));
        }
        assert_eq!(Wheel::of("2.9"), None);
    }
}
