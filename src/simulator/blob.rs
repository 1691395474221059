//! Large strings of an answer, kept out of the JSON until it is written: a placeholder stands
//! for each, so that no serialiser goes over megabytes of base64.

use bytes::Bytes;

use crate::job::Digest;

/// The strings, and the mark that their placeholders carry.
#[derive(Debug)]
pub(super) struct Blobs {
    mark: String,
    list: Vec<Bytes>,
}

/// A stretch of an answer's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// It is one of the large strings.
    pub(super) blob: bool,
}

impl Blobs {
    /// The mark comes from the request's digest, which no prompt can contain.
    pub(super) fn new(ask: &Digest) -> Self {
        Self { mark: format!("blob-{ask}-"), list: Vec::new() }
    }

    /// Keeps a text that stands between quotes exactly as it is; what is returned stands for it.
    pub(super) fn add(&mut self, text: Bytes) -> String {
        self.list.push(text);
        format!("{}{:04}", self.mark, self.list.len() - 1)
    }

    /// Whether a text holds a placeholder.
    pub(super) fn within(&self, text: &str) -> bool {
        text.contains(&self.mark)
    }

    /// A text with the strings in their places.
    pub(super) fn fill_in(&self, text: &str) -> Vec<Piece> {
        let plain = |text: &str| Piece { bytes: Bytes::copy_from_slice(text.as_bytes()), blob: false };
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(&self.mark) {
            let (number, after) = after.split_at(after.len().min(4));
            pieces.push(plain(before));
            if let Some(bytes) = number.parse().ok().and_then(|number: usize| self.list.get(number)) {
                pieces.push(Piece { bytes: bytes.clone(), blob: true });
            }
            rest = after;
        }
        pieces.push(plain(rest));
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_in_their_places() {
        let mut blobs = Blobs::new(&Digest::of(b"ask"));
        let (a, b) = (blobs.add("AAAA".into()), blobs.add("BBBB".into()));
        let filled = blobs.fill_in(&format!("[\"{b}\",\"{a}\"]"));
        let text: Vec<u8> = filled.iter().flat_map(|piece| piece.bytes.to_vec()).collect();
        assert_eq!(String::from_utf8(text).expect("ascii"), "[\"BBBB\",\"AAAA\"]");
        assert_eq!(filled.iter().filter(|piece| piece.blob).count(), 2);
    }
}
