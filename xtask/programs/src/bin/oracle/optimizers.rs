//! Updates parameters by every optimizer and option, with gradients that Python can repeat to the
//! bit; also learning-rate schedules and loss scales.

use std::path::Path;

use anyhow::Result;
use pipe_runtime::optim::{Adam, AdamW, Group, LossScaler, LrSchedule, Rule, Sgd};
use pipe_runtime::{Checkpoints, Devices, Trainer, pipeline};
use serde_json::{Value, json};
use tch::nn::{self, Linear};
use tch::{Kind, Tensor};

const STEPS: i32 = 50;

/// Two layers on two stages. The second weight takes more than one piece.
#[pipeline]
struct Net {
    #[device("cpu")]
    first: Linear,
    #[device("cpu")]
    last: Linear,
}

struct Case {
    rule: Rule,
    kind: Kind,
    clip_norm: Option<f64>,
    clip_value: Option<f64>,
    no_decay: bool,
}

fn case(rule: impl Into<Rule>) -> Case {
    Case { rule: rule.into(), kind: Kind::Float, clip_norm: None, clip_value: None, no_decay: false }
}

fn cases() -> Vec<Case> {
    let adamw = AdamW { lr: 0.01, ..AdamW::default() };
    let adam = Adam { lr: 0.01, ..Adam::default() };
    let sgd = Sgd { lr: 0.01, ..Sgd::default() };
    let mut cases = vec![
        case(adamw),
        case(AdamW { weight_decay: 0., ..adamw }),
        case(AdamW { betas: (0.8, 0.95), eps: 1e-4, weight_decay: 0.3, ..adamw }),
        case(AdamW { amsgrad: true, ..adamw }),
        case(AdamW { maximize: true, ..adamw }),
        case(adam),
        case(Adam { weight_decay: 0.1, ..adam }),
        case(Adam { betas: (0., 0.9), amsgrad: true, ..adam }),
        case(Adam { maximize: true, weight_decay: 0.1, ..adam }),
        case(sgd),
        case(Sgd { weight_decay: 0.1, ..sgd }),
        case(Sgd { momentum: 0.9, ..sgd }),
        case(Sgd { momentum: 0.9, dampening: 0.3, weight_decay: 0.1, ..sgd }),
        case(Sgd { momentum: 0.9, nesterov: true, ..sgd }),
        case(Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.1, maximize: true, ..sgd }),
        Case { clip_norm: Some(0.5), ..case(adamw) },
        Case { clip_norm: Some(1e6), ..case(adamw) },
        Case { clip_value: Some(0.01), ..case(Sgd { momentum: 0.5, ..sgd }) },
        Case { no_decay: true, ..case(AdamW { weight_decay: 0.2, ..adamw }) },
    ];
    for kind in [Kind::Double, Kind::BFloat16, Kind::Half] {
        cases.push(Case { kind, ..case(adamw) });
        cases.push(Case { kind, ..case(Sgd { momentum: 0.9, ..sgd }) });
    }
    cases
}

/// Runs all cases. Each has a file of the first parameters and the gradients, and a checkpoint.
pub fn all(folder: &Path) -> Result<Value> {
    let cases = cases().into_iter().enumerate();
    let cases = cases.map(|(number, case)| case.run(folder, number)).collect::<Result<Vec<_>>>()?;
    Ok(json!({ "cases": cases, "schedules": schedules(), "scales": scales()? }))
}

