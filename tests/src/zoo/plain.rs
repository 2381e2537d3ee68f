//! The twins: the same layers in plain tch, on plain variables with the same values.
//!
//! State is replaced and never written to, so that nothing here depends on how the pipeline handles
//! state.

use std::collections::BTreeMap;

use tch::nn::VarStore;
use tch::{Kind, Tensor};

use super::creature::Creature;
use super::formulas::{self, QUEUE, WIDTH};

/// Values by name.
pub type Named = BTreeMap<String, Tensor>;

/// A copy of a model's variables outside the pipeline, and the values that its layers keep.
#[derive(Debug)]
pub struct Twin {
    variables: Named,
    kept: Named,
    training: bool,
}

impl Twin {
    /// Creates a twin with copies of a model's variables and no kept values.
    pub fn of(variables: &VarStore) -> Self {
        let copied = variables.variables().into_iter().map(|(name, tensor)| (name, copy(&tensor)));
        Self { variables: copied.collect(), kept: Named::new(), training: true }
    }

    /// Copies the twin, without gradients.
    pub fn fork(&self) -> Self {
        let copies = |named: &Named| named.iter().map(|(name, tensor)| (name.clone(), copy(tensor))).collect();
        Self { variables: copies(&self.variables), kept: copies(&self.kept), training: self.training }
    }

    /// Whether any variable is trained.
    pub fn trains(&self) -> bool {
        self.variables.values().any(Tensor::requires_grad)
    }

    /// Gradients by name, or `None` for a variable without one.
    pub fn gradients(&self) -> BTreeMap<String, Option<Tensor>> {
        gradients(&self.variables)
    }

    /// Values of all variables, which layers may have changed.
    pub fn state(&self) -> Named {
        self.variables.iter().map(|(name, tensor)| (name.clone(), tensor.detach())).collect()
    }

    /// Returns the part of the layer at this path.
    pub fn layer(&mut self, path: &str) -> TwinLayer<'_> {
        TwinLayer { path: path.to_owned(), twin: self }
    }
}

fn copy(tensor: &Tensor) -> Tensor {
    tensor.detach().copy().set_requires_grad(tensor.requires_grad())
}

/// Gradients of variables by name, or `None` for a variable without one.
pub fn gradients(variables: &Named) -> BTreeMap<String, Option<Tensor>> {
    let gradient = |tensor: &Tensor| Some(tensor.grad()).filter(Tensor::defined);
    variables.iter().map(|(name, tensor)| (name.clone(), gradient(tensor))).collect()
}

/// One layer's part of a [`Twin`].
#[derive(Debug)]
pub struct TwinLayer<'t> {
    path: String,
    twin: &'t mut Twin,
}

