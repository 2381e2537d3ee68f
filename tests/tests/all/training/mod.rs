//! Training steps and their schedules: `docs/schedules.md`.

mod checkpoints;
mod optimizer;
mod own_schedule;
mod schedules;
mod train_step;
mod trainer;
