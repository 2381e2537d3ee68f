use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::{Mutex, PoisonError};

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
    /// The stream: the device's index times 1000, plus the stream's number on it, 0 being the
    /// default one. -1 for pinned memory.
    pub stream: i64,
    /// The block of memory, or the event.
    pub object: i64,
    /// The operator.
    pub name: String,
}

/// The part of the mock's log that has been read.
struct Log {
    file: BufReader<File>,
    /// A line whose end was not there yet.
    begun: String,
    entries: Vec<Entry>,
}

static LOG: Mutex<Option<Log>> = Mutex::new(None);

/// Whether the devices are in this process. `mock.cpp` puts them in before the program begins, if
/// that can be: not where libtorch has CUDA of its own.
pub fn is_installed() -> bool {
    env::var_os(FILE).is_some()
}

/// The variable in which `mock.cpp` leaves the path of its log.
const FILE: &str = "PIPE_MOCK_DEVICE_LOG";

/// What has happened since the process started, from entry `start` on.
///
/// # Panics
///
/// If the devices are not installed.
pub fn log(start: usize) -> Vec<Entry> {
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let log = log.get_or_insert_with(Log::open);
    log.read();
    log.entries[start..].to_vec()
}

impl Log {
    fn open() -> Self {
        let path = env::var_os(FILE).expect("the devices are installed");
        let file = File::open(path).expect("the log can be opened");
        Self { file: BufReader::new(file), begun: String::new(), entries: Vec::new() }
    }

    fn read(&mut self) {
        while self.file.read_line(&mut self.begun).expect("the log can be read") > 0 && self.begun.ends_with('\n') {
            self.entries.push(entry(self.begun.trim_end()).expect("`mock.cpp` writes such lines"));
            self.begun.clear();
        }
    }
}

/// `kind thread stream object name`
fn entry(line: &str) -> Option<Entry> {
    let mut words = line.splitn(5, ' ');
    let mut number = || words.next()?.parse::<i64>().ok();
    let kind = *Kind::ALL.get(usize::try_from(number()?).ok()?)?;
    let (thread, stream, object) = (number()?, number()?, number()?);
    Some(Entry { kind, thread, stream, object, name: words.next()?.to_owned() })
}
