//! What differs between the binary interfaces of MPI, from their headers.

use std::ffi::c_int;

use super::library::Opened;

/// The numbers of one binary interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abi {
    pub kind: AbiKind,
    pub comm_world: usize,
    pub comm_self: usize,
    pub byte: usize,
    pub errors_return: usize,
    pub thread_serialized: c_int,
    /// The key of the attribute with the largest tag.
    pub tag_bound: c_int,
    /// The error classes of a lost process: aborted, failed, failed while anyone was waited for.
    pub lost: [c_int; 3],
    /// The error class of a revoked communicator. 0, success, where there is none.
    pub revoked: c_int,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AbiKind {
    /// Open MPI 4 and 5.
    OpenMpi,
    /// MPICH since 3, and what promises the same interface.
    Mpich,
    /// The standard interface of MPI 5.
    Standard,
}

/// `mpi.h` of MPICH 5.0.2.
const MPICH: Abi = Abi {
    kind: AbiKind::Mpich,
    comm_world: 0x4400_0000,
    comm_self: 0x4400_0001,
    byte: 0x4c00_010d,
    errors_return: 0x5400_0001,
    thread_serialized: 2,
    tag_bound: 0x6440_0001,
    lost: [76, 101, 102],
    revoked: 103,
};

/// `mpi_abi.h` of MPICH 5.0.2.
const STANDARD: Abi = Abi {
    kind: AbiKind::Standard,
    comm_world: 0x101,
    comm_self: 0x102,
    byte: 0x247,
    errors_return: 0x143,
    thread_serialized: 2048,
    tag_bound: 501,
    lost: [58, 58, 58],
    revoked: 0,
};

impl Abi {
    /// Recognises the interface of a library by its symbols.
    pub(super) fn of(library: &Opened) -> Option<Self> {
        // A standard library may bring the native one with its symbols along.
        let is_native = !library.name.contains("libmpi_abi");
        if is_native && library.address(c"ompi_mpi_comm_world").is_some() {
            return Self::open_mpi(library);
        }
        Some(if library.standard_version() >= 1 { STANDARD } else { MPICH })
    }

    /// `mpi.h` and `mpiext_ftmpi_c.h` of Open MPI 5.0.11. Its handles are addresses.
    fn open_mpi(library: &Opened) -> Option<Self> {
        Some(Self {
            kind: AbiKind::OpenMpi,
            comm_world: library.address(c"ompi_mpi_comm_world")?,
            comm_self: library.address(c"ompi_mpi_comm_self")?,
            byte: library.address(c"ompi_mpi_byte")?,
            errors_return: library.address(c"ompi_mpi_errors_return")?,
            thread_serialized: 2,
            tag_bound: 0,
            lost: [74, 75, 76],
            revoked: 77,
        })
    }
}

/// An `MPI_Status`, which has 20, 24 or 32 bytes.
#[derive(Debug, Default)]
#[repr(C, align(16))]
pub(super) struct Status([u64; 8]);
