//! Prints a line every few seconds while pip works.

use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

const POLL: Duration = Duration::from_millis(50);
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Waits for the end. `report` has the description of what is fetched, and the folder whose growth
/// is printed.
pub fn wait(child: &mut Child, report: Option<(&str, &Path)>) -> io::Result<ExitStatus> {
    let start = Instant::now();
    let mut next_line = BETWEEN_LINES;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if let Some((what, folder)) = report
            && start.elapsed() >= next_line
        {
            let megabytes = size(folder) / 1_000_000;
            eprintln!("fetching {what}: {megabytes} MB on disk after {} s", start.elapsed().as_secs());
            next_line = start.elapsed() + BETWEEN_LINES;
        }
        thread::sleep(POLL);
    }
}

/// The number of bytes in a folder and below it. Files that vanish meanwhile count as nothing.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(data) if data.is_dir() => size(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
