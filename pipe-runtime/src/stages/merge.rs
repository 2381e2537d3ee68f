//! Runs several consecutive annotated stages as one, for a model with more stages than devices.

use std::any::Any;

use super::graph::Stage;
use super::ports::Io;
use crate::model::Context;

/// Consecutive stages that run as one.
struct Merged(Vec<Box<dyn Stage>>);

impl Stage for Merged {
    fn run(&self, io: &mut Io<'_>, cx: &Context) {
        for stage in &self.0 {
            stage.run(io, cx);
        }
    }

    fn into_layers(self: Box<Self>, layers: &mut Vec<Box<dyn Any + Send>>) {
        self.0.into_iter().for_each(|stage| stage.into_layers(layers));
    }
}

/// Merges the annotated stages that have the same number in `stage_of`, which are consecutive.
pub(super) fn merged(annotated: Vec<Box<dyn Stage>>, stage_of: &[usize]) -> Vec<Box<dyn Stage>> {
    let mut stages: Vec<Vec<Box<dyn Stage>>> = Vec::new();
    for (stage, &number) in annotated.into_iter().zip(stage_of) {
        stages.resize_with(stages.len().max(number + 1), Vec::new);
        stages[number].push(stage);
    }
    let merge = |mut stages: Vec<Box<dyn Stage>>| match stages.len() {
        1 => stages.remove(0),
        _ => Box::new(Merged(stages)),
    };
    stages.into_iter().map(merge).collect()
}
