//! The costs of a model's layers, and of stages that are cut from them.

use std::ops::Range;

use crate::simulate::{Costs, SimulationError, Skip, StageCosts, Transfer};

/// The costs of a model's layers, per micro-batch, from which follow those of stages. Any unit of
/// time and any unit of memory may be used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layers {
    /// The number of micro-batches of a step. With twice as many, each would take about half of the
    /// time and of the memory.
    pub micro_batches: usize,
    /// The layers, in order.
    pub layers: Vec<LayerCosts>,
    /// What crosses a cut after each layer but the last one.
    pub boundaries: Vec<Crossing>,
    /// The skips, between layers. Within a stage, they do not cross.
    pub skips: Vec<LayerSkip>,
}

/// The costs of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LayerCosts {
    /// Time of the forward. If the layer is recomputed, its backward takes so much more.
    pub forward: f64,
    /// Time of the backward for the inputs.
    pub backward_input: f64,
    /// Time of the backward for the parameters. A whole backward takes the sum of the two.
    pub backward_weight: f64,
    /// Memory that is held from the forward until the backward.
    pub kept: f64,
    /// Memory that is held instead if the layer is recomputed.
    pub remaining: f64,
    /// Memory that is held between the two halves of a split backward: what the first half has made
    /// again is held for the second one.
    pub between_halves: f64,
    /// The most memory while the forward runs, beyond what earlier layers of the stage hold.
    pub forward_peak: f64,
    /// The most memory while the backward runs, beyond the same: with what the layer keeps.
    pub backward_peak: f64,
    /// Memory of the parameters and the optimizer's state, which is held all the time.
    pub parameters: f64,
    /// Memory of the parameters' gradients, which is held from the first backward on.
    pub gradients: f64,
}

/// What crosses a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Crossing {
    /// The costs of the transfer. Its sizes are what is held beside what layers keep.
    pub transfer: Transfer,
    /// The size of the values: what a stage keeps of a micro-batch that it recomputes.
    pub values: f64,
    /// What the receiving stage keeps of the values until its backward: 0 where stages share their
    /// memory.
    pub received: f64,
}

/// A value that goes from one layer to a later one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSkip {
    /// The layer that stashes it.
    pub from: usize,
    /// The layer that pops it.
    pub to: usize,
    /// What crosses if they are in different stages.
    pub crossing: Crossing,
}

/// A way to divide layers into stages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Division {
    /// The number of layers of each stage.
    pub stages: Vec<usize>,
    /// Whether each layer is recomputed; empty if none is.
    pub recomputed: Vec<bool>,
}

impl Division {
    /// The layers of each stage.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.stages.iter().scan(0, |end, count| {
            let first = *end;
            *end += count;
            Some(first..*end)
        })
    }

    pub(super) fn recomputes(&self, layer: usize) -> bool {
        self.recomputed.get(layer) == Some(&true)
    }
}

impl Layers {
    /// Checks that there is a boundary between each two layers, and that skips lead forward.
    pub(super) fn check(&self) -> Result<(), SimulationError> {
        let (layers, boundaries) = (self.layers.len(), self.boundaries.len());
        if boundaries != layers.saturating_sub(1) {
            return Err(SimulationError::Stages { stages: layers, costs: layers, boundaries });
        }
        match self.skips.iter().find(|skip| skip.from >= skip.to || skip.to >= layers) {
            Some(skip) => Err(SimulationError::Skip { from: skip.from, to: skip.to, stages: layers }),
            None => Ok(()),
        }
    }

    /// The costs of the stages of a division. `overhead` is the time that each action takes on top
    /// of its work; a split backward is two. What a stage keeps is held until the second half.
    pub fn costs(&self, division: &Division, is_split: bool, overhead: f64) -> Costs {
        let mut stage_of = vec![0; self.layers.len()];
        let mut stages = Vec::with_capacity(division.stages.len());
        for (stage, range) in division.ranges().enumerate() {
            stage_of[range.clone()].fill(stage);
            stages.push(self.stage(range, division, is_split, overhead));
        }
        let ends = division.ranges().map(|range| range.end).take(stages.len().saturating_sub(1));
        let crossings: Vec<_> = ends.map(|end| self.boundaries[end - 1]).collect();
        for (stage, crossing) in stages.iter_mut().skip(1).zip(&crossings) {
            receive(stage, crossing);
        }
        let mut skips = Vec::new();
        for skip in &self.skips {
            let (from, to) = (stage_of[skip.from], stage_of[skip.to]);
            if from == to {
                stages[from].activation += skip.crossing.transfer.size;
            } else {
                receive(&mut stages[to], &skip.crossing);
                skips.push(Skip { from, to, transfer: skip.crossing.transfer });
            }
        }
        stages.iter_mut().for_each(|stage| stage.for_weights += stage.activation);
        Costs { stages, boundaries: crossings.into_iter().map(|crossing| crossing.transfer).collect(), skips }
    }

