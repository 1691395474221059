//! Base64 that arrives in pieces: whole groups go through SIMD, what is odd goes letter by
//! letter. Takes the standard and the URL-safe alphabet, with padding or without, and blanks
//! in between.

use base64_simd::AsOut as _;

/// Letters that are decoded at once; a multiple of four.
const BLOCK_LETTERS: usize = 8192;
/// What a block becomes.
const BLOCK_BYTES: usize = BLOCK_LETTERS / 4 * 3;

/// A letter that is no base64, or an end in the middle of a byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadBase64;

/// Decodes one image. Between two pushes it holds at most three letters.
#[derive(Debug)]
pub(super) struct Base64 {
    carry: [u8; 4],
    carried: usize,
    padding: usize,
    url_safe: bool,
    out: Vec<u8>,
}

impl Base64 {
    pub(super) fn new() -> Self {
        Self { carry: [0; 4], carried: 0, padding: 0, url_safe: false, out: vec![0; BLOCK_BYTES] }
    }

    /// Ready for the next image.
    pub(super) fn reset(&mut self) {
        (self.carried, self.padding, self.url_safe) = (0, 0, false);
    }

    /// Bytes that this decoder holds.
    pub(super) fn buffered_bytes(&self) -> usize {
        self.out.capacity()
    }

    /// Decodes letters from the front of `bytes` while they come in whole groups, and says how many
    /// bytes were read. Where the image ends need not be known: a block with anything in it that is no
    /// letter is refused as a whole and left to [`Base64::push`].
    pub(super) fn push_front(&mut self, bytes: &[u8], emit: &mut impl FnMut(&[u8])) -> usize {
        let missing = (4 - self.carried) % 4;
        if self.padding > 0 || bytes.len() < missing {
            return 0;
        }
        let (group, mut rest) = bytes.split_at(missing);
        if !group.iter().all(|&letter| value_of(letter).is_some())
            || self.letter_by_letter(group, emit).is_err()
        {
            return 0;
        }
        while rest.len() >= 4 {
            let (block, tail) = rest.split_at(rest.len().min(BLOCK_LETTERS) / 4 * 4);
            if !self.whole_block(block, emit) {
                break;
            }
            rest = tail;
        }
        bytes.len() - rest.len()
    }

    /// Decodes `letters`; every group before a bad letter is still handed to `emit`, so the
    /// outcome does not depend on where the input was split.
    pub(super) fn push(&mut self, letters: &[u8], emit: &mut impl FnMut(&[u8])) -> Result<(), BadBase64> {
        let mut rest = letters;
        while !rest.is_empty() {
            let aligned = self.carried == 0 && self.padding == 0 && rest.len() >= 4;
            let mut length = if aligned { rest.len().min(BLOCK_LETTERS) / 4 * 4 } else { 1 };
            // The padded group goes alone, or the block that it ends would go letter by letter.
            if length > 4 && rest[length - 1] == b'=' {
                length -= 4;
            }
            let (block, tail) = rest.split_at(length);
            if !(aligned && self.whole_block(block, emit)) {
                self.letter_by_letter(block, emit)?;
            }
            rest = tail;
        }
        Ok(())
    }

    /// The end of the image: what was left without padding comes out.
    pub(super) fn finish(&mut self, emit: &mut impl FnMut(&[u8])) -> Result<(), BadBase64> {
        let carried = std::mem::take(&mut self.carried);
        match (carried, self.padding) {
            (0, 0) => Ok(()),
            // Padding that is there must be enough of it; padding that is missing is no loss.
            (2, 0 | 2) | (3, 0 | 1) => {
                self.carry[carried..].fill(0);
                let bytes = group(self.carry);
                emit(&bytes[..carried - 1]);
                Ok(())
            }
            _ => Err(BadBase64),
        }
    }

    /// Whether `block`, a multiple of four letters of one alphabet, went through SIMD.
    fn whole_block(&mut self, block: &[u8], emit: &mut impl FnMut(&[u8])) -> bool {
        let alphabet =
            if self.url_safe { base64_simd::URL_SAFE_NO_PAD } else { base64_simd::STANDARD_NO_PAD };
        match alphabet.decode(block, self.out.as_mut_slice().as_out()) {
            Ok(bytes) => {
                emit(bytes);
                true
            }
            Err(_) => false,
        }
    }