impl Case {
    fn run(&self, folder: &Path, number: usize) -> Result<Value> {
        let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
        let net = Net {
            first: nn::linear(vars.first(), 7, 520, Default::default()),
            last: nn::linear(vars.last(), 520, 520, Default::default()),
        };
        let named = vars.select("*")?;
        let mut record = Vec::new();
        for (name, variable) in &named {
            variable.shallow_clone().set_data(&variable.detach().to_kind(self.kind));
            record.push((format!("start/{name}"), variable.detach().copy()));
        }
        let gradients: Vec<_> = named
            .iter()
            .map(|(_, variable)| (variable.detach().to_kind(Kind::Float).randn_like() * 0.1).to_kind(self.kind))
            .collect();
        record.extend(
            named.iter().zip(&gradients).map(|((name, _), gradient)| (format!("gradient/{name}"), gradient.copy())),
        );
        let file = format!("optimizer-{number}.safetensors");
        Tensor::write_safetensors(&record, folder.join(&file))?;

        let pipe = net.pipe(&vars).build()?;
        let mut optimizer = pipe.optimizer(self.rule);
        if let Some(norm) = self.clip_norm {
            optimizer = optimizer.clip_norm(norm);
        }
        if let Some(value) = self.clip_value {
            optimizer = optimizer.clip_value(value);
        }
        if self.no_decay {
            optimizer = optimizer.group(Group::biases_and_norms().weight_decay(0.));
        }
        let mut optimizer = optimizer.build()?;
        let mut norms = Vec::new();
        for step in 0..STEPS {
            // Powers of two, so that every kind has these gradients to the bit.
            let factor = 0.5_f64.powi(step % 5) * if step % 3 == 0 { -1. } else { 1. };
            for ((_, variable), gradient) in named.iter().zip(&gradients) {
                (variable * (gradient * factor)).sum(self.kind).backward();
            }
            norms.push(optimizer.step()?.norm);
            optimizer.zero_grad()?;
        }
        let checkpoints = folder.join(format!("optimizer-{number}"));
        if checkpoints.exists() {
            std::fs::remove_dir_all(&checkpoints)?;
        }
        Checkpoints::in_folder(&checkpoints).save(&Trainer::new(pipe, optimizer)?)?;
        Ok(json!({
            "file": file,
            "checkpoint": format!("optimizer-{number}/step-0000000000"),
            "rule": format!("{:?}", self.rule).split('(').next(),
            "options": options(&self.rule),
            "kind": format!("{:?}", self.kind),
            "steps": STEPS,
            "clip_norm": self.clip_norm,
            "clip_value": self.clip_value,
            "no_decay": self.no_decay,
            "norms": norms,
        }))
    }
}

/// The options by their names in torch.
fn options(rule: &Rule) -> Value {
    match *rule {
        Rule::Adam(Adam { lr, betas, eps, weight_decay, amsgrad, maximize })
        | Rule::AdamW(AdamW { lr, betas, eps, weight_decay, amsgrad, maximize }) => json!({
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad, "maximize": maximize,
        }),
        Rule::Sgd(Sgd { lr, momentum, dampening, weight_decay, nesterov, maximize }) => json!({
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
            "nesterov": nesterov, "maximize": maximize,
        }),
        _ => unreachable!("all rules are listed"),
    }
}

/// For each schedule, the factors of the first 40 updates.
fn schedules() -> Value {
    let factors = |schedule: LrSchedule| (0..40).map(|updates| schedule.factor(updates)).collect::<Vec<_>>();
    json!({
        "linear": factors(LrSchedule::linear(20, 0.1)),
        "cosine": factors(LrSchedule::cosine(30, 0.2)),
        "one_cycle": factors(LrSchedule::one_cycle(40)),
        "step": factors(LrSchedule::step(7, 0.3)),
        "exponential": factors(LrSchedule::exponential(0.9)),
        "warmup_and_cosine": factors(LrSchedule::cosine(20, 0.).warmup(8)),
    })
}

/// The loss scale after each of some updates, of which those at multiples of 7 overflow.
fn scales() -> Result<Value> {
    let vars = Net::vars(&Devices::cpu(Net::STAGES))?;
    let net = Net {
        first: nn::linear(vars.first(), 2, 2, Default::default()),
        last: nn::linear(vars.last(), 2, 2, Default::default()),
    };
    let pipe = net.pipe(&vars).build()?;
    let mut optimizer = pipe.optimizer(Sgd::default()).build()?;
    let mut scaler = LossScaler::default().growth(3., 4).backoff(0.25);
    let weight = &vars.select("first.weight")?[0].1;
    let mut scales = Vec::new();
    for step in 0..30 {
        let factor = if step % 7 == 0 { f64::INFINITY } else { scaler.scale() };
        (weight * factor).sum(Kind::Float).backward();
        optimizer.step_scaled(&mut scaler)?;
        optimizer.zero_grad()?;
        scales.push(scaler.scale());
    }
    Ok(json!(scales))
}