    fn stage(&self, range: Range<usize>, division: &Division, is_split: bool, overhead: f64) -> StageCosts {
        let layers = &self.layers[range.clone()];
        let all = |cost: fn(&LayerCosts) -> f64| layers.iter().map(cost).sum::<f64>();
        let (mut activation, mut again, mut remade) = (0., 0., 0.);
        let (mut forward, mut backward, mut weight) = (0_f64, 0_f64, 0_f64);
        for (layer, number) in layers.iter().zip(range) {
            let recomputes = division.recomputes(number);
            let held = if recomputes { layer.remaining } else { layer.kept };
            forward = forward.max(activation + layer.forward_peak);
            let peak = if recomputes { layer.backward_peak.max(layer.forward_peak) } else { layer.backward_peak };
            backward = backward.max(activation + peak);
            weight = weight.max(peak - layer.kept);
            activation += held;
            again += if recomputes { layer.forward } else { 0. };
            remade += layer.between_halves - held;
        }
        StageCosts {
            forward: all(|layer| layer.forward) + overhead,
            backward_input: all(|layer| layer.backward_input) + again + overhead,
            backward_weight: all(|layer| layer.backward_weight) + if is_split { overhead } else { 0. },
            recompute: all(|layer| layer.forward) + overhead,
            activation,
            for_weights: remade,
            checkpoint: 0.,
            forward_working: (forward - activation).max(0.),
            backward_working: (backward - activation).max(0.),
            // The first half of a split backward frees nothing.
            input_working: remade + weight,
            weight_working: weight,
            parameters: all(|layer| layer.parameters),
            gradients: all(|layer| layer.gradients),
        }
    }
}

/// Adds what a stage keeps of a value that it receives.
fn receive(stage: &mut StageCosts, crossing: &Crossing) {
    stage.activation += crossing.received;
    stage.checkpoint += crossing.values;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Layers {
        let layer = LayerCosts {
            forward: 1.,
            backward_input: 2.,
            backward_weight: 3.,
            kept: 10.,
            remaining: 4.,
            between_halves: 10.,
            forward_peak: 12.,
            backward_peak: 15.,
            parameters: 100.,
            gradients: 50.,
        };
        let crossing = Crossing { transfer: Transfer { time: 0.5, size: 1., gradient: 2. }, values: 7., received: 0. };
        let skips = vec![LayerSkip { from: 0, to: 2, crossing }];
        Layers { micro_batches: 4, layers: vec![layer; 4], boundaries: vec![crossing; 3], skips }
    }

    #[test]
    fn a_stage_is_the_sum_of_its_layers() {
        let division = Division { stages: vec![1, 3], recomputed: Vec::new() };
        let costs = layers().costs(&division, false, 0.25);
        let stage = costs.stages[1];
        assert_eq!((stage.forward, stage.backward_input, stage.backward_weight), (3.25, 6.25, 9.));
        assert_eq!((stage.activation, stage.checkpoint, stage.parameters, stage.gradients), (30., 14., 300., 150.));
        // The last layer's forward has 20 of the others below it, and so has its backward.
        assert_eq!((stage.forward_working, stage.backward_working), (2., 5.));
        assert_eq!((costs.skips.len(), costs.boundaries[0].time), (1, 0.5));
        // Within a stage, what a skip holds is the stage's.
        let costs = layers().costs(&Division { stages: vec![3, 1], recomputed: Vec::new() }, false, 0.);
        assert_eq!((costs.skips.len(), costs.stages[0].activation, costs.stages[1].checkpoint), (0, 31., 7.));
    }

    #[test]
    fn a_recomputed_layer_is_whole_again_while_its_backward_runs() {
        let division = Division { stages: vec![4], recomputed: vec![true, false, false, true] };
        let stage = layers().costs(&division, false, 0.).stages[0];
        assert_eq!((stage.backward_input, stage.activation), (10., 29.));
        // 24 below the last layer, and its 15.
        assert_eq!(stage.backward_working, 11.);
        // All that was made again is held for the second half.
        assert_eq!((stage.for_weights, stage.input_working, stage.weight_working), (41., 17., 5.));
    }
}
