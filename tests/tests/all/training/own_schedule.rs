//! Custom schedules: valid ones train like the unpipelined run, and others are refused with the
//! validator's message.

#[path = "../../../../pipe-runtime/schedule/tests/any_schedule/mod.rs"]
mod any_schedule;

use pipe_runtime::schedule::Builder;
use pipe_runtime::{Checkpoint, Devices, PipeBuilder, Schedule, ScheduleChoice, ScheduleKind, pipeline};
use pipe_tests::compare::{gradients, mse as loss, rows};
use pipe_tests::layers::{Merge, dropout, linear};
use proptest::prelude::*;
use proptest::sample::Index;
use tch::Tensor;
use tch::nn::{FuncT, Linear};

#[pipeline]
struct Net {
    #[device("cpu")]
    #[stash(early = output)]
    first: Linear,
    drop: FuncT<'static>,
    #[device("cpu")]
    second: Linear,
    #[device("cpu")]
    third: Linear,
    #[device("cpu")]
    #[pop(early)]
    merge: Merge,
    last: Linear,
}

/// Creates the model, its variables, inputs and targets, from a fixed seed.
fn net() -> (Net, NetVars, [Tensor; 2]) {
    tch::manual_seed(1);
    let vars = Net::vars(&Devices::cpu(Net::STAGES)).unwrap();
    let net = Net {
        first: linear(vars.first(), 8, 8),
        drop: dropout(0.3),
        second: linear(vars.second(), 8, 8),
        third: linear(vars.third(), 8, 8),
        merge: Merge,
        last: linear(vars.last(), 8, 8),
    };
    (net, vars, [rows(12), rows(12)])
}

/// Runs a step, and returns the gradients.
fn step(set: impl FnOnce(PipeBuilder<'_, Net>) -> PipeBuilder<'_, Net>) -> pipe_runtime::Result<Vec<Tensor>> {
    let (net, vars, [x, y]) = net();
    let mut pipe = set(net.pipe(&vars).intra_op_threads(1)).build()?;
    tch::manual_seed(2);
    pipe.train_step(&x, &y, loss)?;
    Ok(gradients(&vars))
}

fn unpipelined(chunks: usize) -> Vec<Tensor> {
    let (net, vars, [x, y]) = net();
    tch::manual_seed(2);
    let output = net.unpipelined().chunks(chunks).intra_op_threads(1).forward(&x).unwrap();
    let chunks = chunks as i64;
    let parts = output.chunk(chunks, 0).into_iter().zip(y.chunk(chunks, 0));
    let whole: Tensor = parts.map(|(output, y)| loss(&output, &y) * (output.size()[0] as f64 / 12.)).sum();
    whole.backward();
    gradients(&vars)
}

fn near(found: &[Tensor], expected: &[Tensor]) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| a.allclose(b, 1e-5, 1e-6, false))
}

/// Returns the error of building a pipeline with these lists.
fn refused(lists: &str) -> String {
    let _serial = pipe_tests::serial();
    let (net, vars, _) = net();
    let schedule: Schedule = lists.parse().unwrap();
    net.pipe(&vars).schedule(schedule).build().unwrap_err().to_string()
}

const VALID: &str = "0F0,0F1,1F0,1F1,1B0,0B0,1I1,0B1,1W1\n2F0,3F0,3B0,2B0,2F1,3F1,3I1,2B1,3W1";

#[test]
fn a_list_that_is_written_by_hand_trains_as_unpipelined() {
    let _serial = pipe_tests::serial();
    let found = step(|pipe| pipe.schedule(VALID.parse::<Schedule>().unwrap())).unwrap();
    assert!(near(&found, &unpipelined(2)));
    let mut builder = Builder::new(1);
    let mut rank = builder.rank(0);
    for action in VALID.parse::<Schedule>().unwrap().order().unwrap().steps {
        rank = rank.push(action.action);
    }
    let found = step(|pipe| pipe.schedule(builder.build())).unwrap();
    assert!(near(&found, &unpipelined(2)));
}

