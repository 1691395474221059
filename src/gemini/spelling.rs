//! A secret in a text, however a server's software escaped it: each of its characters as it is,
//! percent-encoded, as an HTML entity, or as a JSON escape, and each of these escaped once more.
//! No list of encoders is needed, and none that nobody thought of is missed.

/// How often an escape may itself be escaped: `%` as `%25`, `&` as `&amp;`, `\` as `\\`.
const ESCAPED_AGAIN_MAX: usize = 3;

/// HTML's names of ASCII punctuation (WHATWG, 2026-11).
const ENTITIES: [(u8, &[u8]); 38] = [
    (b'!', b"excl;"),
    (b'"', b"quot;"),
    (b'#', b"num;"),
    (b'$', b"dollar;"),
    (b'%', b"percnt;"),
    (b'&', b"amp;"),
    (b'\'', b"apos;"),
    (b'(', b"lpar;"),
    (b')', b"rpar;"),
    (b'*', b"ast;"),
    (b'*', b"midast;"),
    (b'+', b"plus;"),
    (b',', b"comma;"),
    (b'.', b"period;"),
    (b'/', b"sol;"),
    (b':', b"colon;"),
    (b';', b"semi;"),
    (b'<', b"lt;"),
    (b'=', b"equals;"),
    (b'>', b"gt;"),
    (b'?', b"quest;"),
    (b'@', b"commat;"),
    (b'[', b"lbrack;"),
    (b'[', b"lsqb;"),
    (b'\\', b"bsol;"),
    (b']', b"rbrack;"),
    (b']', b"rsqb;"),
    (b'^', b"hat;"),
    (b'_', b"lowbar;"),
    (b'_', b"underbar;"),
    (b'`', b"grave;"),
    (b'`', b"diacriticalgrave;"),
    (b'{', b"lbrace;"),
    (b'{', b"lcub;"),
    (b'|', b"vert;"),
    (b'|', b"verbar;"),
    (b'}', b"rbrace;"),
    (b'}', b"rcub;"),
];

/// `text` with `instead` for every one of `secrets` (of ASCII), the first that fits at each place.
pub(super) fn without(text: &str, secrets: &[String], instead: &str) -> String {
    let bytes = text.as_bytes();
    let mut clean = String::with_capacity(text.len());
    let (mut kept, mut at) = (0, 0);
    while at < bytes.len() {
        match secrets.iter().find_map(|secret| end_of(secret.as_bytes(), bytes, at)) {
            Some(end) => {
                // Secrets are ASCII in every spelling, so both ends lie between characters.
                clean.push_str(text.get(kept..at).unwrap_or_default());
                clean.push_str(instead);
                (kept, at) = (end, end);
            }
            None => at += 1,
        }
    }
    clean.push_str(text.get(kept..).unwrap_or_default());
    clean
}

/// Where `secret` ends if it begins at `at`. A `%` may stand for itself or begin an escape, so all
/// ways of reading are followed.
fn end_of(secret: &[u8], text: &[u8], at: usize) -> Option<usize> {
    let first = secret.first()?;
    let begins = text.get(at)?;
    if !begins.eq_ignore_ascii_case(first) && !matches!(begins, b'%' | b'&' | b'\\') {
        return None;
    }
    let (mut ends, mut next) = (vec![at], Vec::new());
    for &character in secret {
        for end in ends.drain(..) {
            spelled(character, text, end, &mut |end| {
                if !next.contains(&end) {
                    next.push(end);
                }
            });
        }
        if next.is_empty() {
            return None;
        }
        std::mem::swap(&mut ends, &mut next);
    }
    ends.into_iter().max()
}

