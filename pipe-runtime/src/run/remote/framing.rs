//! Envelopes as bytes: a head of one size, and the rest of those that do not fit into it.

use super::wire::Envelope;

/// The size of the part of an envelope that is always sent, in bytes. Most envelopes fit.
pub(super) const HEAD: usize = 512;

/// The greatest length of an envelope, in bytes. The receiver allocates what a head announces.
const LONGEST: u64 = 1 << 30;

/// A head that has been read.
#[derive(Debug)]
pub(super) enum Head {
    Whole(Box<Envelope>),
    /// The envelope begins with these bytes, and so many are missing.
    Begins(Vec<u8>, usize),
}

/// The head and the rest of an envelope. The rest is empty if all is in the head.
pub(super) fn write(envelope: &Envelope) -> Result<(Vec<u8>, Vec<u8>), String> {
    let text = postcard::to_stdvec(envelope).map_err(|error| error.to_string())?;
    let length = text.len() as u64;
    if length > LONGEST {
        return Err(format!("a message has {length} bytes besides its tensors, of at most {LONGEST}"));
    }
    let mut head = length.to_le_bytes().to_vec();
    let (start, rest) = text.split_at(text.len().min(HEAD - head.len()));
    head.extend(start);
    head.resize(HEAD, 0);
    Ok((head, rest.to_vec()))
}

/// Reads a head.
pub(super) fn read_head(head: &[u8]) -> Result<Head, String> {
    let (length, start) = head.split_first_chunk().ok_or("it is cut off")?;
    let length = u64::from_le_bytes(*length);
    if length > LONGEST {
        return Err(format!("it would have {length} bytes, of at most {LONGEST}"));
    }
    // At most `LONGEST`, so it is an `usize`.
    let length = length as usize;
    match start.get(..length) {
        Some(text) => read(text).map(Box::new).map(Head::Whole),
        None => Ok(Head::Begins(start.to_vec(), length - start.len())),
    }
}

/// Reads an envelope.
pub(super) fn read(text: &[u8]) -> Result<Envelope, String> {
    postcard::from_bytes(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::remote::wire::Message;

    fn envelope(names: usize) -> Envelope {
        let names = (0..names).map(|stage| (stage, "weight".to_owned())).collect();
        Envelope { call: 3, message: Message::Tensors { names }, layouts: Vec::new(), edge: None }
    }

    #[test]
    fn what_is_written_is_read() {
        for names in [0, 1, 62, 63, 64, 200] {
            let (head, rest) = write(&envelope(names)).unwrap();
            assert_eq!(head.len(), HEAD);
            let found = match read_head(&head).unwrap() {
                Head::Whole(found) => *found,
                Head::Begins(start, missing) => {
                    assert_eq!(missing, rest.len());
                    read(&[start, rest.clone()].concat()).unwrap()
                }
            };
            assert_eq!(format!("{found:?}"), format!("{:?}", envelope(names)));
            assert_eq!(rest.is_empty(), names < 63, "{names}");
        }
    }

    #[test]
    fn a_head_that_announces_too_much_is_an_error() {
        let mut head = vec![0; HEAD];
        head[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        let error = read_head(&head).unwrap_err();
        assert_eq!(error, "it would have 18446744073709551615 bytes, of at most 1073741824");
        assert_eq!(read_head(&head[..5]).unwrap_err(), "it is cut off");
        head[..8].copy_from_slice(&3_u64.to_le_bytes());
        head[8..11].fill(255);
        assert!(read_head(&head).is_err());
    }
}
