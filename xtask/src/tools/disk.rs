//! Checks the free disk space.

use std::path::Path;
use std::process::Command;

use anyhow::bail;

/// Fails if less than `needed` KiB are free in `folder`. If the system does not report it, it is
/// assumed to be enough.
pub fn check(folder: &Path, needed: u64) -> anyhow::Result<()> {
    let Ok(df) = Command::new("df").arg("-Pk").arg(folder).output() else {
        return Ok(());
    };
    match free(&String::from_utf8_lossy(&df.stdout)) {
        Some(free) if free < needed => bail!(
            "{} has {:.1} GB free, but {:.1} GB are needed while installing: make room, or set \
             XDG_CACHE_HOME to a folder on a larger disk",
            folder.display(),
            gigabytes(free),
            gigabytes(needed),
        ),
        _ => Ok(()),
    }
}

/// The available KiB, which are before the used percentage. (Names of file systems may contain
/// spaces.)
fn free(df: &str) -> Option<u64> {
    let words: Vec<_> = df.lines().nth(1)?.split_whitespace().collect();
    let percentage = words.iter().position(|word| is_percentage(word))?;
    words.get(percentage.checked_sub(1)?)?.parse().ok()
}

fn is_percentage(word: &str) -> bool {
    word.strip_suffix('%').is_some_and(|number| number.parse::<u32>().is_ok())
}

fn gigabytes(kib: u64) -> f64 {
    kib as f64 * 1024.0 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "Filesystem     1024-blocks     Used Available Capacity Mounted on\n";

    #[test]
    fn free_space_is_read_from_df() {
        let line = "/dev/vda         264212084 13830652  81455236      15% /\n";
        assert_eq!(free(&format!("{HEADER}{line}")), Some(81_455_236));
    }

    #[test]
    fn names_with_spaces_do_not_confuse() {
        let line = "//server/my share 1000 400 600 40% /mnt/my 9% share\n";
        assert_eq!(free(&format!("{HEADER}{line}")), Some(600));
    }

    #[test]
    fn unexpected_output_is_no_number() {
        for output in ["", HEADER, "a\n40%\n", "a\nb - 40% /\n"] {
            assert_eq!(free(output), None, "{output:?}");
        }
    }
}
