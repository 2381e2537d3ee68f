//! Variables: their names do not depend on the partitioning, their files work for other
//! partitionings and for plain models, and an optimizer covers all of them. They are frozen by
//! name.

use pipe_runtime::{Devices, pipeline};
use pipe_tests::compare::rows;
use pipe_tests::layers::linear;
use tch::nn::{self, Linear, ModuleT, OptimizerConfig, VarStore};
use tch::{Device, Kind, Tensor};

#[pipeline]
struct Block {
    #[layer(name = "lin")]
    linear: Linear,
    norm: nn::LayerNorm,
}

fn block(vars: BlockVars<'_>) -> Block {
    Block { linear: linear(vars.linear(), 8, 8), norm: nn::layer_norm(vars.norm(), vec![8], Default::default()) }
}

macro_rules! net {
    ($name:ident, $vars:ident, $spread:meta) => {
        #[pipeline]
        struct $name {
            #[device("cpu")]
            embed: Linear,
            #[$spread]
            blocks: [Block; 3],
            #[device("cpu")]
            #[layer(name = "out")]
            head: Linear,
        }

        impl $name {
            fn make(seed: i64) -> (Self, $vars) {
                tch::manual_seed(seed);
                let vars = $name::vars(&Devices::cpu($name::STAGES)).unwrap();
                let model = $name {
                    embed: linear(vars.embed(), 8, 8),
                    blocks: vars.blocks().map(|path| block(Block::vars_at(path))),
                    head: linear(vars.head(), 8, 2),
                };
                (model, vars)
            }
        }
    };
}

net!(Together, TogetherVars, repeat);
net!(Spread, SpreadVars, devices("cpu", "cpu", "cpu"));

/// Creates the same model in plain tch.
fn plain(store: &VarStore) -> nn::SequentialT {
    let root = store.root();
    let mut net = nn::seq_t().add(linear(root.sub("embed"), 8, 8));
    for index in 0..3 {
        let path = root.sub("blocks").sub(index);
        net = net.add(linear(path.sub("lin"), 8, 8)).add(nn::layer_norm(path.sub("norm"), vec![8], Default::default()));
    }
    net.add(linear(root.sub("out"), 8, 2))
}

fn names(vars: &VarStore) -> Vec<String> {
    let mut names: Vec<_> = vars.variables().into_keys().collect();
    names.sort();
    names
}

#[test]
fn names_are_those_of_the_plain_model_for_every_partitioning() {
    let _serial = pipe_tests::serial();
    let store = VarStore::new(Device::Cpu);
    let _plain = plain(&store);
    let (_, together) = Together::make(1);
    let (_, spread) = Spread::make(1);
    assert_eq!((Together::STAGES, Spread::STAGES), (2, 5));
    assert_eq!(names(together.var_store()), names(&store));
    assert_eq!(names(spread.var_store()), names(&store));
}

#[test]
fn a_file_moves_between_partitionings_and_to_the_plain_model() {
    let _serial = pipe_tests::serial();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let x = rows(6);

    let (model, vars) = Together::make(1);
    vars.save(&file).unwrap();
    let expected = model.pipe(&vars).chunks(2).build().unwrap().forward(&x).unwrap();

    let (model, vars) = Spread::make(2);
    vars.load(&file).unwrap();
    assert_eq!(model.pipe(&vars).chunks(2).build().unwrap().forward(&x).unwrap(), expected);

    let mut store = VarStore::new(Device::Cpu);
    let net = plain(&store);
    store.load(&file).unwrap();
    assert!(net.forward_t(&x, true).allclose(&expected, 1e-6, 1e-6, false));

    tch::no_grad(|| store.trainable_variables().iter_mut().for_each(|tensor| drop(tensor.f_add_scalar_(0.5).unwrap())));
    let back = folder.path().join("plain.safetensors");
    store.save(&back).unwrap();
    let (model, vars) = Together::make(3);
    vars.load(&back).unwrap();
    let found = model.pipe(&vars).chunks(1).build().unwrap().forward(&x).unwrap();
    assert_eq!(found, net.forward_t(&x, true));
}

#[test]
fn a_file_that_does_not_fit_is_named_and_changes_nothing() {
    let _serial = pipe_tests::serial();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("other.safetensors");
    let one = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, Device::Cpu));
    Tensor::write_safetensors(&[("embed.weight", one(&[8, 8])), ("out.bias", one(&[3])), ("extra", one(&[1]))], &file)
        .unwrap();
    let (_, vars) = Together::make(1);
    let before = vars.var_store().variables()["embed.weight"].copy();
    let error = vars.load(&file).unwrap_err().to_string();
    for part in ["`out.bias` has shape [3], the model wants [2]", "`out.weight` is missing", "the model has no `extra`"]
    {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(vars.var_store().variables()["embed.weight"], before);
    let error = vars.load(folder.path().join("nowhere.safetensors")).unwrap_err().to_string();
    assert!(error.contains("cannot read") && error.contains("nowhere.safetensors"), "{error}");
    std::fs::write(&file, "not safetensors").unwrap();
    assert!(vars.load(&file).unwrap_err().to_string().contains("cannot read"));
}

