//! What is measured: `docs/balance.md`, `docs/tracing.md`.

mod advise;
mod balance;
mod report;
mod trace;
