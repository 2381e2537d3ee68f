use std::fmt;
use std::str::FromStr;

use super::Method;
use crate::spelling::distance;

/// Cost of two exchanged letters: as much as two other ones.
const SWAP: usize = 2;

impl Method {
    /// The name, as in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Method::GPipe => "gpipe",
            Method::OneFOneB => "1f1b",
            Method::Interleaved => "interleaved",
            Method::LoopedBfs => "looped_bfs",
            Method::ZbH1 => "zb_h1",
            Method::ZbH2 => "zb_h2",
            Method::Zbv => "zbv",
            Method::DualPipeV => "dualpipe_v",
            Method::VHalf => "v_half",
            Method::VMin => "v_min",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No schedule has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownMethod {
    /// What was asked for.
    pub name: String,
    /// The method whose name is nearest, if one is near.
    pub nearest: Option<Method>,
}

impl fmt::Display for UnknownMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown schedule `{}`", self.name)?;
        if let Some(nearest) = self.nearest {
            return write!(f, ": did you mean `{nearest}`?");
        }
        let names: Vec<_> = Method::ALL.iter().map(|method| format!("`{method}`")).collect();
        write!(f, ": there are {}", names.join(", "))
    }
}

impl std::error::Error for UnknownMethod {}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        let found = Method::ALL.into_iter().find(|method| method.name() == name);
        found.ok_or_else(|| UnknownMethod { name: name.to_owned(), nearest: nearest(name) })
    }
}

/// The method whose variant is meant, in whatever case. Otherwise the one with the fewest letters
/// to change, where capital letters, `-` and ` ` are as good as small letters and `_`.
fn nearest(name: &str) -> Option<Method> {
    let letters =
        |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    if let Some(spelt) = Method::ALL.into_iter().find(|method| letters(&format!("{method:?}")) == letters(name)) {
        return Some(spelt);
    }
    let same = |c: char| if c == '-' || c == ' ' { '_' } else { c.to_ascii_lowercase() };
    // A name much longer than any is near to none; it is not looked at in full.
    let name: String = name.chars().take(32).map(same).collect();
    let distance = |method: &Method| distance(&name, method.name(), SWAP);
    let nearest = Method::ALL.into_iter().min_by_key(distance)?;
    (distance(&nearest) * 2 <= nearest.name().len()).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_as_it_prints() {
        for method in Method::ALL {
            assert_eq!(method.to_string().parse(), Ok(method));
        }
    }

    #[test]
    fn an_unknown_name_suggests_the_nearest() {
        let message = |name: &str| name.parse::<Method>().unwrap_err().to_string();
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
