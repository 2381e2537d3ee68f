//! Envelopes as bytes: a head of one size, and the rest of those that do not fit into it.

use super::wire::Envelope;
use crate::world::PIECE;

/// The size of the part of an envelope that is always sent, in bytes. Most envelopes fit.
pub(super) const HEAD: usize = 512;

/// The greatest length of an envelope, in bytes.
const LONGEST: u64 = 1 << 30;

/// What has been read of an envelope.
#[derive(Debug)]
pub(super) enum Read {
    Whole(Box<Envelope>),
    Begun(Begun),
}

/// An envelope of which only the beginning is here. The rest comes in pieces, so that what is
/// allocated depends on what has come, and not on what a head announces.
#[derive(Debug)]
pub(super) struct Begun {
    text: Vec<u8>,
    /// How many bytes are missing; not 0.
    missing: usize,
}

/// The head and the rest of an envelope, in pieces. There are none if all is in the head.
pub(super) fn write(envelope: &Envelope) -> Result<(Vec<u8>, Vec<Vec<u8>>), String> {
    let text = postcard::to_stdvec(envelope).map_err(|error| error.to_string())?;
    let length = text.len() as u64;
    if length > LONGEST {
        return Err(format!("a message has {length} bytes besides its tensors, of at most {LONGEST}"));
    }
    let mut head = length.to_le_bytes().to_vec();
    let (start, rest) = text.split_at(text.len().min(HEAD - head.len()));
    head.extend(start);
    head.resize(HEAD, 0);
    Ok((head, rest.chunks(PIECE).map(<[u8]>::to_vec).collect()))
}

/// Reads a head.
pub(super) fn read_head(head: &[u8]) -> Result<Read, String> {
    let (length, start) = head.split_first_chunk().ok_or("it is cut off")?;
    let length = u64::from_le_bytes(*length);
    if length > LONGEST {
        return Err(format!("it would have {length} bytes, of at most {LONGEST}"));
    }
    // At most `LONGEST`, so it is an `usize`.
    let length = length as usize;
    match start.get(..length) {
        Some(text) => read(text),
        None => Ok(Read::Begun(Begun { text: start.to_vec(), missing: length - start.len() })),
    }
}

impl Begun {
    /// The length of the piece that comes next.
    pub(super) fn next(&self) -> usize {
        self.missing.min(PIECE)
    }

    /// Adds a piece of that length.
    pub(super) fn add(mut self, piece: &[u8]) -> Result<Read, String> {
        self.text.extend(piece);
        self.missing = self.missing.saturating_sub(piece.len());
        match self.missing {
            0 => read(&self.text),
            _ => Ok(Read::Begun(self)),
        }
    }
}

fn read(text: &[u8]) -> Result<Read, String> {
    postcard::from_bytes(text).map(Box::new).map(Read::Whole).map_err(|error| error.to_string())
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
        for names in [0, 1, 62, 63, 64, 200, PIECE / 2] {
            let (head, pieces) = write(&envelope(names)).unwrap();
            assert_eq!(head.len(), HEAD);
            let mut found = read_head(&head).unwrap();
            for piece in &pieces {
                let Read::Begun(begun) = found else { panic!("nothing is missing") };
                assert_eq!(begun.next(), piece.len());
                found = begun.add(piece).unwrap();
            }
            let Read::Whole(found) = found else { panic!("something is missing") };
            assert_eq!(format!("{found:?}"), format!("{:?}", envelope(names)));
            let expected = if names < 63 { 0 } else { 1 + names * 8 / PIECE };
            assert_eq!(pieces.len(), expected, "{names}");
        }
    }

    #[test]
    fn what_is_allocated_is_what_has_come() {
        let mut head = vec![0; HEAD];
        head[..8].copy_from_slice(&LONGEST.to_le_bytes());
        let Read::Begun(mut begun) = read_head(&head).unwrap() else { panic!("most of it is missing") };
        for count in 1..=8 {
            assert_eq!(begun.next(), PIECE);
            let Read::Begun(more) = begun.add(&vec![0; PIECE]).unwrap() else { panic!("most of it is missing") };
            begun = more;
            assert!(begun.text.capacity() <= 2 * (HEAD + count * PIECE), "{}", begun.text.capacity());
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
