use std::env;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kind of an entry in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Work on the stream reads the block.
    Read,
    /// Work on the stream writes the block.
    Write,
    /// The CPU reads a block of pinned memory.
    HostRead,
    /// The CPU writes a block of pinned memory.
    HostWrite,
    /// The block is allocated, and belongs to the stream.
    Allocate,
    /// The block is freed.
    Free,
    /// The allocator learns that work on the stream uses the block (`record_stream`).
    Use,
    /// The event records the work queued on the stream so far.
    Record,
    /// Work queued on the stream from now on waits for the event.
    Wait,
    /// The thread waits for the event.
    HostWaitsForEvent,
    /// The thread waits for all work queued on the stream.
    HostWaitsForStream,
    /// The thread waits for all work queued on the device's streams.
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

/// An entry of the log, which is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Kind of the entry.
    pub kind: Kind,
    /// Number of the thread that did it or queued it.
    pub thread: i64,
    /// Number of the device stream: the device's index times 1000, plus the stream's number on the
    /// device, where 0 is the default stream. It is -1 for pinned memory.
    pub stream: i64,
    /// Number of the block of memory, or of the event.
    pub object: i64,
    /// Name of the operator.
    pub name: String,
}

/// The part of the mock's log that has been read.
struct Log {
    file: BufReader<File>,
    /// Beginning of a line that was not complete yet.
    begun: String,
    entries: Vec<Entry>,
}

static LOG: Mutex<Option<Log>> = Mutex::new(None);

/// Whether this process has the mock devices. `mock.cpp` installs them before `main`, unless
/// libtorch itself has CUDA.
pub fn is_installed() -> bool {
    env::var_os(FILE).is_some()
}

/// Whether the test which runs cannot run, because the mock is not in. Says so, in a line by which
/// `cargo xtask test` counts it as skipped; a captured line of a test that passes is not shown.
pub fn is_skipped() -> bool {
    let reason = b"skipped: libtorch has CUDA of its own here, so the mock is not in\n";
    if !is_installed() {
        io::stdout().write_all(reason).expect("there is a standard output");
    }
    !is_installed()
}

/// Takes the devices for one test at a time, because the process has one log and one allocator for
/// each of them. Returns `None`, and says so, without the mock.
pub fn devices() -> Option<MutexGuard<'static, ()>> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if is_skipped() {
        return None;
    }
    tch::set_num_threads(1);
    Some(guard)
}

/// Environment variable in which `mock.cpp` stores the path of its log.
const FILE: &str = "PIPE_MOCK_DEVICE_LOG";

/// Returns the log of this process, from entry `start` on.
///
/// # Panics
///
/// Panics if the devices are not installed, or if the log has fewer entries than `start`.
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

/// Parses a line `kind thread stream object name`.
fn entry(line: &str) -> Option<Entry> {
    let mut words = line.splitn(5, ' ');
    let mut number = || words.next()?.parse::<i64>().ok();
    let kind = *Kind::ALL.get(usize::try_from(number()?).ok()?)?;
    let (thread, stream, object) = (number()?, number()?, number()?);
    Some(Entry { kind, thread, stream, object, name: words.next()?.to_owned() })
}
