//! Tests other pairs of tch and libtorch than the pinned one. Each is tested in a copy of the
//! checkout with its own lock file, libtorch and target folder, so that nothing is rebuilt back and
//! forth.
//!
//! `cargo xtask pairs` runs the whole test suite on each pair, and records what passed.

mod copy;
mod page;
mod syntax;

pub use syntax::check as check_syntax;

use std::fs::{self, File};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Instant;

use anyhow::{Context, bail};
use pipe_libtorch::compiler::Needs;
use pipe_libtorch::{Lock, PAIRS, Pair, Version, fit};

use crate::commands::test;
use crate::tools::checkout::Checkout;
use crate::tools::libtorch::{self, Flavour, WHEELS, Wheel};
use crate::tools::tally::Tally;
use crate::tools::{cache, cargo};

/// The header with functions that newer versions of libtorch no longer have and torch-sys still
/// calls.
const REMOVED: &str = "xtask/pairs/removed.h";

/// A test of a tch on a libtorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    pair: Pair,
    wheel: &'static Wheel,
}

impl Trial {
    /// Makes a trial of this tch on the libtorch that it is made for, or on another one.
    pub fn new(tch: &str, libtorch: Option<&str>) -> anyhow::Result<Self> {
        let known = || PAIRS.map(|pair| pair.tch).join(" and ");
        let pair = Pair::of_tch(tch).with_context(|| format!("tch {tch} has not been tried, but {} have", known()))?;
        let libtorch = libtorch.unwrap_or(pair.libtorch);
        let known = || WHEELS.each_ref().map(|wheel| wheel.version).join(", ");
        let wheel = Wheel::of(libtorch).with_context(|| format!("libtorch {libtorch} is none of {}", known()))?;
        Ok(Self { pair, wheel })
    }

    /// All trials: each libtorch, with the newest tch that is not newer.
    fn all() -> impl Iterator<Item = Self> {
        WHEELS.iter().map(|wheel| {
            let is_older = |pair: &&Pair| pair.libtorch_version() <= wheel.minor();
            let pair = PAIRS.iter().rev().find(is_older).unwrap_or(&PAIRS[0]);
            Self { pair: *pair, wheel }
        })
    }

    /// Whether the libtorch is the one that this tch is made for.
    fn is_pair(&self) -> bool {
        self.pair.libtorch_version() == self.wheel.minor()
    }

    fn name(&self) -> String {
        let tch = Version::parse(self.pair.tch).expect("a version");
        format!("tch-{tch}-libtorch-{}", self.wheel.minor())
    }

    /// Makes a copy of the checkout in which this tch is locked and this libtorch is linked. No
    /// other run changes it until the lock is dropped.
    fn set_up(&self, checkout: &Checkout) -> anyhow::Result<(Checkout, File)> {
        let root = checkout.pairs().join(self.name());
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        let lock = cache::lock(&checkout.pairs().join(format!("{}.lock", self.name())))?;
        let copy = copy::update(checkout, &root)?;
        self.choose_tch(checkout, &copy)?;
        libtorch::set_up_wheel(&copy, self.wheel, Flavour::Cpu)?;
        Ok((copy, lock))
    }

    /// Runs all tests.
    pub fn test(&self, checkout: &Checkout) -> anyhow::Result<(ExitStatus, Tally)> {
        let (copy, _lock) = self.set_up(checkout)?;
        test::run_in(&copy, Some(self), false)
    }

    /// Makes the checkout's lock file with this tch, again if that of the checkout has changed.
    fn choose_tch(&self, checkout: &Checkout, copy: &Checkout) -> anyhow::Result<()> {
        let pinned = "Cargo.lock.pinned";
        let is_fresh = copy::is_same(&checkout.root.join("Cargo.lock"), &copy.root.join(pinned))
            && Lock::in_folder(&copy.root).is_some_and(|lock| lock.tch == self.pair.tch);
        if is_fresh {
            return Ok(());
        }
        copy::file(&checkout.root, &copy.root, "Cargo.lock".as_ref())?;
        let mut cargo = cargo::command(copy);
        cargo.args(["update", "--quiet", "--package", "tch", "--precise", self.pair.tch]);
        let status = cargo.status().context(cargo::CANNOT_START)?;
        if !status.success() {
            bail!("tch {} cannot be put into a copy of Cargo.lock: see what cargo says above", self.pair.tch);
        }
        // This is last, so that an interrupted run starts again.
        fs::copy(checkout.root.join("Cargo.lock"), copy.root.join(pinned)).context("cannot copy Cargo.lock")?;
        Ok(())
    }

