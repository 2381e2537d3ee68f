//! Runs contenders on the same work, in turns.

use std::thread;

use anyhow::{anyhow, bail};

use super::contender::Contender;
use super::spread::{Spread, digits};

/// The allowed difference of losses and gradients: other libraries add in another order.
const TOLERANCE: f64 = 1e-4;

/// The duration of the timed part of a turn, in ms. Short steps are repeated, and their median
/// counts as the turn's time.
const TURN: f64 = 20.;
const MOST_STEPS: f64 = 20.;

/// The median of each turn in ms, for each contender.
#[derive(Debug, Default)]
pub struct Times(Vec<Vec<f64>>);

/// Runs the contenders in turns, after a check that all do the same work.
pub fn duel(contenders: &mut [Contender], turns: usize) -> anyhow::Result<Times> {
    check(contenders)?;
    take_turns(contenders, turns)
}

/// Runs them without that check, for works that differ on purpose and are checked separately.
pub fn take_turns(contenders: &mut [Contender], turns: usize) -> anyhow::Result<Times> {
    turns_of(contenders, turns, Contender::turn)
}

/// Compares the time in which the last stage of each is busy, after a check that all do the same
/// work.
pub fn busy(contenders: &mut [Contender], turns: usize) -> anyhow::Result<Times> {
    check(contenders)?;
    turns_of(contenders, turns, Contender::busy)
}

fn turns_of(
    contenders: &mut [Contender],
    turns: usize,
    run: fn(&mut Contender, usize) -> anyhow::Result<Vec<f64>>,
) -> anyhow::Result<Times> {
    let steps = contenders.iter_mut().map(steps_of_a_turn).collect::<Result<Vec<_>, _>>()?;
    let mut times = vec![Vec::new(); contenders.len()];
    for turn in 0..turns {
        // The first contender may find the machine in another state than the others.
        for place in 0..contenders.len() {
            let number = (turn + place) % contenders.len();
            let turn = run(&mut contenders[number], steps[number])?;
            times[number].push(Spread::of(turn).median);
        }
    }
    Ok(Times(times))
}

/// Runs two contenders on the same work, in turns: first one of them alone, then both at once,
/// where the mean of the two counts.
pub fn alone_and_at_once(pair: &mut [Contender; 2], turns: usize) -> anyhow::Result<Times> {
    let steps = steps_of_a_turn(&mut pair[0])?;
    let mut times = vec![Vec::new(), Vec::new()];
    for turn in 0..turns {
        times[0].push(Spread::of(pair[turn % 2].turn(steps)?).median);
        let [first, second] = thread::scope(|scope| {
            let running = pair.each_mut().map(|contender| scope.spawn(|| contender.turn(steps)));
            running.map(|turn| turn.join().map_err(|_| anyhow!("a turn panicked"))?)
        });
        times[1].push((Spread::of(first?).median + Spread::of(second?).median) / 2.);
    }
    Ok(Times(times))
}

/// The number of steps of a turn.
fn steps_of_a_turn(contender: &mut Contender) -> anyhow::Result<usize> {
    let step = contender.turn(2)?.into_iter().fold(f64::INFINITY, f64::min);
    Ok((TURN / step).clamp(1., MOST_STEPS).round() as usize)
}

/// Fails unless all compute the same as the first one.
pub fn check(contenders: &mut [Contender]) -> anyhow::Result<()> {
    let mut first = None;
    for contender in contenders {
        let name = contender.name.clone();
        let outcome = contender.check()?;
        let (expected, whose) = first.get_or_insert((outcome, name.clone()));
        let norms = expected.gradient_norm.zip(outcome.gradient_norm);
        for (what, (theirs, ours)) in [("loss", Some((expected.loss, outcome.loss))), ("norm of the gradients", norms)]
            .into_iter()
            .filter_map(|(what, pair)| Some((what, pair?)))
        {
            let differ = (theirs - ours).abs() > TOLERANCE * theirs.abs();
            if differ || !ours.is_finite() {
                bail!("not the same work: the {what} is {theirs} of {whose} and {ours} of {name}");
            }
        }
    }
    Ok(())
}

