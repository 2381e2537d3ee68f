//! Advice for a pipeline, from its own trace.

use pipe_runtime::schedule::{Advice, Candidate, Costs, Skip};
use pipe_runtime::{Checkpoint, Devices, Pipe, PipeBuilder, pipeline};
use pipe_tests::compare::rows;
use pipe_tests::layers::{Merge, linear};
use tch::Tensor;
use tch::nn::Linear;

#[pipeline(chunks = 4)]
struct Net {
    #[device("cpu")]
    #[stash(early = output)]
    first: Linear,
    #[device("cpu")]
    second: Linear,
    #[device("cpu")]
    third: Linear,
    #[device("cpu")]
    #[pop(early)]
    merge: Merge,
    last: Linear,
}

fn net(set: impl FnOnce(PipeBuilder<'_, Net>) -> PipeBuilder<'_, Net>) -> Pipe<Net> {
    let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
    let net = Net {
        first: linear(vars.first(), 8, 8),
        second: linear(vars.second(), 8, 8),
        third: linear(vars.third(), 8, 8),
        merge: Merge,
        last: linear(vars.last(), 8, 8),
    };
    set(net.pipe(&vars)).build().unwrap()
}

fn trained(pipe: &mut Pipe<Net>) {
    let loss = |output: &Tensor, y: &Tensor| output.mse_loss(y, tch::Reduction::Mean);
    pipe.train_step(rows(16), rows(16), loss).unwrap();
}

/// Builds a pipeline with 4 micro-batches, and measures its costs.
fn measured() -> (Pipe<Net>, Costs) {
    let mut pipe = net(|pipe| pipe);
    trained(&mut pipe);
    pipe.start_trace();
    trained(&mut pipe);
    let costs = pipe.stop_trace().unwrap().costs();
    (pipe, costs)
}

fn best(advice: &Advice) -> &Candidate {
    advice.best.as_ref().unwrap()
}

#[test]
fn times_are_said_to_be_those_of_free_cores() {
    let _serial = pipe_tests::serial();
    let (pipe, costs) = measured();
    let advice = pipe.advise(&costs, None).unwrap();
    let cores = std::thread::available_parallelism().unwrap();
    let ranks = best(&advice).ranks;
    let each = if ranks == 1 { "1 rank on 1 free core" } else { &format!("{ranks} ranks on {ranks} free cores") };
    let line = format!("\ntime: that of {each}, of {cores} here; what else runs on them adds to it\n");
    assert!(advice.to_string().contains(&line), "{advice}");
}

#[test]
fn what_is_advised_can_be_written_and_run() {
    let _serial = pipe_tests::serial();
    let (pipe, costs) = measured();
    let advice = pipe.advise(&costs, None).unwrap();
    for candidate in &advice.fitting {
        assert!([2, 4, 8].contains(&candidate.micro_batches));
        assert_eq!(candidate.ranks * candidate.stages_per_rank, Net::STAGES);
        let Candidate { kind, ranks, micro_batches, checkpoint, .. } = *candidate;
        trained(&mut net(|pipe| pipe.schedule(kind).ranks(ranks).chunks(micro_batches).checkpoint(checkpoint)));
    }
    let text = advice.to_string();
    assert!(text.contains(&format!("\nwrite: {}\n", best(&advice).settings())), "{text}");
    assert!(text.contains(" ms per step in ") && text.contains("B of any memory"), "{text}");
}

#[test]
fn the_less_memory_the_more_is_recomputed() {
    let _serial = pipe_tests::serial();
    let (pipe, mut costs) = measured();
    for stage in &mut costs.stages {
        (stage.activation, stage.for_weights, stage.checkpoint, stage.parameters) = (1e6, 1e6, 1e3, 0.);
    }
    let of = |memory| pipe.advise(&costs, memory).unwrap();
    assert_eq!(best(&of(None)).checkpoint, Checkpoint::Never);
    let least = of(Some(0)).too_large.iter().map(|candidate| candidate.memory).fold(f64::INFINITY, f64::min);
    let tight = of(Some(least.ceil() as u64));
    assert_ne!(best(&tight).checkpoint, Checkpoint::Never);
    assert!(best(&tight).time >= best(&of(None)).time);
    let nothing = of(Some(0));
    assert_eq!(nothing.best, None);
    assert!(nothing.why().starts_with("nothing fits into 0 B: the smallest, "), "{}", nothing.why());
}

#[test]
fn costs_of_another_model_are_refused() {
    let _serial = pipe_tests::serial();
    let (pipe, mut costs) = measured();
    costs.skips.push(Skip { from: 3, to: 1, transfer: Default::default() });
    let error = pipe.advise(&costs, None).unwrap_err().to_string();
    assert!(error.contains("there is no skip from stage 3 to stage 1"), "{error}");
    let error = pipe.advise(&Costs::equal(3, 1., 1., 1.), None).unwrap_err().to_string();
    assert!(error.contains("the costs are of 3 stages and the model has 4"), "{error}");
}
