use std::ffi::c_int;

/// What the log says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Work on the stream reads the block.
    Read,
    /// Work on the stream writes it.
    Write,
    /// The CPU reads a block of pinned memory.
    HostRead,
    /// The CPU writes one.
    HostWrite,
    /// The block is allocated: it belongs to the stream.
    Allocate,
    /// It is given back.
    Free,
    /// The allocator is told that work on the stream uses the block.
    Use,
    /// The event marks what the stream has been given until now.
    Record,
    /// What the stream is given from now on waits for the event.
    Wait,
    /// The thread waits for the event.
    HostWaitsForEvent,
    /// The thread waits for all that the stream has been given.
    HostWaitsForStream,
    /// The thread waits for all that the device's streams have been given.
    HostWaitsForDevice,
}

impl Kind {
    const ALL: [Self; 12] = [
        Self::Read,
        Self::Write,
        Self::HostRead,
        Self::HostWrite,
        Self::Allocate,
        Self::Free,
        Self::Use,
        Self::Record,
        Self::Wait,
        Self::HostWaitsForEvent,
        Self::HostWaitsForStream,
        Self::HostWaitsForDevice,
    ];

    /// Whether a thread waits for a device.
    pub fn is_host_wait(self) -> bool {
        matches!(self, Self::HostWaitsForEvent | Self::HostWaitsForStream | Self::HostWaitsForDevice)
    }
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What happened.
    pub kind: Kind,
    /// The thread that did it or asked for it.
    pub thread: i64,
    /// The stream: the device's index times 1000, plus the stream's number on it, 0 being the default one. -1 for pinned memory.
    pub stream: i64,
    /// The block of memory, or the event.
    pub object: i64,
    /// The operator.
    pub name: String,
}

/// As `mock.cpp` has it.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawEntry {
    kind: i64,
    thread: i64,
    stream: i64,
    object: i64,
    name: i64,
}

// SAFETY: the declarations match the definitions in `mock.cpp`; all of them take and give plain numbers, and lock what they read.
unsafe extern "C" {
    safe fn mock_install() -> c_int;
    safe fn mock_log_length() -> usize;
    safe fn mock_log_entry(index: usize) -> RawEntry;
    safe fn mock_name_byte(name: i64, position: usize) -> c_int;
}

/// Puts the devices into this process, once. False if that cannot be: libtorch has CUDA of its own, or was asked for it before.
pub fn install() -> bool {
    mock_install() == 0
}

/// What has happened since the process started, from entry `start` on.
pub fn log(start: usize) -> Vec<Entry> {
    let entry = |index| {
        let RawEntry { kind, thread, stream, object, name } = mock_log_entry(index);
        let kind = usize::try_from(kind).ok().and_then(|kind| Kind::ALL.get(kind).copied());
        let kind = kind.expect("`mock.cpp` writes the kinds listed here");
        Entry { kind, thread, stream, object, name: name_of(name) }
    };
    (start..mock_log_length()).map(entry).collect()
}

fn name_of(number: i64) -> String {
    let bytes = (0..).map(|position| mock_name_byte(number, position)).map_while(|byte| u8::try_from(byte).ok());
    String::from_utf8_lossy(&bytes.take_while(|&byte| byte != 0).collect::<Vec<_>>()).into_owned()
}
