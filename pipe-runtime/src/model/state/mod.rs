//! The variables that layers change while they run: running statistics, and any other state that
//! they keep in variables.
//!
//! A variable is copied right before the first operator of a pass that writes to it. The copies
//! have two uses: a recomputation runs on the state that its first pass began with, and a call that
//! fails restores the state from before it. A variable that no layer changes is never copied.
//!
//! Stages run at the same time. So a variable that changes belongs to one stage, which its name
//! determines, and no other stage may use it.

mod history;
mod passes;

pub(crate) use history::{History, Part};
pub(crate) use passes::{FirstPass, Rewound, Statistics, not_finite};

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tch::Tensor;

use super::vars::Vars;
use crate::error::Result;
use crate::lock::lock;
use crate::torch::{Change, GradMode, TorchError, Variable, Variables, duplicate, is_elsewhere};

/// The variables of a pipeline, and what is known about their use.
#[derive(Debug)]
pub(crate) struct State {
    /// For each stage, the variables as it sees them. If the memory of a stage's variables was
    /// replaced, the stage looks at its own variables again, and not at those of other stages,
    /// which may be replaced at this moment.
    variables: Vec<Mutex<Arc<Variables>>>,
    uses: Mutex<Uses>,
    /// The variables of other processes.
    elsewhere: Mutex<Vec<Variable>>,
}

#[derive(Debug)]
struct Uses {
    /// For each variable, whether a layer has changed it.
    changed: Vec<bool>,
    /// For each variable, the stages whose layers were seen to use it.
    users: Vec<BTreeSet<usize>>,
    /// Whether the uses of a whole call were recorded, in evaluation and in training.
    noted: [bool; 2],
}

impl State {
    /// # Errors
    ///
    /// Fails if a variable is below no layer's path.
    pub(crate) fn new(vars: &Vars) -> Result<Self> {
        let (elsewhere, list): (Vec<_>, Vec<_>) =
            vars.by_stage()?.into_iter().partition(|variable| is_elsewhere(&variable.tensor));
        let count = list.len();
        let variables = Arc::new(Variables::new(list)?);
        Ok(Self {
            variables: vars.devices().iter().map(|_| Mutex::new(Arc::clone(&variables))).collect(),
            uses: Mutex::new(Uses {
                changed: vec![false; count],
                users: vec![BTreeSet::new(); count],
                noted: [false; 2],
            }),
            elsewhere: Mutex::new(elsewhere),
        })
    }

    /// The variables, sorted by name. They are handles on those of the model. Those of other
    /// processes are among them.
    pub(crate) fn list(&self) -> Vec<Variable> {
        let variables = Arc::clone(&lock(&self.variables[0]));
        let share = |Variable { name, tensor, stage }: &Variable| Variable {
            name: name.clone(),
            tensor: tensor.shallow_clone(),
            stage: *stage,
        };
        let mut list: Vec<_> = variables.iter().chain(lock(&self.elsewhere).iter()).map(share).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// Prepares a call: looks at all variables with their present memory.
    pub(crate) fn refresh(&self) -> Result<()> {
        let Some(fresh) = lock(&self.variables[0]).again(None)? else { return Ok(()) };
        let fresh = Arc::new(fresh);
        for variables in &self.variables {
            *lock(variables) = Arc::clone(&fresh);
        }
        Ok(())
    }

    /// The variables for a pass of `stage`, where its own have their present memory.
    pub(crate) fn variables(&self, stage: usize) -> Result<Arc<Variables>, TorchError> {
        let mut variables = lock(&self.variables[stage]);
        if let Some(fresh) = variables.again(Some(stage))? {
            *variables = Arc::new(fresh);
        }
        Ok(Arc::clone(&variables))
    }

    /// Whether the next call in this mode must record which variables its layers use.
    pub(crate) fn notes_uses(&self, training: bool) -> bool {
        !lock(&self.uses).noted[usize::from(training)]
    }

    /// Records that the uses of a whole call were recorded.
    pub(crate) fn have_been_noted(&self, training: bool) {
        lock(&self.uses).noted[usize::from(training)] = true;
    }

    /// Adds the variables that a pass of `stage` has changed and used.
    ///
    /// # Errors
    ///
    /// Fails if a variable that changes is used by a stage that does not own it.
    fn note(&self, variables: &Variables, stage: usize, changes: &[Change], used: &[usize]) -> Result<(), String> {
        if changes.is_empty() && used.is_empty() {
            return Ok(());
        }
        let mut uses = lock(&self.uses);
        for &variable in used {
            uses.users[variable].insert(stage);
        }
        for &Change { variable, .. } in changes {
            uses.changed[variable] = true;
        }
        for variable in used.iter().copied().chain(changes.iter().map(|change| change.variable)) {
            let owner = variables.get(variable).stage;
            let other = uses.users[variable].iter().find(|&&user| user != owner);
            if let Some(other) = other.filter(|_| uses.changed[variable]) {
                return Err(format!(
                    "the variable `{}` of stage {owner} is changed by its layers, and stage {other} uses it too: the two stages run at the same time, so \
                     what stage {other} would see is a matter of luck. Send the value along, or use it in stage {owner} alone",
                    variables.get(variable).name
                ));
            }
        }
        Ok(())
    }
}

/// The number of a variable, and a value of it.
type Value = (usize, Tensor);

fn write(variables: &Variables, variable: usize, value: &Tensor) -> Result<(), tch::TchError> {
    let _constant = GradMode::set(false);
    // Through `data`, so that graphs that saved the variable see no change.
    let mut now = variables.get(variable).tensor.f_data()?;
    if now.size() == value.size() && now.kind() == value.kind() {
        return now.f_copy_(value);
    }
    variables.get(variable).tensor.shallow_clone().f_set_data(&duplicate(value)?)
}
