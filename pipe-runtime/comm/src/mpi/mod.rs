//! MPI, found at run time. The only `unsafe` of this crate, beside `nccl`.
//!
//! A handle is an `int` in one binary interface and a pointer in the others. Here it is a `usize`,
//! which passes through the same register. A function that writes a handle writes the low bytes of
//! a `usize` that was 0. Both hold on little-endian machines with 64 bits.

#![allow(unsafe_code)]

mod abi;
mod bytes;
mod end;
mod exit;
mod functions;
mod goodbye;
mod held;
mod leftovers;
mod library;
mod open;
mod operation;
mod request;
mod start;
mod world;

pub use bytes::{Bytes, BytesMut};
pub(crate) use operation::Operation;
pub(crate) use world::World;

const _: () = assert!(cfg!(all(target_endian = "little", target_pointer_width = "64")));
