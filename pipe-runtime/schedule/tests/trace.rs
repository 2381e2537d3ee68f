//! Traces of runs that are made up, so that their times are known.

use pipe_schedule::{Costs, Run, Schedule, ScheduleKind, SimulationError, Timeline, Trace, TracedStep, simulate};

/// A run that takes exactly the simulated times, starting at `at`, on `threads` threads.
fn run(schedule: &Schedule, costs: &Costs, at: f64, threads: usize) -> Run {
    let simulation = simulate(schedule, costs).unwrap();
    let of_rank = |(rank, list): (usize, &Vec<_>)| {
        let step = |span: &pipe_schedule::Span| TracedStep {
            action: span.action,
            rank,
            thread: rank % threads,
            start: at + span.start,
            end: at + span.end,
        };
        list.iter().map(step).collect::<Vec<_>>()
    };
    let mut steps: Vec<_> = simulation.ranks.iter().enumerate().flat_map(of_rank).collect();
    steps.sort_by(|a, b| a.end.total_cmp(&b.end));
    Run { schedule: schedule.clone(), steps }
}

fn trace(schedule: &Schedule, costs: &Costs, threads: usize) -> Trace {
    Trace::new(vec![run(schedule, costs, 3., threads)], costs.clone()).unwrap()
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn costs_that_were_measured_simulate_to_what_ran() {
    for kind in ScheduleKind::ALL {
        let per_rank = kind.stages_per_rank().unwrap_or(2);
        let schedule = kind.schedule(3, per_rank, 6).unwrap().with_recompute(|_, i| i < 5);
        let mut costs = Costs::equal(3 * per_rank, 1., 1.5, 1.5).with_skip(0, 2);
        costs.stages[1].forward = 4.;
        costs.stages[1].recompute = 5.;
        (costs.skips[0].transfer.size, costs.skips[0].transfer.gradient) = (7., 7.);
        let trace = trace(&schedule, &costs, 3);
        let (simulated, ran) = (trace.simulated().unwrap(), trace.typical().timeline());
        assert!(near(simulated.makespan, ran.makespan) && near(simulated.efficiency(), ran.efficiency()), "{kind}");
        assert!((0..3).all(|rank| near(simulated.idle(rank), ran.idle(rank))), "{kind}");
        assert_eq!(trace.costs().skips, costs.skips);
    }
}

#[test]
fn the_typical_run_is_a_whole_one_of_median_length() {
    let schedule = ScheduleKind::OneFOneB.schedule(2, 1, 2).unwrap();
    let of = |factor: f64| run(&schedule, &Costs::equal(2, factor, factor, factor), 0., 2);
    let forward_alone = run(&schedule.forward(), &Costs::equal(2, 50., 1., 1.), 0., 2);
    let runs = vec![of(9.), of(1.), forward_alone, of(2.)];
    let trace = Trace::new(runs, Costs::equal(2, 0., 0., 0.)).unwrap();
    assert_eq!(trace.typical(), &trace.runs()[3]);
    assert_eq!(Trace::new(Vec::new(), Costs::equal(2, 0., 0., 0.)), None);
}

#[test]
fn it_prints_measured_above_simulated_on_one_axis() {
    let schedule: Schedule = "0F0,0F1,0B0,0B1\n1F0,1I0,1W0,1F1,1B1".parse().unwrap();
    let costs = Costs::equal(2, 1e-3, 1e-3, 1e-3);
    let mut late = run(&schedule, &costs, 3., 1);
    // The last step was delayed.
    let last = late.steps.iter_mut().max_by(|a, b| a.end.total_cmp(&b.end)).unwrap();
    (last.start, last.end) = (last.start + 2e-3, last.end + 2e-3);
    let late = Trace::new(vec![late], costs).unwrap();
    assert_eq!(
        late.to_string(),
        "\
measured: 11.00 ms, 55 % of it work, 2 ranks on 1 thread
rank 0  F0-------F1------.........B0----------------...................................B1---------------  idle 45 %
rank 1  .........F0------I0-------W0-------F1-------B1---------------...................................  idle 45 %
simulated from the measured costs: 9.00 ms, 67 % of it work
rank 0  F0-------F1------.........B0----------------.................B1----------------                   idle 33 %
rank 1  .........F0------I0-------W0-------F1-------B1---------------..................                   idle 33 %
"
    );
}

#[test]
fn chromes_events_have_microseconds() {
    let schedule: Schedule = "0F0,0B0".parse().unwrap();
    let trace = trace(&schedule, &Costs::equal(1, 1e-3, 1e-3, 1e-3), 1);
    assert_eq!(
        trace.to_chrome(),
        "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n\
         {\"ph\":\"M\",\"pid\":0,\"name\":\"process_name\",\"args\":{\"name\":\"pipeline\"}},\n\
         {\"ph\":\"M\",\"pid\":0,\"tid\":0,\"name\":\"thread_name\",\"args\":{\"name\":\"rank 0\"}},\n\
         {\"ph\":\"X\",\"pid\":0,\"tid\":0,\"name\":\"F0 stage 0\",\"cat\":\"forward\",\"ts\":3000000.000,\"dur\":1000.000,\
         \"args\":{\"run\":0,\"micro-batch\":0,\"stage\":0,\"thread\":0}},\n\
         {\"ph\":\"X\",\"pid\":0,\"tid\":0,\"name\":\"B0 stage 0\",\"cat\":\"backward\",\"ts\":3001000.000,\"dur\":2000.000,\
         \"args\":{\"run\":0,\"micro-batch\":0,\"stage\":0,\"thread\":0}}\n]}\n"
    );
}

#[test]
fn a_timeline_without_anything_is_all_idle() {
    let empty = Timeline { ranks: vec![vec![], vec![]], makespan: 0. };
    assert_eq!((empty.efficiency(), empty.idle(0), empty.period()), (0., 0., 0.));
}

#[test]
fn a_trace_with_the_sizes_of_another_model_is_drawn_without_a_simulation() {
    let schedule = ScheduleKind::GPipe.schedule(2, 1, 2).unwrap();
    let mut trace = trace(&schedule, &Costs::equal(2, 1., 1., 1.), 2);
    trace.sizes = Costs::equal(5, 1., 1., 1.);
    assert!(matches!(trace.simulated(), Err(SimulationError::Stages { stages: 2, costs: 5, .. })));
    assert!(!trace.to_string().contains("simulated") && trace.to_svg().ends_with("</svg>\n"));
}