#[test]
fn every_tch_optimizer_trains_the_stages() {
    let _serial = pipe_tests::serial();
    let steps = |optimizer: &dyn Fn(&VarStore) -> nn::Optimizer| {
        let (model, vars) = Spread::make(1);
        let mut optimizer = optimizer(vars.var_store());
        let mut pipe = model.pipe(&vars).chunks(2).build().unwrap();
        let (x, target) = (rows(6), rows(6).narrow(1, 0, 2));
        let mut losses = Vec::new();
        for _ in 0..20 {
            let loss = pipe.forward(&x).unwrap().mse_loss(&target, tch::Reduction::Mean);
            optimizer.backward_step(&loss);
            losses.push(f64::try_from(loss).unwrap());
        }
        (losses[0], losses[19])
    };
    let optimizers: [&dyn Fn(&VarStore) -> nn::Optimizer; 4] = [
        &|vars| nn::Sgd::default().build(vars, 1e-2).unwrap(),
        &|vars| nn::Adam::default().build(vars, 1e-2).unwrap(),
        &|vars| nn::AdamW::default().build(vars, 1e-2).unwrap(),
        &|vars| nn::RmsProp::default().build(vars, 1e-3).unwrap(),
    ];
    for optimizer in optimizers {
        let (first, last) = steps(optimizer);
        assert!(last < first, "{first} -> {last}");
    }
}

#[test]
fn frozen_variables_are_selected_by_name_or_pattern() {
    let _serial = pipe_tests::serial();
    let (model, vars) = Spread::make(1);
    let trained = || {
        let mut names: Vec<_> = vars.var_store().variables().into_iter().collect();
        names.retain(|(_, variable)| variable.requires_grad());
        names.len()
    };
    let mut optimizer = nn::Sgd::default().build(vars.var_store(), 0.1).unwrap();
    let mut pipe = model.pipe(&vars).chunks(2).build().unwrap();
    let mut step = || {
        pipe.train_step(rows(4), rows(4), |y, x: &Tensor| (y.sum(Kind::Float) - x).square().mean(Kind::Float)).unwrap();
        optimizer.step();
    };
    // The gradients stay: a frozen variable would be changed by them once more.
    step();
    let values =
        |pattern: &str| vars.select(pattern).unwrap().into_iter().map(|(_, value)| value.copy()).collect::<Vec<_>>();
    assert_eq!(vars.freeze("blocks.1").unwrap(), 4);
    assert_eq!(vars.freeze("*.bias").unwrap(), 8);
    assert_eq!(trained(), 16 - 4 - 8 + 2);
    let frozen = (values("blocks.1"), values("*.bias"));
    let others = values("blocks.0.*.weight");
    step();
    assert_eq!((values("blocks.1"), values("*.bias")), frozen);
    assert!(values("blocks.0.*.weight").iter().zip(&others).all(|(now, before)| now != before));

    assert_eq!(vars.unfreeze("*").unwrap(), 16);
    step();
    assert!(values("blocks.1").iter().zip(&frozen.0).all(|(now, before)| now != before));
    let names: Vec<_> = vars.select("blocks.2.lin").unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["blocks.2.lin.bias", "blocks.2.lin.weight"]);
    let error = vars.freeze("bloks").unwrap_err().to_string();
    assert_eq!(error, "no variable is selected by `bloks`: did you mean `blocks`?");
}

#[test]
fn statistics_are_not_unfrozen() {
    let _serial = pipe_tests::serial();
    let vars = Normed::vars(&Devices::cpu(Normed::STAGES)).unwrap();
    let _model = Normed { norm: nn::batch_norm1d(vars.norm(), 4, Default::default()), head: linear(vars.head(), 4, 4) };
    assert_eq!(vars.freeze("norm").unwrap(), 4);
    assert_eq!(vars.unfreeze("norm").unwrap(), 2);
    let error = vars.unfreeze("norm.running_*").unwrap_err().to_string();
    assert_eq!(error, "`norm.running_*` selects no variable that is made to be trained");
}

#[pipeline]
struct Normed {
    #[device("cpu")]
    norm: nn::BatchNorm,
    #[device("cpu")]
    head: Linear,
}