impl TwinLayer<'_> {
    /// Returns a variable of the layer.
    pub fn get(&self, name: &str) -> Tensor {
        let name = format!("{}.{name}", self.path);
        self.twin.variables.get(&name).unwrap_or_else(|| panic!("there is no `{name}`")).shallow_clone()
    }

    /// Replaces the value of a variable.
    fn put(&mut self, name: &str, value: Tensor) {
        let trained = self.get(name).requires_grad();
        let value = value.detach().set_requires_grad(trained);
        self.twin.variables.insert(format!("{}.{name}", self.path), value);
    }

    fn kept(&self) -> Option<Tensor> {
        self.twin.kept.get(&self.path).map(Tensor::shallow_clone)
    }

    /// Runs the layer, which is of this kind, on micro-batch number `micro_batch`.
    pub fn run(&mut self, creature: Creature, x: &Tensor, micro_batch: usize) -> Tensor {
        let training = self.twin.training;
        match creature {
            Creature::Mix => formulas::mix(x, &self.get("weight"), &self.get("bias")),
            Creature::Lstm | Creature::Gru => self.recurrent(creature, x),
            Creature::Spectral | Creature::SpectralFrozenVector => {
                let weight = self.get("weight");
                let (u, v) = formulas::power_iteration(&weight, &self.get("u"));
                if training {
                    self.put("u", u.shallow_clone());
                }
                formulas::spectral(x, &weight, (&u, &v))
            }
            Creature::BatchNorm => self.batch_norm(&x.transpose(1, 2), "", 0.1).transpose(1, 2),
            Creature::NestedBatchNorm => {
                let x = self.batch_norm(&x.transpose(1, 2), "outer.inner.first.", 0.1).transpose(1, 2);
                self.batch_norm(&x.tanh(), "outer.inner.second.", 0.3)
            }
            Creature::Centre => {
                if training {
                    self.put("mean", self.get("mean") * 0.5 + formulas::mean(x) * 0.5);
                }
                (x - self.get("mean")).sin()
            }
            Creature::Counting => {
                if training {
                    self.put("count", self.get("count") + 1);
                }
                x * self.get("gain") + (self.get("count") * 0.1).sin()
            }
            Creature::Queue => {
                let (queue, place) = (self.get("queue"), self.get("place").int64_value(&[]));
                let y = formulas::with_queue(x, &self.get("gain"), &queue);
                if training {
                    let mut rows = queue.unbind(0);
                    rows[place as usize] = formulas::mean(&y);
                    self.put("queue", Tensor::stack(&rows, 0));
                    self.put("place", Tensor::from((place + 1) % QUEUE));
                }
                y
            }
            Creature::SlowWeight => {
                let weight = self.get("weight");
                if training {
                    self.put("slow", self.get("slow").lerp(&weight.detach(), 0.3));
                }
                formulas::two_weights(x, &weight, &self.get("slow"))
            }
            Creature::MovedMean => {
                if training {
                    self.put("mean", self.get("mean") * 0.5 + formulas::mean(x) * 0.5);
                }
                (x - self.get("mean")).sin()
            }
            Creature::Identity => x.shallow_clone(),
            Creature::FastWeight => formulas::fast_weight(x, &self.get("weight")),
            Creature::DenseEmbedding | Creature::SparseEmbedding => {
                let sparse = creature == Creature::SparseEmbedding;
                x * 0.5 + Tensor::embedding(&self.get("weight"), &formulas::words(x), -1, false, sparse) * 0.3
            }
            Creature::SparseAndDense => formulas::sparse_and_dense(x, &self.get("table")),
            Creature::Forces => formulas::forces(x, &self.get("weight")),
            Creature::SlopePenalty => formulas::slope_penalty(x, &self.get("weight")),
            Creature::InnerSteps => formulas::inner_steps(x, &self.get("weight"), &self.get("gain")),
            Creature::OwnLeaf => formulas::own_leaf(x, &self.get("gain")),
            Creature::Chains => formulas::chains(x, &self.get("inner"), &self.get("outer"), &self.get("gain")),
            Creature::LowRank => formulas::low_rank(x, &self.get("weight"), &self.get("a"), &self.get("b")),
            Creature::SummedWeights => {
                formulas::summed_weights(x, &self.get("weight"), &self.get("other"), &self.get("gain"))
            }
            Creature::NormalisedWeight => formulas::normalised_weight(x, &self.get("weight"), &self.get("gain")),
            Creature::BiasedAttention => {
                let bias = formulas::distance_bias(&self.get("table"));
                formulas::attention(x, &self.get("weight"), &bias)
            }
            Creature::MaskedAttention => formulas::attention(x, &self.get("weight"), &formulas::causal_mask()),
            Creature::Rotary => {
                let turned = formulas::as_complex(&x.matmul(&self.get("weight"))) * formulas::rotations();
                x * 0.5 + formulas::as_real(&turned).tanh()
            }
            Creature::ComplexWeights => formulas::complex_weights(x, &self.get("weight"), &self.get("constant")),
            Creature::Experts => {
                let weights = [0, 1, 2, 3].map(|expert| self.get(&format!("{expert}.weight")));
                formulas::experts(x, &self.get("gate"), &weights)
            }
            Creature::Cache | Creature::CacheOfOneCall => {
                let kept = self.kept().filter(|_| creature == Creature::Cache || micro_batch > 0);
                let y = formulas::with_kept(x, &self.get("gain"), kept.as_ref());
                let keep = formulas::to_keep(&y, kept.as_ref());
                self.twin.kept.insert(self.path.clone(), keep);
                y
            }
            Creature::Twice => formulas::twice(x, &self.get("weight")),
            Creature::InPlaceView => formulas::in_place_view(x, &self.get("gain")),
            Creature::Cut => formulas::cut(x, &self.get("weight")),
            Creature::Dropout => panic!("dropout has no twin"),
        }
    }

    fn recurrent(&self, creature: Creature, x: &Tensor) -> Tensor {
        let names = ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"];
        let weights = names.map(|name| self.get(name));
        let start = Tensor::zeros([1, x.size()[0], WIDTH], (Kind::Float, x.device()));
        // This comes first, as in the layer: gradients are added in the reverse order, and the sum
        // gets the memory layout of the first one.
        let half = x * 0.5;
        let y = match creature {
            Creature::Lstm => {
                let weights: Vec<&Tensor> = weights.iter().collect();
                x.lstm(&[&start, &start], &weights, true, 1, 0., true, false, true).0
            }
            _ => x.gru(&start, &weights, true, 1, 0., true, false, true).0,
        };
        half + y
    }

    fn batch_norm(&mut self, x: &Tensor, prefix: &str, momentum: f64) -> Tensor {
        let name = |name: &str| format!("{prefix}{name}");
        let optional = |name: String| self.twin.variables.get(&format!("{}.{name}", self.path));
        let [weight, bias] = ["weight", "bias"].map(|own| optional(name(own)).map(Tensor::shallow_clone));
        let [mean, var] = ["running_mean", "running_var"].map(|own| self.get(&name(own)).copy());
        let y = Tensor::batch_norm(
            x,
            weight.as_ref(),
            bias.as_ref(),
            Some(&mean),
            Some(&var),
            self.twin.training,
            momentum,
            1e-5,
            true,
        );
        self.put(&name("running_mean"), mean);
        self.put(&name("running_var"), var);
        y
    }
}
