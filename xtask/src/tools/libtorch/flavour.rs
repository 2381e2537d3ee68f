//! The two sets of libraries that can be installed.

use std::fmt;
use std::path::Path;

use super::Wheel;

/// PyPI's wheels for Linux are CUDA builds. `libtorch_cpu` itself links to CUDA's run time and
/// CUPTI, which therefore come with both flavours; the other libraries, three quarters of the
/// whole, are opened only when a CUDA device is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    Cpu,
    Cuda,
}

impl Flavour {
    /// The requirements for pip.
    pub fn requirements(self, wheel: &Wheel) -> Vec<String> {
        let mut requirements = vec![format!("torch=={}", wheel.version)];
        if self == Self::Cpu && cfg!(target_os = "linux") {
            requirements.push(format!("nvidia-cuda-runtime=={}", wheel.cuda_runtime));
            requirements.push(format!("nvidia-cuda-cupti=={}", wheel.cuda_cupti));
        }
        requirements
    }

    pub fn with_dependencies(self) -> bool {
        self == Self::Cuda
    }

    /// The disk space for installing, when wheels and their contents exist side by side, in KiB.
    pub fn space_needed(self) -> u64 {
        match self {
            Self::Cpu => 2_500_000,
            Self::Cuda => 8_000_000,
        }
    }

    /// Libraries that must be beside the `torch` folder, as starts of paths, because their versions
    /// vary.
    pub fn companions(self) -> &'static [&'static str] {
        match self {
            _ if !cfg!(target_os = "linux") => &[],
            Self::Cpu => &["nvidia/cu13/lib/libcudart.so", "nvidia/cu13/lib/libcupti.so"],
            Self::Cuda => &[
                "nvidia/cu13/lib/libcudart.so",
                "nvidia/cu13/lib/libcupti.so",
                "nvidia/cu13/lib/libcublas.so",
                "nvidia/cudnn/lib/libcudnn.so",
                "nvidia/nccl/lib/libnccl.so",
            ],
        }
    }

    /// Whether the linked folder is sufficient. On a CPU, any folder is: one that the user linked
    /// need not come from a wheel.
    pub fn is_linked_at(self, link: &Path) -> bool {
        self == Self::Cpu || super::found::check_companions(link, self).is_ok()
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}
