/// The costs of the parts of a model, per micro-batch. Any unit of time and any unit of memory may
/// be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    /// The costs of each stage.
    pub stages: Vec<StageCosts>,
    /// The transfers from each stage to the next: one less than there are stages. Between stages on
    /// one rank, the time counts as zero.
    pub boundaries: Vec<Transfer>,
    /// The skips and the costs of their transfers.
    pub skips: Vec<Skip>,
}

/// The costs of a stage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StageCosts {
    /// Time of the forward.
    pub forward: f64,
    /// Time of the backward for the inputs.
    pub backward_input: f64,
    /// Time of the backward for the parameters. A whole backward takes the sum of the two.
    pub backward_weight: f64,
    /// Time of the recomputation.
    pub recompute: f64,
    /// Memory that is held from the forward (or the recomputation) until the backward for the
    /// inputs, or the whole backward.
    pub activation: f64,
    /// The part of `activation` that is held until the backward for the parameters.
    pub for_weights: f64,
    /// Memory that is held instead of `activation` for a micro-batch that is recomputed, until its
    /// backward: the inputs of the stage.
    pub checkpoint: f64,
    /// Memory that a forward, or a recomputation, needs while it runs, beyond what it leaves.
    pub forward_working: f64,
    /// Memory that a whole backward needs while it runs, beyond what it finds.
    pub backward_working: f64,
    /// The same for the backward for the inputs.
    pub input_working: f64,
    /// The same for the backward for the parameters.
    pub weight_working: f64,
    /// Memory of the parameters and the optimizer's state, which is held all the time.
    pub parameters: f64,
    /// Memory of the parameters' gradients, which is held from the first backward on.
    pub gradients: f64,
}

impl StageCosts {
    /// The costs of stages that run as one. The inputs of the later ones are not kept.
    fn sum(stages: &[StageCosts]) -> Self {
        let all = |cost: fn(&StageCosts) -> f64| stages.iter().map(cost).sum();
        Self {
            forward: all(|stage| stage.forward),
            backward_input: all(|stage| stage.backward_input),
            backward_weight: all(|stage| stage.backward_weight),
            recompute: all(|stage| stage.recompute),
            activation: all(|stage| stage.activation),
            for_weights: all(|stage| stage.for_weights),
            checkpoint: stages.first().map_or(0., |stage| stage.checkpoint),
            forward_working: stages.iter().map(|stage| stage.forward_working).fold(0., f64::max),
            backward_working: stages.iter().map(|stage| stage.backward_working).fold(0., f64::max),
            input_working: stages.iter().map(|stage| stage.input_working).fold(0., f64::max),
            weight_working: stages.iter().map(|stage| stage.weight_working).fold(0., f64::max),
            parameters: all(|stage| stage.parameters),
            gradients: all(|stage| stage.gradients),
        }
    }
}

/// The costs of a transfer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Transfer {
    /// Time from the end of the sending action until the receiving action may start. Several
    /// transfers from one rank to another go one after the other.
    pub time: f64,
    /// Memory that is held until the value is used.
    pub size: f64,
    /// Memory that is held until its gradient is used.
    pub gradient: f64,
}

impl Transfer {
    /// The memory of the value, or of its gradient.
    pub(super) fn held(&self, gradient: bool) -> f64 {
        if gradient { self.gradient } else { self.size }
    }
}

/// A value that goes from one stage directly to a later one. Its gradient goes the opposite way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Skip {
    /// The stage that stashes it.
    pub from: usize,
    /// The stage that pops it.
    pub to: usize,
    /// The costs of the transfer. The memory is held by the stage that made the value, until it is
    /// used.
    pub transfer: Transfer,
}

impl Costs {
    /// Costs of equal stages: the given times of the forward, of the backward for the inputs and of
    /// the backward for the parameters; a recomputation as long as the forward; one unit of memory
    /// per stage and micro-batch, held until the last backward; free transfers.
    pub fn equal(stages: usize, forward: f64, backward_input: f64, backward_weight: f64) -> Self {
        let stage = StageCosts {
            forward,
            backward_input,
            backward_weight,
            recompute: forward,
            activation: 1.,
            for_weights: 1.,
            checkpoint: 0.,
            forward_working: 0.,
            backward_working: 0.,
            input_working: 0.,
            weight_working: 0.,
            parameters: 0.,
            gradients: 0.,
        };
        let boundaries = vec![Transfer::default(); stages.saturating_sub(1)];
        Self { stages: vec![stage; stages], boundaries, skips: Vec::new() }
    }

    /// The costs of the same model with `stages` stages, where neighbouring stages run as one.
    /// Unchanged if the number of stages does not divide evenly.
    pub fn merged(&self, stages: usize) -> Self {
        if stages == 0 || self.stages.is_empty() || !self.stages.len().is_multiple_of(stages) {
            return self.clone();
        }
        let run = self.stages.len() / stages;
        let mut merged: Vec<_> = self.stages.chunks(run).map(StageCosts::sum).collect();
        let mut skips = Vec::new();
        for &skip in &self.skips {
            let (from, to) = (skip.from / run, skip.to / run);
            match merged.get_mut(from) {
                // The value does not leave the stage, which holds it as part of its activations.
                Some(stage) if from == to => stage.activation += skip.transfer.size,
                _ => skips.push(Skip { from, to, ..skip }),
            }
        }
        let boundaries = self.boundaries.iter().skip(run - 1).step_by(run).copied().collect();
        Self { stages: merged, boundaries, skips }
    }

    /// Adds a skip from stage `from` to stage `to` that costs nothing.
    pub fn with_skip(mut self, from: usize, to: usize) -> Self {
        self.skips.push(Skip { from, to, transfer: Transfer::default() });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_stages_do_what_their_parts_do() {
        let mut costs = Costs::equal(6, 1., 2., 3.).with_skip(0, 1).with_skip(1, 4);
        costs.skips[0].transfer.size = 5.;
        costs.boundaries.iter_mut().enumerate().for_each(|(number, boundary)| boundary.time = number as f64);
        let merged = costs.merged(3);
        assert_eq!((merged.stages[0].forward, merged.stages[0].activation, merged.stages[1].activation), (2., 7., 2.));
        assert_eq!(merged.boundaries.iter().map(|boundary| boundary.time).collect::<Vec<_>>(), [1., 3.]);
        assert_eq!(merged.skips.iter().map(|skip| (skip.from, skip.to)).collect::<Vec<_>>(), [(0, 2)]);
        assert_eq!(costs.merged(4), costs);
        assert_eq!(costs.merged(6), costs);
        let none = Costs::equal(0, 1., 1., 1.);
        assert_eq!(none.merged(3), none);
    }
}