    /// Lets cargo build this tch on this libtorch, even if it is made for another one, and makes
    /// the build a third as large: it is built once, and not debugged.
    pub fn adapt(&self, checkout: &Checkout, cargo: &mut Command) {
        cargo.envs([("CARGO_INCREMENTAL", "0"), ("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")]);
        if self.is_pair() {
            return;
        }
        cargo.env(fit::BYPASS, "1");
        let year = Needs::of(&checkout.linked_libtorch()).map_or(17, |needs| needs.standard.year());
        if year > 17 {
            // torch-sys asks for C++17 before these flags.
            let removed = checkout.root.join(REMOVED);
            cargo.env("CXXFLAGS", format!("-std=c++{year} -include {}", removed.display()));
        }
    }
}

/// Runs the test suite on all pairs, or on those with the libtorches in `only`, and writes the
/// table.
pub fn run(checkout: &Checkout, only: &[String]) -> anyhow::Result<ExitCode> {
    let wanted =
        |trial: &Trial| only.is_empty() || only.iter().any(|only| Version::parse(only) == Some(trial.wheel.minor()));
    let trials: Vec<_> = Trial::all().filter(wanted).collect();
    if trials.is_empty() {
        bail!("there is no such libtorch: choose from {}", WHEELS.each_ref().map(|wheel| wheel.version).join(", "));
    }
    let mut all_well = true;
    for trial in trials {
        println!("tch {} on libtorch {}", trial.pair.tch, trial.wheel.version);
        let start = Instant::now();
        let (status, tally) = trial.test(checkout)?;
        println!("{tally}");
        all_well &= status.success();
        page::write(checkout, &trial, &tally.to_string(), start.elapsed())?;
    }
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_libtorch_is_tried_with_the_tch_that_comes_nearest() {
        let names: Vec<_> = Trial::all().map(|trial| trial.name()).collect();
        let expected = [
            "0.24-libtorch-2.11",
            "0.24-libtorch-2.12",
            "0.26-libtorch-2.13",
            "0.26-libtorch-2.14",
            "0.26-libtorch-2.15",
        ];
        assert_eq!(names, expected.map(|name| format!("tch-{name}")));
    }

    #[test]
    fn a_tch_takes_its_own_libtorch_unless_told_otherwise() {
        let trial = Trial::new("0.26", None).unwrap();
        assert_eq!((trial.wheel.version, trial.is_pair()), ("2.13.0", true));
        let trial = Trial::new("0.26", Some("2.15")).unwrap();
        assert_eq!((trial.wheel.version, trial.is_pair()), ("2.15.0", false));
        let fault = Trial::new("0.25", None).unwrap_err().to_string();
        assert_eq!(fault, "tch 0.25 has not been tried, but 0.24.0 and 0.26.0 have");
        assert!(Trial::new("0.26", Some("2.9")).is_err());
    }

    #[test]
    fn only_a_strange_pair_changes_how_cargo_builds() {
        let names = |libtorch| {
            let mut cargo = Command::new("cargo");
            Trial::new("0.26", Some(libtorch)).unwrap().adapt(&Checkout { root: "/c".into() }, &mut cargo);
            cargo.get_envs().map(|(name, _)| name.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let always = ["CARGO_INCREMENTAL", "CARGO_PROFILE_DEV_DEBUG"];
        assert_eq!(names("2.13"), always);
        assert_eq!(names("2.12"), [&always[..], &[fit::BYPASS]].concat());
    }
}
