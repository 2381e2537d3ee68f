use tch::Tensor;

use crate::stages::Route;

/// Result of a training step.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepReport<O = ()> {
    /// The mini-batch's loss, a scalar.
    pub loss: Tensor,
    /// The losses of the micro-batches, scalars.
    pub losses: Vec<Tensor>,
    /// The output, joined over the micro-batches and detached, if the step [keeps
    /// it](crate::TrainStep::keep_output). Otherwise it is `()`.
    pub output: O,
    /// Peaks of what each stage held, from the first stage to the last.
    pub stages: Vec<StageReport>,
}

/// Peaks of what a stage held in a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StageReport {
    /// Peak number of micro-batches in flight. From a micro-batch's forward until its backward, the
    /// stage holds its activations, or the inputs to recompute them from.
    pub peak_in_flight: usize,
    /// Peak number of inputs that waited for the stage. The caller's own are not counted.
    pub peak_queued: usize,
    /// Peak number of values that waited for the stage on one skip: the largest over its skips.
    pub peak_skips: usize,
}

/// Makes the reports from the peaks of the micro-batches `in_flight`, by stage, and of the values
/// in `transit`, by route.
pub(super) fn stage_reports(routes: &[Route], in_flight: &[usize], transit: &[usize]) -> Vec<StageReport> {
    let report = |(stage, &peak_in_flight): (usize, &usize)| {
        let most = |is_skip: bool| {
            let into = |route: &Route| route.to == Some(stage) && route.is_skip == is_skip;
            routes.iter().zip(transit).filter(|(route, _)| into(route)).map(|(_, &peak)| peak).max().unwrap_or(0)
        };
        StageReport { peak_in_flight, peak_queued: most(false), peak_skips: most(true) }
    };
    in_flight.iter().enumerate().map(report).collect()
}
