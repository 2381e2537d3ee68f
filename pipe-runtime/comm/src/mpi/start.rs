//! Starts operations.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use super::Operation;
use super::held::Held;
use super::request::{EMPTY, Request, count, parts};
use super::world::World;
use crate::{Bytes, BytesMut, CommError};

impl<B: Bytes> Operation<B> {
    /// Starts to send.
    pub(crate) fn send(world: &Arc<World>, to: usize, tag: u16, buffer: B) -> Result<Self, CommError> {
        let held = Held::new(buffer);
        // SAFETY: the value is valid, and only read until MPI is done with it.
        let bytes = unsafe { &*held.as_ptr() }.bytes();
        let (start, length) = (if bytes.is_empty() { &raw const EMPTY } else { bytes.as_ptr() }, bytes.len());
        Self::start(world, held, Some(to), |requests| {
            for part in parts(length) {
                let mut handle = 0;
                // SAFETY: MPI is initialized, no other thread is in it, and its handles are valid.
                // The part is inside the slice, whose memory is kept until the request is done.
                let code = unsafe {
                    let bytes: *const c_void = start.add(part.start).cast();
                    (world.functions.isend)(
                        bytes,
                        part.len() as c_int,
                        world.abi.byte,
                        to as c_int,
                        c_int::from(tag),
                        world.communicator,
                        &raw mut handle,
                    )
                };
                world.check("MPI_Isend", Some(to), code)?;
                requests.push(Request { handle, expected: None });
            }
            Ok(())
        })
    }
}

impl<B: BytesMut> Operation<B> {
    /// Starts to receive.
    pub(crate) fn receive(world: &Arc<World>, from: usize, tag: u16, buffer: B) -> Result<Self, CommError> {
        let held = Held::new(buffer);
        // SAFETY: the value is valid, and nothing else uses it until MPI is done with it.
        let bytes = unsafe { &mut *held.as_ptr() }.bytes_mut();
        let empty = (&raw const EMPTY).cast_mut();
        let (start, length) = (if bytes.is_empty() { empty } else { bytes.as_mut_ptr() }, bytes.len());
        Self::start(world, held, Some(from), |requests| {
            for part in parts(length) {
                let mut handle = 0;
                let count = part.len() as c_int;
                // SAFETY: MPI is initialized, no other thread is in it, and its handles are valid.
                // The part is inside the slice, whose memory is kept until the request is done.
                let code = unsafe {
                    let bytes: *mut c_void = start.add(part.start).cast();
                    (world.functions.irecv)(
                        bytes,
                        count,
                        world.abi.byte,
                        from as c_int,
                        c_int::from(tag),
                        world.communicator,
                        &raw mut handle,
                    )
                };
                world.check("MPI_Irecv", Some(from), code)?;
                requests.push(Request { handle, expected: Some(count) });
            }
            Ok(())
        })
    }
}

/// The bytes of this process, and then those of all.
pub(crate) type Gathered = (Vec<u8>, Vec<u8>);

impl Operation<Gathered> {
    /// Starts to gather.
    pub(crate) fn all_gather(world: &Arc<World>, bytes: Vec<u8>) -> Result<Self, CommError> {
        let count = count(bytes.len())?;
        let all = vec![0; bytes.len() * world.size];
        let held = Held::new((bytes, all));
        // SAFETY: the value is valid, and nothing else uses it until MPI is done with it.
        let (bytes, gathered) = unsafe { &mut *held.as_ptr() };
        // Even without bytes, MPI wants two buffers.
        bytes.reserve(1);
        gathered.reserve(1);
        let (from, to): (*const c_void, *mut c_void) = (bytes.as_ptr().cast(), gathered.as_mut_ptr().cast());
        Self::start(world, held, None, |requests| {
            let mut handle = 0;
            let (byte, communicator) = (world.abi.byte, world.communicator);
            // SAFETY: MPI is initialized, no other thread is in it, and its handles are valid. The
            // buffers have room for one and for all contributions of `count` bytes.
            let code = unsafe {
                (world.functions.iallgather)(from, count, byte, to, count, byte, communicator, &raw mut handle)
            };
            world.check("MPI_Iallgather", None, code)?;
            requests.push(Request { handle, expected: None });
            Ok(())
        })
    }
}

impl Operation<Vec<u8>> {
    /// Starts to give the bytes of `root` to all.
    pub(crate) fn broadcast(world: &Arc<World>, root: usize, bytes: Vec<u8>) -> Result<Self, CommError> {
        let count = count(bytes.len())?;
        let held = Held::new(bytes);
        // SAFETY: the value is valid, and nothing else uses it until MPI is done with it.
        let bytes = unsafe { &mut *held.as_ptr() };
        bytes.reserve(1);
        let bytes: *mut c_void = bytes.as_mut_ptr().cast();
        Self::start(world, held, None, |requests| {
            let mut handle = 0;
            let (byte, communicator) = (world.abi.byte, world.communicator);
            // SAFETY: MPI is initialized, no other thread is in it, and its handles are valid. The
            // buffer has `count` bytes.
            let code =
                unsafe { (world.functions.ibcast)(bytes, count, byte, root as c_int, communicator, &raw mut handle) };
            world.check("MPI_Ibcast", None, code)?;
            requests.push(Request { handle, expected: None });
            Ok(())
        })
    }
}
