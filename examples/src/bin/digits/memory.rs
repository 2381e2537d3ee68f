//! Settings for a limit of memory, chosen by measurement.

use anyhow::{Context, Result, bail};
use pipe_examples::digits::Dataset;
use pipe_runtime::schedule::Candidate;
use pipe_runtime::{CheapOutputs, Checkpoint, PipeBuilder};
use tch::Device;

use crate::model::{Digits, DigitsVars};
use crate::pictures;

/// The numbers that Adam keeps for each trained one.
const ADAM: f64 = 2.;

/// The settings of a pipeline.
#[derive(Debug)]
pub struct Choice {
    cheap: CheapOutputs,
    candidate: Candidate,
}

impl Choice {
    /// Makes these settings.
    pub fn apply<'v>(&self, builder: PipeBuilder<'v, Digits>) -> PipeBuilder<'v, Digits> {
        self.apply_but_schedule(builder).schedule(self.candidate.kind).ranks(self.candidate.ranks)
    }

    /// Makes these settings, in GPipe's order.
    pub fn apply_but_schedule<'v>(&self, builder: PipeBuilder<'v, Digits>) -> PipeBuilder<'v, Digits> {
        let Candidate { micro_batches, checkpoint, .. } = self.candidate;
        builder.chunks(micro_batches).checkpoint(checkpoint).cheap_outputs(self.cheap)
    }
}

/// Finds the settings with which a step on `batch` is fastest, of those that need at most `limit`
/// bytes on each rank, and says why. It measures some steps for each way to treat cheap outputs,
/// and simulates the schedules, numbers of micro-batches and checkpoint modes. Returns the model,
/// whose weights are as they were.
pub fn choose(mut model: Digits, vars: &DigitsVars, batch: &Dataset, limit: u64) -> Result<(Digits, Choice)> {
    let last = vars.devices().pop().unwrap_or(Device::Cpu);
    let mut found: Option<(Choice, String)> = None;
    let mut refused = String::new();
    for cheap in [CheapOutputs::Keep, CheapOutputs::RecomputePointwise, CheapOutputs::RecomputeAll] {
        let builder = model.pipe(vars).checkpoint(Checkpoint::Never).cheap_outputs(cheap);
        let mut pipe = builder.intra_op_threads(1).build()?;
        let mut costs = pictures::record(&mut pipe, batch, last)?.costs();
        for stage in &mut costs.stages {
            stage.parameters += ADAM * stage.gradients;
        }
        let advice = pipe.advise(&costs, Some(limit))?;
        let why = format!("cheap outputs {cheap:?}: {}", advice.why());
        println!("{why}");
        match advice.best {
            Some(candidate) => {
                if found.as_ref().is_none_or(|(best, _)| candidate.time < best.candidate.time) {
                    found = Some((Choice { cheap, candidate }, why));
                }
            }
            None => refused = why,
        }
        model = pipe.into_inner();
        vars.var_store().trainable_variables().iter_mut().for_each(tch::Tensor::zero_grad);
    }
    let Some((choice, why)) = found else { bail!("no settings fit: {refused}") };
    println!("chosen, because it is the fastest that fits: {why}\n");
    Ok((model, choice))
}

/// Parses a size such as `24MiB`: a whole number of bytes, or of KiB, MiB or GiB.
pub fn size(text: &str) -> Result<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        unit => bail!("`{unit}` is not a unit: write B, KiB, MiB or GiB"),
    };
    let number: u64 = number.parse().with_context(|| format!("`{text}` does not begin with a whole number"))?;
    number.checked_mul(factor).context("that is more than any machine has")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("24MiB").unwrap(), 24 << 20);
        assert_eq!(size("3 KiB").unwrap(), 3072);
        assert_eq!(size("7").unwrap(), 7);
        for wrong in ["MiB", "1.5GiB", "3MB", "-1", "99999999999GiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
