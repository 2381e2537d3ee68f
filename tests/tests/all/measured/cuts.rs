//! Where stages are cut if their memory is limited, and if what crosses a cut costs time.

use std::thread::sleep;
use std::time::Duration;

use pipe_runtime::balance::{Balance, Profile};
use pipe_runtime::nn::Concat;
use pipe_runtime::{Devices, MessagePrice, ScheduleKind, pipeline};
use pipe_tests::layers::func;
use pipe_tests::serial;
use tch::nn::{Func, VarStore};
use tch::{Device, Kind, Tensor};

use super::balance::{Chain, of, sample};

#[test]
fn a_limit_of_memory_moves_the_cut() {
    let _serial = serial();
    let delays = [(0, 4), (0, 4), (0, 1), (40, 1)];
    let layers = || {
        let layer = |(wait, kept): (u64, usize)| {
            func(move |x: &Tensor| {
                sleep(Duration::from_millis(wait));
                (0..kept).fold(x.shallow_clone(), |x, _| x.sigmoid())
            })
        };
        delays.map(layer).into()
    };
    let x = sample(&[1000]);
    assert_eq!(of(layers(), |b| b.stages(2).by_time(&x).unwrap()).balance(), [3, 1]);
    assert_eq!(of(layers(), |b| b.stages(2).memory_limit(8 * 4000).by_time(&x).unwrap()).balance(), [2, 2]);
}

/// The first stage of 1F1B has two micro-batches in flight, the second one has one: layers of the
/// first are recomputed, those that keep much for their time, and the slow one is not.
#[test]
fn a_limit_of_memory_chooses_what_is_recomputed() {
    let _serial = serial();
    let layers = || {
        let layer = |(wait, kept): (u64, usize)| {
            func(move |x: &Tensor| {
                sleep(Duration::from_millis(wait));
                (0..kept).fold(x.shallow_clone(), |x, _| x.sigmoid())
            })
        };
        [(20, 8), (1, 8), (20, 8), (21, 8)].map(layer).into()
    };
    let x = sample(&[2000]);
    let balance = |limit: u64| {
        of(layers(), |b| {
            let balance = b.stages(2).chunks(2).memory_limit(limit).param_scale(0.);
            balance.recompute(ScheduleKind::OneFOneB).by_time(&x).unwrap()
        })
    };
    let recomputed = |profile: &Profile| profile.layers().iter().map(|layer| layer.recomputed).collect::<Vec<_>>();
    // A micro-batch is 1000 rows of 4 bytes, of which each layer keeps eight: 2 x 2 x 32000.
    let all = balance(130_000);
    assert_eq!((all.balance(), recomputed(&all)), (vec![2, 2], vec![false; 4]));
    assert_eq!(all.layers()[1].activation_bytes, 32_000);
    // What the next layer keeps as well remains.
    assert_eq!(all.layers()[1].recomputed_bytes, 4_000);
    let less = balance(110_000);
    assert_eq!((less.balance(), recomputed(&less)), (vec![2, 2], vec![false, true, false, false]));
    // 2 x (32000 + 4000), and 28000 that are made again.
    assert_eq!(less.stages()[0].memory_bytes, 100_000);
    assert!(less.stages()[0].cost > all.stages()[0].cost);
    // So does the model's output.
    assert_eq!(all.layers()[3].recomputed_bytes, 4_000);
    // In the last stage there is one micro-batch at a time, and it keeps both of its layers.
    assert_eq!(less.stages()[1].memory_bytes, 64_000);

    let refused = |stages, limit: Option<u64>, schedule, by_time: bool| {
        let store = VarStore::new(Device::Cpu);
        let model = Chain { layers: layers() };
        let balance = Balance::of_block(&model, &store, &store.root()).stages(stages).chunks(2).recompute(schedule);
        let balance = limit.into_iter().fold(balance, Balance::memory_limit);
        if by_time { balance.by_time(&x) } else { balance.by_size(&x) }.unwrap_err().to_string()
    };
    let kind = ScheduleKind::OneFOneB;
    assert!(refused(2, None, kind, true).contains("set `memory_limit`"));
    assert!(refused(2, Some(9), kind, false).contains("`by_time`"));
    let little = refused(2, Some(9), kind, true);
    let expected = "no partition keeps every stage within 9 B: the best of 2 stages take up to";
    assert!(little.starts_with(expected), "{little}");
    let two_each = refused(3, Some(9), ScheduleKind::Zbv, true);
    assert!(two_each.contains("zbv"), "{two_each}");
}

#[test]
fn a_transfer_that_costs_time_moves_the_cut() {
    let _serial = serial();
    // The smallest crossing is after the third layer.
    let layers = || {
        vec![
            func(|x| x.sin()),
            func(|x| x.sin()),
            func(|x| x.narrow(0, 0, 1) * 2.),
            func(|x| x.expand([1000], false).sin()),
        ]
    };
    let x = sample(&[1000]);
    let profile = of(layers(), |b| b.stages(2).seconds_per_byte(1.).by_time(&x).unwrap());
    let crossing: Vec<_> = profile.layers().iter().map(|layer| layer.crossing_bytes).collect();
    assert_eq!(crossing, [8000, 8000, 8, 0]);
    assert_eq!(profile.balance(), [3, 1]);
}

