//! Globs as the server's regular expressions, with the meaning of SQLite's GLOB.

/// `*` any text, `?` one character, `[a-z]` one of a set, `[^a]` none of it; all else is itself. A set that
/// is never closed matches nothing.
pub(super) fn pattern(glob: &str) -> String {
    let mut regex = String::from("^");
    let mut rest = glob.chars();
    while let Some(c) = rest.next() {
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => match set(rest.as_str()) {
                Some((set, behind)) => {
                    regex.push_str(&set);
                    rest = behind.chars();
                }
                None => return NOTHING.to_owned(),
            },
            c => literal(&mut regex, c),
        }
    }
    regex.push('$');
    regex
}

/// Matches no text.
const NOTHING: &str = "^\\y\\Y";

fn literal(regex: &mut String, c: char) {
    if !c.is_alphanumeric() && c.is_ascii() {
        regex.push('\\');
    }
    regex.push(c);
}

/// A set as a bracket expression, and what comes behind it. A `]` that comes first is one of its members; a range
/// that goes backwards, which the server refuses, has none.
fn set(text: &str) -> Option<(String, &str)> {
    let (is_negated, members) = text.strip_prefix('^').map_or((false, text), |members| (true, members));
    let first = members.chars().next()?;
    let end = first.len_utf8() + members.get(first.len_utf8()..)?.find(']')?;
    let mut set = String::new();
    let mut before = None;
    let mut rest = members.get(..end)?.chars().peekable();
    while let Some(c) = rest.next() {
        before = match (before, rest.peek().copied()) {
            (Some(low), Some(high)) if c == '-' => {
                rest.next();
                if low <= high {
                    member(&mut set, low);
                    set.push('-');
                    member(&mut set, high);
                }
                None
            }
            _ => {
                member(&mut set, c);
                (c != ']').then_some(c)
            }
        };
    }
    let set = match (set.is_empty(), is_negated) {
        (true, true) => ".".to_owned(),
        (true, false) => NOTHING.to_owned(),
        (false, true) => format!("[^{set}]"),
        (false, false) => format!("[{set}]"),
    };
    Some((set, members.get(end + 1..)?))
}

fn member(set: &mut String, c: char) {
    if matches!(c, '\\' | '[' | ']' | '^' | '-') {
        set.push('\\');
    }
    set.push(c);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_becomes_an_anchored_expression() {
        assert_eq!(pattern("a*b?"), "^a.*b.$");
        assert_eq!(pattern("[cd]"), "^[cd]$");
        assert_eq!(pattern("[z-ab]"), "^[zb]$");
        assert_eq!(pattern("x.[^a-z]+"), "^x\\.[^aa-z]\\+$");
        assert_eq!(pattern("[]x]"), "^[\\]x]$");
        assert_eq!(pattern("[x"), NOTHING);
        assert_eq!(pattern("猫"), "^猫$");
    }
}
