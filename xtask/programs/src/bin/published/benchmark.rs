//! What torchgpipe has published: docs/benchmarks.rst and benchmarks/*-speed of its repository, at
//! commit fe52c4d (torchgpipe 0.0.5, PyTorch 1.3.0, up to 8 Tesla P40).

use pipe_runtime::Checkpoint;
use pipe_runtime::Checkpoint::{Always, ExceptLast};

/// A benchmark of speed. Its images are square.
#[derive(Debug)]
pub struct Benchmark {
    pub name: &'static str,
    /// Pixels on a side.
    pub pixels: i64,
    /// Beside what speed-ups are.
    pub baseline: Baseline,
    /// Images per second of the baseline.
    pub baseline_throughput: f64,
    pub settings: &'static [Setting],
}

/// Beside what speed-ups are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// The model on one device, without a pipeline and without checkpointing.
    Unpipelined,
    /// The first setting.
    First,
}

/// A run of a benchmark.
#[derive(Debug)]
pub struct Setting {
    /// Images of a mini-batch.
    pub batch: usize,
    pub chunks: usize,
    pub checkpoint: Checkpoint,
    /// The number of modules on each device.
    pub balance: &'static [usize],
    /// Images per second.
    pub throughput: f64,
    /// The speed-up that Huang et al. have measured for GPipe, on other devices.
    pub gpipe: Option<f64>,
}

const fn setting(
    [batch, chunks]: [usize; 2],
    checkpoint: Checkpoint,
    balance: &'static [usize],
    throughput: f64,
    gpipe: Option<f64>,
) -> Setting {
    Setting { batch, chunks, checkpoint, balance, throughput, gpipe }
}

pub static AMOEBANET: Benchmark = Benchmark {
    name: "AmoebaNet-D (18, 256)",
    pixels: 224,
    baseline: Baseline::First,
    baseline_throughput: 26.733,
    settings: &[
        setting([96, 1], Always, &[7, 17], 26.733, Some(1.)),
        setting([256, 4], ExceptLast, &[9, 15], 41.133, Some(1.07)),
        setting([1280, 32], ExceptLast, &[9, 15], 47.386, Some(1.21)),
        setting([160, 1], Always, &[3, 4, 5, 12], 26.827, Some(1.13)),
        setting([360, 4], ExceptLast, &[3, 6, 7, 8], 44.543, Some(1.26)),
        setting([1152, 32], ExceptLast, &[3, 6, 7, 8], 72.412, Some(1.84)),
        setting([196, 1], Always, &[2, 2, 2, 2, 2, 3, 4, 7], 24.918, Some(1.38)),
        setting([480, 4], ExceptLast, &[2, 2, 2, 3, 3, 4, 4, 4], 70.065, Some(1.72)),
        setting([1280, 32], ExceptLast, &[2, 2, 2, 3, 3, 4, 4, 4], 132.413, Some(3.48)),
    ],
};

/// GPipe's speed-ups were read from a figure, by torchgpipe's authors.
pub static RESNET: Benchmark = Benchmark {
    name: "ResNet-101",
    pixels: 224,
    baseline: Baseline::Unpipelined,
    baseline_throughput: 95.862,
    settings: &[
        setting([220, 2], ExceptLast, &[370], 81.796, Some(0.80)),
        setting([25000, 1667], ExceptLast, &[135, 235], 135.539, Some(1.418)),
        setting([5632, 256], ExceptLast, &[44, 92, 124, 110], 265.958, Some(2.182)),
        setting([5400, 150], ExceptLast, &[26, 22, 33, 44, 44, 66, 66, 69], 411.662, Some(2.891)),
    ],
};

pub static UNET: Benchmark = Benchmark {
    name: "U-Net (5, 64)",
    pixels: 192,
    baseline: Baseline::Unpipelined,
    baseline_throughput: 28.5,
    settings: &[
        setting([80, 2], ExceptLast, &[241], 24.456, None),
        setting([512, 32], ExceptLast, &[104, 137], 35.502, None),
        setting([512, 16], ExceptLast, &[30, 66, 84, 61], 67.042, None),
        setting([640, 40], ExceptLast, &[16, 27, 31, 44, 22, 57, 27, 17], 88.497, None),
    ],
};

impl Setting {
    pub fn devices(&self) -> usize {
        self.balance.len()
    }

    /// Images of a micro-batch.
    pub fn rows(&self) -> usize {
        self.batch.div_ceil(self.chunks)
    }

    /// The number of layers on each device, of layers of so many modules. `None` if a cut is inside
    /// of a layer.
    pub fn layers(&self, modules: &[usize]) -> Option<Vec<usize>> {
        let mut rest = modules.iter();
        let mut count = |mut wanted: usize| {
            let mut layers = 0;
            while wanted > 0 {
                wanted = wanted.checked_sub(*rest.next()?)?;
                layers += 1;
            }
            Some(layers)
        };
        let stages = self.balance.iter().map(|&modules| count(modules)).collect::<Option<_>>()?;
        rest.next().is_none().then_some(stages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resnet::ResNet;
    use crate::unet::UNet;

    #[test]
    fn every_published_cut_is_between_two_layers() {
        let models = [(&AMOEBANET, vec![1; 24]), (&RESNET, ResNet::modules([3, 4, 23, 3])), (&UNET, UNet::modules(5))];
        for (benchmark, modules) in models {
            for setting in benchmark.settings {
                let layers = setting.layers(&modules).unwrap_or_else(|| panic!("{setting:?}"));
                assert_eq!(layers.iter().sum::<usize>(), modules.len());
            }
        }
        assert_eq!(UNET.settings[1].layers(&[104, 136, 1]), Some(vec![1, 2]));
        assert_eq!(UNET.settings[1].layers(&[103, 137, 1]), None);
        assert_eq!(UNET.settings[1].layers(&[104, 137, 1]), None);
    }

    #[test]
    fn micro_batches_have_the_rows_of_torch_chunk() {
        assert_eq!([1, 2, 8].map(|number: usize| AMOEBANET.settings[number].rows()), [64, 40, 40]);
        assert_eq!(RESNET.settings[1].rows(), 15);
    }
}
