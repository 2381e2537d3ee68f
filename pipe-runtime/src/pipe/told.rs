use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::Result;
use crate::run::Trained;
use crate::torch::{kind_from_number, number_of_kind};

/// What each process tells the others at the end of a training step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// The kinds and values of the micro-batches' losses, and their weights, from the process with
    /// the last stage. They are exact: no kind has more digits than a double.
    losses: Vec<(u8, f64)>,
    weights: Vec<f64>,
    in_flight: Vec<usize>,
    transit: Vec<usize>,
}

impl Told {
    pub(super) fn of(trained: &Trained, losses: &[Option<Tensor>], weights: &[f64]) -> Result<Self> {
        let number = |loss: &Tensor| Ok((number_of_kind(loss.kind())?, loss.f_double_value(&[])?));
        let losses = losses.iter().flatten().map(|loss| number(&loss.f_reshape([0_i64; 0])?)).collect::<Result<_>>()?;
        let (in_flight, transit) = (trained.in_flight.clone(), trained.transit.clone());
        Ok(Self { losses, weights: weights.to_vec(), in_flight, transit })
    }

    /// The losses and weights of all replicas, from their last stages; `None` if this process has
    /// all of them itself.
    pub(super) fn losses(all: &[Self], own: bool) -> Option<Result<(Vec<Tensor>, Vec<f64>)>> {
        if own || all.iter().all(|told| told.losses.is_empty()) {
            return None;
        }
        let loss = |&(kind, value): &(u8, f64)| -> Result<Tensor> {
            Ok(Tensor::from(value).f_to_kind(kind_from_number(kind).unwrap_or(Kind::Float))?)
        };
        let losses = all.iter().flat_map(|told| &told.losses).map(loss).collect::<Result<_>>();
        Some(losses.map(|losses| (losses, all.iter().flat_map(|told| told.weights.iter().copied()).collect())))
    }

    /// The peaks of all stages: of micro-batches in flight, and of values in transit.
    pub(super) fn peaks(all: &[Self], own: &Trained) -> (Vec<usize>, Vec<usize>) {
        let most = |own: &[usize], peaks: fn(&Self) -> &[usize]| {
            let mut most = own.to_vec();
            for told in all {
                most.iter_mut().zip(peaks(told)).for_each(|(most, &peak)| *most = peak.max(*most));
            }
            most
        };
        (most(&own.in_flight, |told| &told.in_flight), most(&own.transit, |told| &told.transit))
    }
}
