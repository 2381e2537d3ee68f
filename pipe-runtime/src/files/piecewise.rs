//! Bytes of a file to the elements of a tensor, and back, in pieces.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::panic::resume_unwind;
use std::sync::Mutex;
use std::thread::{self, available_parallelism};

use tch::{Device, Kind, Tensor};

use crate::error::{Error, Result};
use crate::lock::lock;
use crate::torch::{is_flat_on_cpu, with_bytes, with_bytes_mut};

/// The most bytes that are read or converted at once.
const PIECE: usize = 16 << 20;

/// The most threads that read one tensor. One alone does not reach the speed of the memory.
const MOST_THREADS: usize = 4;

/// The elements of a tensor in a file.
#[derive(Clone, Copy)]
pub(super) struct Source<'f> {
    pub(super) file: &'f File,
    pub(super) start: u64,
    pub(super) elements: usize,
    pub(super) kind: Kind,
}

/// A reason that is an error of the system or of libtorch.
fn words(error: impl Into<Error>) -> String {
    error.into().to_string()
}

impl Source<'_> {
    /// Reads the elements into `to`, which has as many, and converts them to its kind.
    pub(super) fn read_into(&self, to: &Tensor) -> Result<(), String> {
        let mut to = to.f_detach().map_err(words)?;
        // A file may hold bytes that are neither false nor true, which libtorch must not see.
        if to.kind() == self.kind && is_flat_on_cpu(&to) && self.kind != Kind::Bool {
            let read = with_bytes_mut(&mut to, |bytes| read_at(self.file, bytes, self.start));
            return read.map_err(words)?.map_err(|error| ended(&error));
        }
        let _no_grad = tch::no_grad_guard();
        if to.is_contiguous() {
            let flat = to.f_view([-1]).map_err(words)?;
            return self.pieces(|first, piece| {
                let length = piece.numel() as i64;
                flat.f_narrow(0, first as i64, length).and_then(|mut part| part.f_copy_(piece)).map_err(words)
            });
        }
        let whole = Tensor::f_empty(to.size(), (to.kind(), Device::Cpu)).map_err(words)?;
        self.read_into(&whole)?;
        to.f_copy_(&whole).map_err(words)
    }

    /// Calls `take` with each piece of the elements and the number of its first one.
    pub(super) fn pieces(&self, mut take: impl FnMut(usize, &Tensor) -> Result<(), String>) -> Result<(), String> {
        let size = self.kind.elt_size_in_bytes();
        let kind = if self.kind == Kind::Bool { Kind::Uint8 } else { self.kind };
        let most = (PIECE / size).min(self.elements);
        let staging = Tensor::f_empty([most as i64], (kind, Device::Cpu)).map_err(words)?;
        let mut first = 0;
        while first < self.elements {
            let length = most.min(self.elements - first);
            let mut piece = staging.f_narrow(0, 0, length as i64).map_err(words)?;
            let start = self.start + (first * size) as u64;
            let read = with_bytes_mut(&mut piece, |bytes| self.file.read_exact_at(bytes, start));
            read.map_err(words)?.map_err(|error| ended(&error))?;
            take(first, &piece)?;
            first += length;
        }
        Ok(())
    }
}

/// Fills `bytes` from the file, with several threads if there are many. This thread reads what no
/// other one does, so that none has to start.
fn read_at(file: &File, bytes: &mut [u8], start: u64) -> io::Result<()> {
    let threads = available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    let part = bytes.len().div_ceil(threads).max(PIECE);
    let others = bytes.len().div_ceil(part).saturating_sub(1);
    let parts = Mutex::new(bytes.chunks_mut(part).enumerate());
    let read = || {
        while let Some((number, part_of)) = next(&parts) {
            let mut start = start + (number * part) as u64;
            for piece in part_of.chunks_mut(PIECE) {
                file.read_exact_at(piece, start)?;
                start += piece.len() as u64;
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> =
            (0..others).filter_map(|_| thread::Builder::new().spawn_scoped(scope, read).ok()).collect();
        let own: io::Result<()> = read();
        others.into_iter().try_for_each(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)))?;
        own
    })
}

/// The next item. The lock is held no longer than that.
fn next<I: Iterator>(items: &Mutex<I>) -> Option<I::Item> {
    lock(items).next()
}

fn ended(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it became shorter while it was read".into(),
        _ => error.to_string(),
    }
}

/// Writes the elements of a tensor in their logical order.
pub(super) fn write_elements(file: &mut impl Write, tensor: &Tensor) -> Result<(), String> {
    let tensor = tensor.f_detach().map_err(words)?;
    if is_flat_on_cpu(&tensor) {
        return with_bytes(&tensor, |bytes| file.write_all(bytes)).map_err(|error| error.to_string());
    }
    let _no_grad = tch::no_grad_guard();
    let flat = tensor.f_contiguous().and_then(|tensor| tensor.f_view([-1])).map_err(words)?;
    let most = PIECE / tensor.kind().elt_size_in_bytes();
    for first in (0..flat.numel()).step_by(most) {
        let length = most.min(flat.numel() - first) as i64;
        let piece = flat.f_narrow(0, first as i64, length).and_then(|piece| piece.f_to_device(Device::Cpu));
        with_bytes(&piece.map_err(words)?, |bytes| file.write_all(bytes)).map_err(|error| error.to_string())?;
    }
    Ok(())
}