#[test]
fn a_published_schedule_as_text_changes_no_bit() {
    let _serial = pipe_tests::serial();
    for method in ScheduleKind::ALL {
        let per_rank = method.stages_per_rank().unwrap_or(2);
        let text = method.schedule(4 / per_rank, per_rank, 6).unwrap().to_csv();
        let own = step(|pipe| pipe.schedule(text.parse::<Schedule>().unwrap())).unwrap();
        let published = step(|pipe| pipe.schedule(method).ranks(4 / per_rank).chunks(6)).unwrap();
        assert_eq!(own, published, "{method}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// The lists have any placement, any order, a mix of whole and split backwards, and
    /// recomputations anywhere.
    #[test]
    fn any_valid_lists_train_as_unpipelined(
        placement in prop::array::uniform4(0..4_usize),
        micro_batches in prop::sample::select(vec![1, 2, 3, 4, 6]),
        styles in prop::collection::vec(0..4_u8, 1..12),
        choices in prop::collection::vec(any::<Index>(), 1..60),
        checkpointed in any::<bool>(),
    ) {
        let _serial = pipe_tests::serial();
        let mut ranks = placement.to_vec();
        ranks.sort_unstable();
        ranks.dedup();
        let rank_of = placement.map(|rank| ranks.iter().position(|&other| other == rank).unwrap());
        let styles: Vec<_> = styles.into_iter().map(|style| if checkpointed { style } else { style & 2 }).collect();
        let schedule = any_schedule::schedule(&rank_of, micro_batches, &styles, &choices);
        let mode = if checkpointed { Checkpoint::Always } else { Checkpoint::Never };
        let found = step(|pipe| pipe.schedule(schedule.clone()).checkpoint(mode)).unwrap();
        let expected = unpipelined(micro_batches);
        let far: Vec<_> = found.iter().zip(&expected).map(|(a, b)| f64::try_from((a - b).abs().max()).unwrap()).collect();
        prop_assert!(near(&found, &expected), "{far:?}\n{}", schedule.to_csv());
    }
}

#[test]
fn damaged_lists_are_refused_in_the_validators_words() {
    assert!(refused(&VALID.replace(",0B0", "")).contains("`0B0` is missing: every micro-batch goes backward"));
    assert!(refused(&VALID.replace("0F0,0F1", "0F0,0F1,0F0")).contains("`0F0` is done twice"));
    assert!(refused(&VALID.replace("1I1,0B1,1W1", "1W1,0B1,1I1")).contains("`1W1` comes before `1I1`"));
    assert!(refused(&VALID.replace("1B0,0B0", "0B0,1B0")).contains("these wait for each other"));
    assert!(refused(&VALID.replace('\n', "\n\n")).contains("rank 1 has 0 stages and needs 1"));
    assert!(refused("0F0,0B0").contains("the schedule has 1 stages and the model has 4"));
}

#[test]
fn the_number_of_micro_batches_is_the_lists_own() {
    let _serial = pipe_tests::serial();
    let own = || VALID.parse::<Schedule>().unwrap();
    let error = step(|pipe| pipe.schedule(own()).chunks(3)).unwrap_err().to_string();
    assert!(error.contains("the schedule is for 2 micro-batches, and chunks is 3"), "{error}");

    let (net, vars, [x, y]) = net();
    let mut pipe = net.pipe(&vars).schedule(own()).build().unwrap();
    assert_eq!((pipe.chunks(), pipe.schedule()), (2, &ScheduleChoice::from(own())));
    let one = |tensor: &Tensor| tensor.narrow(0, 0, 1);
    // A mini-batch with fewer micro-batches skips the actions of the missing ones.
    pipe.train_step(one(&x), one(&y), loss).unwrap();
    pipe.train_step(&x, &y, loss).unwrap();

    let error = pipe.forward(&x).unwrap_err().to_string();
    assert!(error.contains("built for a custom schedule: use `train_step`"), "{error}");
    assert_eq!(tch::no_grad(|| pipe.forward(&x)).unwrap().size(), [12, 8]);
}

#[test]
fn ranks_are_those_of_the_lists() {
    let _serial = pipe_tests::serial();
    let own = || VALID.parse::<Schedule>().unwrap();
    let error = step(|pipe| pipe.schedule(own()).ranks(4)).unwrap_err().to_string();
    assert!(error.contains("lists for 2 ranks, and 4 were asked for"), "{error}");
    assert!(step(|pipe| pipe.schedule(own()).ranks(2)).is_ok());
}

#[test]
fn recomputations_are_those_of_the_checkpoint_mode() {
    let _serial = pipe_tests::serial();
    // The lists recompute the last micro-batch early. The mode recomputes the first one.
    let early = || VALID.replace("2F1,3F1,3I1", "2F1,2R1,3F1,3I1").parse::<Schedule>().unwrap();
    let found = step(|pipe| pipe.schedule(early()).checkpoint(Checkpoint::Always)).unwrap();
    assert!(near(&found, &unpipelined(2)));
    let error = step(|pipe| pipe.schedule(early()).checkpoint(Checkpoint::ExceptLast)).unwrap_err().to_string();
    assert!(error.contains("the schedule has `2R1`, but checkpoint = except_last does not"), "{error}");

    // In evaluation mode nothing is checkpointed, whatever the lists say.
    let (net, vars, [x, y]) = net();
    let mut pipe = net.pipe(&vars).schedule(early()).checkpoint(Checkpoint::Always).build().unwrap();
    pipe.eval();
    pipe.train_step(&x, &y, loss).unwrap();
    assert!(gradients(&vars).iter().all(Tensor::defined));
}

#[test]
fn an_optional_method_is_a_schedule_too() {
    let _serial = pipe_tests::serial();
    let chosen = |method: Option<ScheduleKind>| {
        let (net, vars, _) = net();
        let pipe = net.pipe(&vars).schedule(method).build().unwrap();
        pipe.schedule().to_string()
    };
    assert_eq!((chosen(None), chosen(Some(ScheduleKind::OneFOneB))), ("gpipe".to_owned(), "1f1b".to_owned()));
}
