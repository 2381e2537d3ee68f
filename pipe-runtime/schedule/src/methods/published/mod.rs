//! The ten published schedules, one per file: the lists, and the peak in flight of each rank.

mod dualpipe_v;
mod gpipe;
mod interleaved;
mod looped_bfs;
mod one_f_one_b;
mod v_half;
mod v_min;
mod zb_h1;
mod zb_h2;
mod zbv;

pub use gpipe::gpipe;

use crate::list::Schedule;
use crate::methods::{ScheduleKind, ScheduleKindError};

impl ScheduleKind {
    /// Makes the lists for `ranks` ranks with `stages_per_rank` stages each.
    ///
    /// # Errors
    ///
    /// Fails if the schedule cannot run these ranks, stages and micro-batches.
    pub fn schedule(
        self,
        ranks: usize,
        stages_per_rank: usize,
        micro_batches: usize,
    ) -> Result<Schedule, ScheduleKindError> {
        self.check(ranks, stages_per_rank, micro_batches)?;
        Ok(match self {
            ScheduleKind::GPipe | ScheduleKind::LoopedBfs => {
                looped_bfs::looped_bfs(ranks, stages_per_rank, micro_batches)
            }
            ScheduleKind::OneFOneB => one_f_one_b::one_f_one_b(ranks, micro_batches),
            ScheduleKind::Interleaved => interleaved::interleaved(ranks, stages_per_rank, micro_batches),
            ScheduleKind::ZbH1 => zb_h1::zb_h1(ranks, stages_per_rank, micro_batches),
            ScheduleKind::ZbH2 => zb_h2::zb_h2(ranks, micro_batches),
            ScheduleKind::Zbv => zbv::zbv(ranks, micro_batches),
            ScheduleKind::DualPipeV => dualpipe_v::dualpipe_v(ranks, micro_batches),
            ScheduleKind::VHalf => v_half::v_half(ranks, micro_batches),
            ScheduleKind::VMin => v_min::v_min(ranks, micro_batches),
        })
    }

    /// Peak number of in-flight (stage, micro-batch) pairs on `rank`. A pair is in flight from its
    /// forward until its backward (the one for the parameters, if it is split). Divided by the
    /// stages per rank, this is a number of whole micro-batches.
    ///
    /// A recomputed micro-batch counts too, because the inputs of its stage are held. For a rank
    /// that does not exist, the peak is 0.
    ///
    /// # Errors
    ///
    /// Fails if the schedule cannot run these ranks, stages and micro-batches.
    pub fn peak_in_flight(
        self,
        rank: usize,
        ranks: usize,
        stages_per_rank: usize,
        micro_batches: usize,
    ) -> Result<usize, ScheduleKindError> {
        self.check(ranks, stages_per_rank, micro_batches)?;
        if rank >= ranks {
            return Ok(0);
        }
        Ok(match self {
            ScheduleKind::GPipe | ScheduleKind::LoopedBfs => stages_per_rank * micro_batches,
            ScheduleKind::OneFOneB => one_f_one_b::peak_in_flight(rank, ranks, micro_batches),
            ScheduleKind::Interleaved => interleaved::peak_in_flight(rank, ranks, stages_per_rank, micro_batches),
            ScheduleKind::ZbH1 => zb_h1::peak_in_flight(rank, ranks, stages_per_rank, micro_batches),
            ScheduleKind::ZbH2 => zb_h2::peak_in_flight(ranks, micro_batches),
            ScheduleKind::Zbv => zbv::peak_in_flight(ranks, micro_batches),
            ScheduleKind::DualPipeV => dualpipe_v::peak_in_flight(ranks),
            ScheduleKind::VHalf => v_half::peak_in_flight(ranks, micro_batches),
            ScheduleKind::VMin => v_min::peak_in_flight(ranks, micro_batches),
        })
    }
}
