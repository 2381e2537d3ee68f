//! Messages of MPI's.

use std::ffi::c_int;
use std::ops::Range;

use super::abi::Status;
use super::world::World;
use crate::CommError;

/// The longest message of MPI's. Its counts are of type `int`.
const LONGEST: usize = 1 << 30;

/// The place of messages without bytes, which nobody reads or writes. Rust's pointer to no bytes is
/// 1, which means something else to MPI.
pub(super) static EMPTY: u8 = 0;

/// One message of MPI's.
#[derive(Debug)]
pub(super) struct Request {
    pub handle: usize,
    /// The length of a message that is received.
    pub expected: Option<c_int>,
}

/// Tests requests and removes those that are done. Returns whether all are.
pub(super) fn test(world: &World, requests: &mut Vec<Request>, peer: Option<usize>) -> Result<bool, CommError> {
    while let Some(request) = requests.last_mut() {
        let mut is_done = 0;
        let mut status = Status::default();
        // SAFETY: MPI is initialized, and no other thread is in it, because the caller has the
        // lock. The request is active, and the pointers are valid.
        let code = unsafe { (world.functions.test)(&raw mut request.handle, &raw mut is_done, &raw mut status) };
        world.check("MPI_Test", peer, code)?;
        if is_done == 0 {
            return Ok(false);
        }
        let expected = request.expected;
        requests.pop();
        if let (Some(expected), Some(from)) = (expected, peer) {
            let mut received = expected;
            // SAFETY: the status is that of a message of bytes.
            let code = unsafe { (world.functions.get_count)(&raw const status, world.abi.byte, &raw mut received) };
            world.check("MPI_Get_count", peer, code)?;
            if received != expected {
                return Err(CommError::Length { from, expected: expected as usize, received: received as usize });
            }
        }
    }
    Ok(true)
}

/// Cuts a message into MPI's messages, of which there is at least one.
pub(super) fn parts(length: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length.div_ceil(LONGEST).max(1)).map(move |part| part * LONGEST..length.min((part + 1) * LONGEST))
}

/// The length of a message that is not cut.
pub(super) fn count(length: usize) -> Result<c_int, CommError> {
    c_int::try_from(length).map_err(|_| CommError::TooLong { bytes: length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_message() {
        let ends = |length| parts(length).map(|part| (part.start, part.end)).collect::<Vec<_>>();
        assert_eq!(ends(0), [(0, 0)]);
        assert_eq!(ends(5), [(0, 5)]);
        assert_eq!(ends(LONGEST), [(0, LONGEST)]);
        let all = [(0, LONGEST), (LONGEST, 2 * LONGEST), (2 * LONGEST, 2 * LONGEST + 1)];
        assert_eq!(ends(2 * LONGEST + 1), all);
    }
}
