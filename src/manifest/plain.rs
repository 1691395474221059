//! Unquoted YAML scalars: what a reader may take them for.

use super::raw::Kind;

/// What YAML takes an unquoted scalar for. Wider than YAML 1.2: what a YAML 1.1 reader takes
/// for a truth value or a number is as ambiguous to a person. `16:9` and dates are text.
pub(super) fn plain_kind(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Kind::Bool,
        "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "on" | "On" | "ON" | "off" | "Off" | "OFF" => {
            Kind::YesNo
        }
        _ if is_number(text) => Kind::Number,
        _ => Kind::Text,
    }
}

fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let all = |digits: &str, radix| {
        let mut any = false;
        digits.chars().all(|c| {
            any |= c.is_digit(radix);
            c.is_digit(radix) || c == '_'
        }) && any
    };
    if let Some((radix, digits)) = ["0x", "0o", "0b"]
        .iter()
        .zip([16, 8, 2])
        .find_map(|(prefix, radix)| Some((radix, unsigned.strip_prefix(prefix)?)))
    {
        return all(digits, radix);
    }
    if matches!(unsigned.to_ascii_lowercase().as_str(), ".inf" | ".nan") {
        return true;
    }
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.is_empty() || all(part, 10);
    all(exponent, 10) && digits(integer) && digits(fraction) && !(integer.is_empty() && fraction.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unquoted_scalars_are_taken_for_what_people_fear() {
        let check = |text: &str, expect| assert_eq!(plain_kind(text), expect, "{text:?}");
        for number in
            ["42", "-1", "+1", "007", "1.5", ".5", "1.", "1e3", "0x1F", "0o17", "1_000", ".inf", "-.NaN"]
        {
            check(number, Kind::Number);
        }
        for text in ["16:9", "1:1", "2026-06-25", "1K", "1.2.3", "0x", "e3", ".", "-", "+", "_", "12 cats"] {
            check(text, Kind::Text);
        }
        check("NO", Kind::YesNo);
        check("True", Kind::Bool);
        check("~", Kind::Null);
    }
}