    fn letter_by_letter(&mut self, block: &[u8], emit: &mut impl FnMut(&[u8])) -> Result<(), BadBase64> {
        let mut length = 0;
        let outcome = block.iter().try_for_each(|&letter| {
            if let Some(bytes) = self.letter(letter)? {
                self.out[length..length + 3].copy_from_slice(&bytes);
                length += 3;
            }
            Ok(())
        });
        if length > 0 {
            emit(&self.out[..length]);
        }
        outcome
    }

    fn letter(&mut self, letter: u8) -> Result<Option<[u8; 3]>, BadBase64> {
        let value = match letter {
            b' ' | b'\n' | b'\r' | b'\t' => return Ok(None),
            b'=' if self.carried >= 2 && self.carried + self.padding < 4 => {
                self.padding += 1;
                return Ok(None);
            }
            _ => value_of(letter).filter(|_| self.padding == 0).ok_or(BadBase64)?,
        };
        match letter {
            b'-' | b'_' => self.url_safe = true,
            b'+' | b'/' => self.url_safe = false,
            _ => {}
        }
        self.carry[self.carried] = value;
        self.carried = (self.carried + 1) % 4;
        Ok((self.carried == 0).then(|| group(self.carry)))
    }
}

/// Whether `byte` can stand inside base64 without blanks.
pub(super) const fn is_base64(byte: u8) -> bool {
    byte == b'=' || value_of(byte).is_some()
}

const fn value_of(letter: u8) -> Option<u8> {
    Some(match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

const fn group([a, b, c, d]: [u8; 4]) -> [u8; 3] {
    [a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> (Vec<u8>, Result<(), BadBase64>) {
        let mut decoder = Base64::new();
        let mut bytes = Vec::new();
        let mut emit = |piece: &[u8]| bytes.extend_from_slice(piece);
        let outcome = pieces
            .iter()
            .try_for_each(|piece| decoder.push(piece, &mut emit))
            .and_then(|()| decoder.finish(&mut emit));
        (bytes, outcome)
    }

    #[test]
    fn both_alphabets_with_and_without_padding_and_with_blanks_are_read() {
        for (text, expect) in [
            ("aGVsbG8=", &b"hello"[..]),
            ("aGVsbG8", b"hello"),
            ("aGVs\nbG8=\r\n", b"hello"),
            ("+/+/", b"\xfb\xff\xbf"),
            ("-_-_", b"\xfb\xff\xbf"),
            ("-_+/AA==", b"\xfb\xff\xbf\0"),
            ("", b""),
        ] {
            for split in 0..=text.len() {
                let (left, right) = text.as_bytes().split_at(split);
                assert_eq!(decode(&[left, right]), (expect.to_vec(), Ok(())), "{text} at {split}");
            }
        }
    }

    #[test]
    fn what_is_no_base64_is_an_error_after_the_groups_before_it() {
        for text in ["aGVsb", "aGVsb=", "aGVsbG8==", "aGVsbA=", "aGVs====", "aGVsbG8=aGVs", "aGVs%G8="] {
            for split in 0..=text.len() {
                let (left, right) = text.as_bytes().split_at(split);
                let (bytes, outcome) = decode(&[left, right]);
                assert_eq!(outcome, Err(BadBase64), "{text} at {split}");
                assert_eq!(bytes, b"hel", "{text} at {split}");
            }
        }
    }

    #[test]
    fn long_input_of_either_alphabet_equals_the_reference() {
        let bytes: Vec<u8> =
            (0..100_000u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        for text in
            [base64_simd::STANDARD.encode_to_string(&bytes), base64_simd::URL_SAFE.encode_to_string(&bytes)]
        {
            for size in [1, 3, 4, 1000, 65_536, text.len()] {
                let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
                assert_eq!(decode(&pieces), (bytes.clone(), Ok(())), "pieces of {size}");
            }
        }
    }
}
