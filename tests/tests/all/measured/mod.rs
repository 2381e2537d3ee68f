//! Measurements: `docs/balance.md` and `docs/tracing.md`.

mod advise;
mod balance;
mod choice;
mod cuts;
mod memory;
mod report;
mod trace;
