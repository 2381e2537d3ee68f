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
    /// What to ask pip for.
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

    /// Disk space while installing, when the wheels and what is in them lie side by side, in KiB.
    pub fn space_needed(self) -> u64 {
        match self {
            Self::Cpu => 2_500_000,
            Self::Cuda => 8_000_000,
        }
    }

    /// Libraries that must lie beside the `torch` folder, as starts of paths: their versions vary.
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

    /// Whether what is linked there will do. Anything does on a CPU: a folder that the user linked
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
