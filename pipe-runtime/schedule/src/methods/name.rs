use std::fmt;
use std::str::FromStr;

use super::ScheduleKind;
use crate::support::spelling::distance;

/// The cost of two exchanged letters: the same as for two replaced letters.
const SWAP: usize = 2;

impl ScheduleKind {
    /// The name of the schedule, as in settings.
    pub const fn name(self) -> &'static str {
        match self {
            ScheduleKind::GPipe => "gpipe",
            ScheduleKind::OneFOneB => "1f1b",
            ScheduleKind::Interleaved => "interleaved",
            ScheduleKind::LoopedBfs => "looped_bfs",
            ScheduleKind::ZbH1 => "zb_h1",
            ScheduleKind::ZbH2 => "zb_h2",
            ScheduleKind::Zbv => "zbv",
            ScheduleKind::DualPipeV => "dualpipe_v",
            ScheduleKind::VHalf => "v_half",
            ScheduleKind::VMin => "v_min",
        }
    }
}

impl fmt::Display for ScheduleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The error of parsing a [`ScheduleKind`]: no schedule has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownScheduleError {
    /// The name that was parsed.
    pub name: String,
    /// The schedule whose name is nearest, if one is near.
    pub nearest: Option<ScheduleKind>,
}

impl fmt::Display for UnknownScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown schedule `{}`", self.name)?;
        if let Some(nearest) = self.nearest {
            return write!(f, ": did you mean `{nearest}`?");
        }
        let names: Vec<_> = ScheduleKind::ALL.iter().map(|kind| format!("`{kind}`")).collect();
        write!(f, ": there are {}", names.join(", "))
    }
}

impl std::error::Error for UnknownScheduleError {}

impl FromStr for ScheduleKind {
    type Err = UnknownScheduleError;

    fn from_str(name: &str) -> Result<Self, UnknownScheduleError> {
        let found = ScheduleKind::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| UnknownScheduleError { name: name.to_owned(), nearest: nearest(name) })
    }
}

/// The schedule whose variant has this name, in any case. Otherwise, the schedule whose name
/// differs in the fewest letters, where capital letters, `-` and ` ` count as small letters and
/// `_`.
fn nearest(name: &str) -> Option<ScheduleKind> {
    let letters =
        |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    if let Some(spelt) = ScheduleKind::ALL.into_iter().find(|kind| letters(&format!("{kind:?}")) == letters(name)) {
        return Some(spelt);
    }
    let same = |c: char| if c == '-' || c == ' ' { '_' } else { c.to_ascii_lowercase() };
    // A name that is much longer than all others is near to none, so it is cut off.
    let name: String = name.chars().take(32).map(same).collect();
    let distance = |kind: &ScheduleKind| distance(&name, kind.name(), SWAP);
    let nearest = ScheduleKind::ALL.into_iter().min_by_key(distance)?;
    (distance(&nearest) * 2 <= nearest.name().len()).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_as_it_prints() {
        for kind in ScheduleKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        let message = |name: &str| name.parse::<ScheduleKind>().unwrap_err().to_string();
        assert_eq!(message("1f1"), "unknown schedule `1f1`: did you mean `1f1b`?");
        assert_eq!(message("GPipe"), "unknown schedule `GPipe`: did you mean `gpipe`?");
        assert_eq!(message("zb-h1"), "unknown schedule `zb-h1`: did you mean `zb_h1`?");
        assert_eq!(message("one_f_one_b"), "unknown schedule `one_f_one_b`: did you mean `1f1b`?");
        assert_eq!(message("DualPipeV"), "unknown schedule `DualPipeV`: did you mean `dualpipe_v`?");
        assert_eq!(message("dualpipe"), "unknown schedule `dualpipe`: did you mean `dualpipe_v`?");
        assert_eq!(
            message("fastest"),
            "unknown schedule `fastest`: there are `gpipe`, `1f1b`, `interleaved`, `looped_bfs`, `zb_h1`, `zb_h2`, `zbv`, `dualpipe_v`, \
             `v_half`, `v_min`"
        );
    }
}
