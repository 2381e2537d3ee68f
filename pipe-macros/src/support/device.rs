//! Device strings, as torch writes them.

use pipe_schedule::support::spelling::nearest;

/// The reason why a string is not a device.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The index is missing, as in `cuda`. Holds the first device of this kind, for the message.
    NoIndex(String),
    /// Misspelt; holds the device that was probably meant.
    Meant(String),
    /// The index is greater than torch can count.
    TooMany,
    Unknown,
}

/// Checks that `text` is `cpu`, `cuda:N`, `mps` or `xpu:N`.
pub fn read(text: &str) -> Result<(), Unreadable> {
    match text {
        "cpu" | "mps" => Ok(()),
        "cuda" | "xpu" => Err(Unreadable::NoIndex(format!("{text}:0"))),
        _ => match text.split_once(':') {
            Some(("cuda" | "xpu", index)) if is_index(index) => Ok(()),
            Some(("cuda" | "xpu", index)) if is_number(index) && !is_index(without_zeros(index)) => {
                Err(Unreadable::TooMany)
            }
            _ => Err(meant(text).map_or(Unreadable::Unknown, Unreadable::Meant)),
        },
    }
}

/// Torch stores the index of a device in a signed byte.
fn is_index(text: &str) -> bool {
    text.parse::<i8>().is_ok_and(|index| index >= 0 && index.to_string() == text)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit())
}

fn without_zeros(index: &str) -> &str {
    match index.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    }
}

/// The device that is nearest to `text`, if one is near.
fn meant(text: &str) -> Option<String> {
    let text = text.trim().to_lowercase();
    let (family, index) = text.split_once(':').unwrap_or((&text, "0"));
    let family = match family {
        "gpu" | "nvidia" | "hip" | "rocm" => "cuda",
        "metal" => "mps",
        _ => nearest(family, ["cpu", "cuda", "mps", "xpu"])?,
    };
    let index = index.trim().replace('o', "0").replace('l', "1");
    let index = without_zeros(&index);
    match family {
        "cuda" | "xpu" if is_index(index) => Some(format!("{family}:{index}")),
        "cpu" | "mps" => Some(family.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suggestion(text: &str) -> Option<String> {
        match read(text) {
            Err(Unreadable::Meant(meant)) => Some(meant),
            _ => None,
        }
    }

    #[test]
    fn torch_devices_are_readable() {
        for device in ["cpu", "cuda:0", "cuda:12", "mps", "xpu:3"] {
            assert_eq!(read(device), Ok(()), "{device}");
        }
    }

    #[test]
    fn an_accelerator_needs_its_index() {
        assert_eq!(read("cuda"), Err(Unreadable::NoIndex("cuda:0".into())));
    }

    #[test]
    fn a_slip_suggests_what_was_meant() {
        for (text, meant) in [
            ("cuda:O", "cuda:0"),
            ("gpu:1", "cuda:1"),
            ("CUDA:0", "cuda:0"),
            ("cuda:01", "cuda:1"),
            ("cdua:2", "cuda:2"),
            (" cuda:0", "cuda:0"),
            ("cpu:0", "cpu"),
        ] {
            assert_eq!(suggestion(text).as_deref(), Some(meant), "{text}");
        }
    }

    #[test]
    fn what_is_like_no_device_is_unknown() {
        for text in ["", "toaster", "cuda:-1", "cuda:0:1", "cuda:"] {
            assert!(!matches!(read(text), Ok(())), "{text}");
        }
        assert_eq!(read("cuda:0128"), Err(Unreadable::TooMany));
        assert_eq!(read("toaster"), Err(Unreadable::Unknown));
    }
}
