//! The reason why pip failed, and what the user can do about it.

use std::env::consts::{ARCH, OS};

#[derive(Debug, PartialEq, Eq)]
enum Cause {
    DiskFull,
    NoPip,
    NoNetwork,
    NoWheel,
    Unknown,
}

/// The order matters: after a lost connection, pip also says that it found no wheel.
const SIGNS: [(Cause, &[&str]); 4] = [
    (Cause::DiskFull, &["No space left on device", "Disk quota exceeded"]),
    (Cause::NoPip, &["No module named pip", "No module named 'pip'"]),
    (
        Cause::NoNetwork,
        &[
            "Failed to establish a new connection",
            "name resolution",
            "Max retries exceeded",
            "connection broken",
            "Connection broken",
            "Connection refused",
            "Connection reset",
            "Connection aborted",
            "Network is unreachable",
            "Read timed out",
            "ConnectTimeoutError",
            "ProxyError",
            "SSLError",
            "CERTIFICATE_VERIFY_FAILED",
            "(from versions: none)",
        ],
    ),
    (Cause::NoWheel, &["No matching distribution found", "is not a supported wheel", "no such option"]),
];

fn cause(messages: &str) -> Cause {
    let found = SIGNS.into_iter().find(|(_, signs)| signs.iter().any(|sign| messages.contains(sign)));
    found.map_or(Cause::Unknown, |(cause, _)| cause)
}

/// One sentence with advice, then pip's last lines.
pub fn explain(what: &str, messages: &str) -> String {
    let sentence = match cause(messages) {
        Cause::DiskFull => format!(
            "the disk filled up while fetching {what}: make room, or set XDG_CACHE_HOME \
             to a folder on a larger disk"
        ),
        Cause::NoPip => "`python3` has no pip: install it (Debian: `apt install python3-pip`)".to_owned(),
        Cause::NoNetwork => format!(
            "pip could not reach the package index for {what}: check the network and pip's index and \
             proxy settings, and run this again"
        ),
        Cause::NoWheel => format!(
            "pip found no wheel with {what} for {OS} on {ARCH}: update pip (`python3 -m pip install \
             --upgrade pip`), or, if there is none for this machine, get it elsewhere (libtorch: set \
             LIBTORCH to yours)"
        ),
        Cause::Unknown => {
            format!("pip could not fetch {what}: see its last lines, and run this again")
        }
    };
    match last_lines(messages) {
        lines if lines.is_empty() => sentence,
        lines => format!("{sentence}\npip's last lines:\n{lines}"),
    }
}

fn last_lines(messages: &str) -> String {
    const SHOWN: usize = 6;
    let telling = |line: &&str| !line.trim().is_empty() && !line.contains("Running pip as the 'root' user");
    let lines: Vec<_> = messages.lines().filter(telling).map(|line| format!("  {line}")).collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOT_FOUND: &str = "ERROR: No matching distribution found for torch==2.11.0";

    #[test]
    fn a_name_that_does_not_resolve_is_a_matter_of_the_network() {
        let messages = format!(
            "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(': Failed \
             to establish a new connection: [Errno -2] Name or service not known')': /simple/torch/\n\
             ERROR: Could not find a version that satisfies the requirement torch==2.11.0 (from versions: none)\n{NOT_FOUND}"
        );
        assert_eq!(cause(&messages), Cause::NoNetwork);
    }

    #[test]
    fn other_versions_on_offer_mean_that_there_is_no_wheel() {
        let messages = format!(
            "ERROR: Could not find a version that satisfies the requirement torch==2.11.0 (from \
             versions: 2.2.0, 2.2.1, 2.2.2)\n{NOT_FOUND}"
        );
        assert_eq!(cause(&messages), Cause::NoWheel);
    }

    #[test]
    fn a_full_disk_is_recognised() {
        let messages = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device";
        assert_eq!(cause(messages), Cause::DiskFull);
    }

    #[test]
    fn a_missing_pip_is_recognised() {
        assert_eq!(cause("/usr/bin/python3: No module named pip"), Cause::NoPip);
    }

    #[test]
    fn anything_else_is_shown_as_it_is() {
        let explained = explain("libtorch", "one\n\nERROR: two\n");
        assert!(explained.ends_with("pip's last lines:\n  one\n  ERROR: two"), "{explained}");
        assert_eq!(cause(&explained), Cause::Unknown);
    }

    #[test]
    fn only_the_last_lines_are_shown() {
        let messages: String = (0..20).map(|line| format!("{line}\n")).collect();
        assert_eq!(last_lines(&messages), "  14\n  15\n  16\n  17\n  18\n  19");
    }
}