#[test]
fn between_processes_a_cut_is_where_little_crosses() {
    let _serial = serial();
    // What crosses: 8000, 8, 8, 8000 bytes.
    let layers = || {
        vec![
            func(|x| x.sin()),
            func(|x| x.narrow(0, 0, 1) * 2.),
            func(|x| x.sin()),
            func(|x| x.expand([1000], false).sin()),
            func(|x| x.sin()),
        ]
    };
    let x = sample(&[1000]);
    let price = MessagePrice { latency: Duration::from_secs(1), seconds_per_byte: 1. };
    let profile = of(layers(), |b| b.stages(3).processes(2, price).by_time(&x).unwrap());
    // The first process has two stages, and only what leaves the second of them is a message.
    let processes: Vec<_> = profile.stages().iter().map(|stage| stage.process).collect();
    assert_eq!(processes, [Some(0), Some(0), Some(1)]);
    assert!([2, 3].contains(&profile.stages()[1].layers.end), "{:?}", profile.balance());
    let messages = |stage: usize| profile.stages()[stage].cost.floor();
    assert_eq!([messages(0), messages(1), messages(2)], [0., 8. + 2., 8. + 2.]);
    let alone = of(layers(), |b| b.stages(3).by_time(&x).unwrap());
    assert!(alone.stages().iter().all(|stage| stage.process.is_none() && stage.cost < 1.));
    let error = |processes: usize| {
        let store = VarStore::new(Device::Cpu);
        let model = Chain { layers: layers() };
        let balance = Balance::of_block(&model, &store, &store.root()).stages(3).processes(processes, price);
        balance.by_size(&x).unwrap_err().to_string()
    };
    assert_eq!(error(0), "there must be at least one process");
    assert!(error(4).contains("4 processes for 3 ranks"), "{}", error(4));
}

#[test]
fn a_skip_is_a_message_where_it_goes_to_another_process() {
    let _serial = serial();
    #[pipeline]
    struct Far {
        #[device("cpu")]
        #[stash(far = output)]
        first: Func<'static>,
        #[device("cpu")]
        #[stash(near = output)]
        second: Func<'static>,
        #[device("cpu")]
        third: Func<'static>,
        #[device("cpu")]
        #[pop(far)]
        fourth: Concat,
        #[pop(near)]
        fifth: Concat,
    }

    let vars = Far::vars(&Devices::cpu(Far::STAGES)).unwrap();
    let net = || Far {
        first: func(|x| x.sin()),
        second: func(|x| x.sin()),
        third: func(|x| x.sin()),
        fourth: Concat::default(),
        fifth: Concat::default(),
    };
    let messages = |devices: Devices, kind: ScheduleKind| {
        let price = MessagePrice { latency: Duration::from_secs(1), seconds_per_byte: 0. };
        let net = net();
        let balance = Balance::of(&net, &vars).devices(&devices.for_schedule(kind, None)).processes(2, price);
        let profile = balance.timeout(Duration::ZERO).by_time(sample(&[2, 8])).unwrap();
        // Each message goes there and back, and counts on both sides.
        let of = |process: usize| profile.stages().iter().filter(move |stage| stage.process == Some(process));
        [0, 1].map(|process| of(process).map(|stage| stage.cost.floor() as usize / 2).sum::<usize>())
    };
    // Both skips go from the first process to the second one, however the layers are divided, and
    // so does the flow.
    assert_eq!(messages(Devices::cpu(4), ScheduleKind::GPipe), [3, 3]);
    // There and back: the first process has the first and the last stage, so `far` is a message
    // unless the last stage has both layers at the end.
    let [first, second] = messages(Devices::cpu(4), ScheduleKind::Zbv);
    assert!(first == second && (2..=4).contains(&first), "{first} {second}");
}

#[test]
fn skips_cross_straight_and_integers_bring_no_gradient_back() {
    let _serial = serial();
    #[pipeline]
    struct Skips {
        #[device("cpu")]
        #[stash(level = output)]
        down: Func<'static>,
        order: Func<'static>,
        #[device("cpu")]
        inner: Func<'static>,
        #[pop(level)]
        concat: Concat,
    }

    let vars = Skips::vars(&Devices::cpu(Skips::STAGES)).unwrap();
    let model = Skips {
        down: func(|x| x.sin()),
        order: func(|x| x.argsort(1, false)),
        inner: func(|x| x.to_kind(Kind::Float)),
        concat: Concat::default(),
    };
    let profile = Balance::of(&model, &vars).by_size(sample(&[2, 100])).unwrap();
    let crossing: Vec<_> = profile.layers().iter().map(|layer| layer.crossing_bytes).collect();
    assert_eq!(crossing, [1600, 1600, 800, 0]);
    let [level] = profile.skips() else { panic!("one skip") };
    assert_eq!((level.name, level.from, level.to, level.bytes), ("level", 0, 3, 1600));
}

#[test]
fn in_place_layers_hand_on_what_they_changed() {
    let _serial = serial();
    let layers = vec![func(|x| x.sin()), func(|x| x.shallow_clone().relu_()), func(|x| x.exp())];
    let profile = of(layers, |balance| balance.stages(3).by_size(sample(&[100])).unwrap());
    let crossing: Vec<_> = profile.layers().iter().map(|layer| layer.crossing_bytes).collect();
    assert_eq!(crossing, [800, 800, 0]);
}