/// Tells every place where `character` may end whose spelling begins at `at`.
fn spelled(character: u8, text: &[u8], at: usize, tell: &mut impl FnMut(usize)) {
    let rest = |at: usize| text.get(at..).unwrap_or_default();
    let plain = |at: usize| text.get(at).is_some_and(|found| found.eq_ignore_ascii_case(&character));
    let hex = |at: usize, digits: usize| {
        let found = text.get(at..at + digits).and_then(|digits| number(digits, 16));
        found.is_some_and(|found| is_letter(found, character))
    };
    if plain(at) {
        tell(at + 1);
    }
    match text.get(at) {
        Some(b'%') => {
            for from in escaped_again(text, at + 1, b"25") {
                if hex(from, 2) {
                    tell(from + 2);
                }
            }
        }
        Some(b'&') => {
            for from in escaped_again(text, at + 1, b"amp;") {
                entity(character, text, from, tell);
            }
        }
        Some(b'\\') => {
            // `\\\/` is `\/` in JSON in JSON: escapes double, so any few of them are taken.
            for from in escaped_again_doubling(rest(at)).map(|backslashes| at + backslashes) {
                match text.get(from) {
                    Some(b'u' | b'U') if hex(from + 1, 4) => tell(from + 5),
                    Some(b'x' | b'X') if hex(from + 1, 2) => tell(from + 3),
                    _ => {}
                }
                if character == b'\\' {
                    tell(from);
                } else if plain(from) && !character.is_ascii_alphanumeric() {
                    tell(from + 1);
                }
            }
        }
        _ => {}
    }
}

/// `#38;`, `#x26;`, `#x00026;` or `amp;`, after the `&`.
fn entity(character: u8, text: &[u8], from: usize, tell: &mut impl FnMut(usize)) {
    /// Longest number with leading zeros that is read.
    const DIGITS_MAX: usize = 8;
    let rest = text.get(from..).unwrap_or_default();
    if let [b'#', number_text @ ..] = rest {
        let (radix, digits) = match number_text {
            [b'x' | b'X', digits @ ..] => (16, digits),
            digits => (10, digits),
        };
        if let Some(length) = digits.iter().take(DIGITS_MAX + 1).position(|byte| *byte == b';')
            && digits
                .get(..length)
                .and_then(|digits| number(digits, radix))
                .is_some_and(|n| is_letter(n, character))
        {
            tell(from + (rest.len() - digits.len()) + length + 1);
        }
    }
    for (_, name) in ENTITIES.iter().filter(|(of, _)| *of == character) {
        if rest.get(..name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name)) {
            tell(from + name.len());
        }
    }
}

/// The places after none, one … of `escape` that stand one behind the other from `at` on.
fn escaped_again<'a>(text: &'a [u8], at: usize, escape: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    (0..=ESCAPED_AGAIN_MAX).map(move |n| at + n * escape.len()).take_while(move |end| {
        text.get(at..*end)
            .is_some_and(|found| found.chunks(escape.len()).all(|one| one.eq_ignore_ascii_case(escape)))
    })
}

/// The numbers of backslashes that `text` begins with, up to what doubling makes of one.
fn escaped_again_doubling(text: &[u8]) -> impl Iterator<Item = usize> {
    let found = text.iter().take(1 << ESCAPED_AGAIN_MAX).take_while(|byte| **byte == b'\\').count();
    1..=found
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    // A sign is no digit, but `from_str_radix` takes one.
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u32::from_str_radix(digits, radix).ok()
}

fn is_letter(code: u32, character: u8) -> bool {
    u8::try_from(code).is_ok_and(|code| code.eq_ignore_ascii_case(&character))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(secret: &str, text: &str, expect: &str) {
        assert_eq!(without(text, &[secret.to_owned()], "*"), expect, "{secret} in {text}");
    }

    #[test]
    fn every_character_may_be_escaped_in_its_own_way() {
        check("a&b", "x a&b a&amp;b a&#38;b a%26b A\\u0026B &#x61;%26b y", "x * * * * * * y");
        check("a%b", "a%b a%25b a%2525b a%252525b a&percnt;b", "* * * * *");
        check("a%25b", "a%25b a%2525b", "* *");
        check("a\\b", "a\\b a\\\\b a\\\\\\\\b a%5Cb", "* * * *");
        check("a/b\"c", r#"a\/b\"c a\\\/b\\\"c a&sol;b&quot;c a&amp;#47;b&amp;quot;c"#, "* * * *");
        check("<'>", "&lt;&#39;&gt; &lt;&#039;&gt; &lt;&apos;&gt; &lt;&#x27;&gt;", "* * * *");
    }

    #[test]
    fn what_is_not_the_secret_stays() {
        check("a&b", "a&ampb a&#39;b ab a&", "a&ampb a&#39;b ab a&");
        check("abc", "äabüc %61%62 \\u0061\\u0062 &#97;", "äabüc %61%62 \\u0061\\u0062 &#97;");
        check("nn", "\\n\\n", "\\n\\n");
        check("ab", "ääabää", "ää*ää");
    }
}