impl Times {
    /// Adds the turns of the same contenders after a restart.
    pub fn extend(&mut self, more: Self) {
        self.0.resize(more.0.len(), Vec::new());
        for (times, more) in self.0.iter_mut().zip(more.0) {
            times.extend(more);
        }
    }

    /// The time of a contender's step, in ms.
    pub fn of(&self, contender: usize) -> Spread {
        Spread::of(self.0[contender].iter().copied())
    }

    /// The time, formatted for a table.
    pub fn text(&self, contender: usize) -> String {
        format!("{} ms", digits(self.of(contender).median))
    }

    /// The time of one contender divided by that of another, turn by turn.
    pub fn ratio(&self, of: usize, to: usize) -> Spread {
        self.combine(|times| times[of] / times[to])
    }

    /// A number computed from the times of each turn.
    pub fn combine(&self, number: impl Fn(&[f64]) -> f64) -> Spread {
        let turns = self.0.first().map_or(0, Vec::len);
        let turn = |turn: usize| number(&self.0.iter().map(|times| times[turn]).collect::<Vec<_>>());
        Spread::of((0..turns).map(turn))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::tools::checkout::Checkout;

    /// A contender with fixed answers and times in ms.
    fn contender(name: &str, loss: &str, norm: &str, time: &str) -> Contender {
        let script = format!(
            "echo ready; while read what steps; do \
             [ $what = check ] && {{ echo {loss} {norm}; continue; }}; \
             while [ $steps -gt 0 ]; do printf '{time} '; steps=$((steps - 1)); done; echo {loss}; done"
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf();
        Contender::start(&Checkout { root }, name, command).unwrap()
    }

    #[test]
    fn times_are_compared_turn_by_turn() {
        let mut contenders = [contender("test-a", "0.5", "1", "30"), contender("test-b", "0.500001", "nan", "60")];
        let times = duel(&mut contenders, 4).unwrap();
        assert_eq!((times.ratio(1, 0), times.of(1)), (Spread::exact(2.), Spread::exact(60.)));
        assert_eq!(times.combine(|times| times[0] + times[1]), Spread::exact(90.));
        let mut all = Times::default();
        all.extend(times);
        all.extend(Times(vec![vec![10.; 20], vec![10.; 20]]));
        assert_eq!((all.ratio(1, 0), all.of(0)), (Spread::exact(1.), Spread::exact(10.)));
    }

    #[test]
    fn two_at_once_count_with_their_mean() {
        let mut pair = [contender("test-h", "0.5", "1", "30"), contender("test-i", "0.5", "1", "60")];
        let times = alone_and_at_once(&mut pair, 2).unwrap();
        // Each has a turn alone.
        assert_eq!((times.of(0).low, times.of(0).high), (37.5, 52.5));
        assert_eq!(times.of(1), Spread::exact(45.));
    }

    #[test]
    fn different_work_is_not_compared() {
        let mut contenders = [contender("test-c", "0.5", "1", "1"), contender("test-d", "0.51", "1", "1")];
        let error = duel(&mut contenders, 3).unwrap_err().to_string();
        assert_eq!(error, "not the same work: the loss is 0.5 of test-c and 0.51 of test-d");
        let mut contenders = [contender("test-e", "0.5", "1", "1"), contender("test-f", "0.5", "1.1", "1")];
        let error = duel(&mut contenders, 3).unwrap_err().to_string();
        assert!(error.contains("norm of the gradients is 1 of test-e"), "{error}");
    }

    #[test]
    fn one_that_ends_is_named_with_its_last_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no torch here >&2"]);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf();
        let error = Contender::start(&Checkout { root }, "test-g", command).unwrap_err().to_string();
        assert!(error.starts_with("test-g has ended") && error.ends_with("no torch here"), "{error}");
    }
}
