//! The statistics that layers have changed, over replicas.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use tch::Tensor;

use super::forward::Call;
use crate::error::Result;
use crate::lock::lock;
use crate::run::remote::Operation;
use crate::torch::{duplicate, is_elsewhere};

impl Call {
    /// Gives the statistics that layers have changed the mean over all replicas, if there are
    /// several. They are set back if the call is undone.
    pub(crate) fn combine_statistics(&self) -> Result<()> {
        let Some(remote) = self.remote.as_ref().filter(|remote| remote.has_replicas()) else { return Ok(()) };
        let variables = self.pipeline.state.list();
        let changed = self.changed()?;
        let like: Vec<_> = variables.iter().map(|variable| variable.tensor.f_detach()).collect::<Result<_, _>>()?;
        let own = variables.iter().zip(&like).map(|(variable, value)| match changed.contains(&variable.name) {
            true => Ok(Some(duplicate(value)?)),
            false => Ok(None),
        });
        let means = remote.combine(Operation::Mean, own.collect::<Result<_>>()?, &like, 0)?;
        for (variable, mean) in like.iter().zip(means) {
            // Through `data`, so that graphs that saved the variable see no change.
            mean.map_or(Ok(()), |mean: Tensor| variable.f_data()?.f_copy_(&mean))?;
        }
        Ok(())
    }

    /// The names of the variables that layers have changed.
    fn changed(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for (stage, history) in self.histories.iter().enumerate() {
            let variables = self.pipeline.state.variables(stage)?;
            names.extend(lock(history).all_changes().into_iter().map(|(number, _)| variables.get(number).name.clone()));
        }
        Ok(names)
    }

    /// A digest of the names of the variables that are trained here.
    pub(super) fn names_of_trained(&self) -> u64 {
        let mut digest = DefaultHasher::new();
        for variable in self.pipeline.state.list() {
            if variable.tensor.requires_grad() && !is_elsewhere(&variable.tensor) {
                variable.name.hash(&mut digest);
            }
        }
        digest.finish()
    }
}
