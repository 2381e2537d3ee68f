//! Small cases, computed by hand: transfers, memory, recomputation.

use pipe_schedule::{Costs, Schedule, ScheduleKind, Simulation, SimulationError, Skip, StageCosts, Transfer, simulate};

fn two_stages() -> Costs {
    let stage = StageCosts {
        forward: 2.,
        backward_input: 3.,
        backward_weight: 4.,
        recompute: 1.,
        activation: 10.,
        for_weights: 6.,
        checkpoint: 1.,
        forward_working: 0.,
        backward_working: 0.,
        input_working: 0.,
        weight_working: 0.,
        parameters: 100.,
        gradients: 0.,
    };
    Costs { stages: vec![stage; 2], boundaries: vec![Transfer::default()], skips: vec![] }
}

fn run(text: &str, costs: &Costs) -> Simulation {
    simulate(&text.parse::<Schedule>().unwrap(), costs).unwrap()
}

fn times(simulation: &Simulation, rank: usize) -> Vec<(f64, f64)> {
    simulation.ranks[rank].iter().map(|span| (span.start, span.end)).collect()
}

#[test]
fn an_action_starts_when_its_rank_is_free_and_what_it_needs_is_there() {
    let simulation = run("0F0,0B0\n1F0,1I0,1W0", &two_stages());
    assert_eq!(times(&simulation, 0), [(0., 2.), (7., 14.)]);
    assert_eq!(times(&simulation, 1), [(2., 4.), (4., 7.), (7., 11.)]);
    assert_eq!(
        (simulation.makespan, simulation.idle(0), simulation.idle_within(1), simulation.period()),
        (14., 5., 0., 14.)
    );
}

#[test]
fn a_transfer_takes_its_time_and_one_goes_after_the_other() {
    let mut costs = two_stages();
    costs.boundaries[0].time = 5.;
    let simulation = run("0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1", &costs);
    // The second output is ready at 4 and leaves at 7, when the first one has arrived.
    assert_eq!(times(&simulation, 1), [(7., 9.), (12., 14.), (14., 21.), (21., 28.)]);
    assert_eq!(times(&simulation, 0)[2..], [(26., 33.), (33., 40.)]);
}

#[test]
fn between_stages_of_one_rank_nothing_is_transferred() {
    let mut costs = two_stages();
    costs.boundaries[0] = Transfer { time: 5., size: 3., gradient: 3. };
    let simulation = run("0F0,1F0,1B0,0B0", &costs);
    assert_eq!(times(&simulation, 0), [(0., 2.), (2., 4.), (4., 11.), (11., 18.)]);
}

#[test]
fn a_skip_arrives_after_the_output_and_takes_its_way_back() {
    let mut costs = Costs::equal(3, 1., 1., 1.);
    costs.boundaries.iter_mut().for_each(|boundary| boundary.time = 1.);
    costs.skips.push(Skip { from: 0, to: 2, transfer: Transfer { time: 9., size: 7., gradient: 7. } });
    let simulation = run("0F0,0B0\n1F0,1B0\n2F0,2B0", &costs);
    assert_eq!(times(&simulation, 2), [(10., 11.), (11., 13.)]);
    assert_eq!(times(&simulation, 0)[1], (22., 24.));
    // The value waits on the rank that made it, in addition to the activation. Its gradient waits
    // on the rank that made the gradient.
    assert_eq!(simulation.memory, [8., 1., 7.]);
    assert_eq!(simulation.in_transit, [1]);
}

#[test]
fn a_split_backward_holds_its_part_until_the_end() {
    let costs = two_stages();
    // 100 for the parameters, and 10 per micro-batch in flight, of which 6 remain after the
    // backward for the inputs.
    assert_eq!(run("0F0,0B0,0F1,0B1\n1F0,1B0,1F1,1B1", &costs).memory, [110., 110.]);
    assert_eq!(run("0F0,0F1,0B0,0B1\n1F0,1F1,1B0,1B1", &costs).memory, [120., 120.]);
    assert_eq!(run("0F0,0I0,0F1,0I1,0W0,0W1\n1F0,1I0,1F1,1W0,1I1,1W1", &costs).memory, [116., 116.]);
}

#[test]
fn what_is_recomputed_holds_little_until_then() {
    let costs = two_stages();
    let recomputed = ScheduleKind::GPipe.schedule(2, 1, 4).unwrap().with_recompute(|_, i| i < 3);
    let simulation = simulate(&recomputed, &costs).unwrap();
    // Three of four are held as checkpoints; the fourth, or one that was recomputed, is held as a
    // whole.
    assert_eq!(simulation.memory, [113., 113.]);
    assert_eq!(simulation.busy(0), 4. * 9. + 3.);
    // A recomputation does not wait for the gradient. There is none where the backward comes right
    // after its forward.
    let simulation =
        simulate(&ScheduleKind::OneFOneB.schedule(2, 1, 2).unwrap().with_recompute(|_, _| true), &costs).unwrap();
    let ends = times(&simulation, 0);
    assert_eq!(ends.len(), 6);
    assert_eq!(ends[2], (4., 5.), "{ends:?}");
    assert_eq!(times(&simulation, 1).len(), 4);
}

#[test]
fn outputs_and_gradients_wait_where_they_are_needed() {
    let mut costs = Costs::equal(2, 1., 1., 1.);
    (costs.boundaries[0].size, costs.boundaries[0].gradient) = (5., 5.);
    // Rank 1 works on the first of three outputs while the other two arrive; no gradient waits
    // long.
    let simulation = run("0F0,0F1,0F2,0B0,0B1,0B2\n1F0,1B0,1F1,1B1,1F2,1B2", &costs);
    assert_eq!(simulation.memory, [3., 11.]);
}

#[test]
fn what_cannot_be_simulated_says_why() {
    let schedule: Schedule = "0B0,0F0\n1F0,1B0".parse().unwrap();
    assert!(matches!(simulate(&schedule, &two_stages()), Err(SimulationError::Deadlock(_))));
    let error = simulate(&schedule, &Costs::equal(3, 1., 1., 1.)).unwrap_err();
    assert_eq!(error.to_string(), "the schedule has 2 stages and the costs are for 3, with 2 boundaries between them");
    let error = simulate(&schedule, &two_stages().with_skip(1, 0)).unwrap_err();
    assert!(matches!(error, SimulationError::Skip { from: 1, to: 0, stages: 2 }));
}
