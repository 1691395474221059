//! What the texts of an answer say: a caption for people, or where the images lie.
//!
//! Similar gateways were seen to give URLs in three shapes. Two of them are texts: a bare URL
//! as the whole text, and markdown `![…](…)`. (The third is a `fileUri`.)

use super::decode::placeholder_number;

/// Longest URL that is taken for an image's: signed URLs have some hundred bytes.
const URL_BYTES_MAX: usize = 8 << 10;

/// The texts of an answer, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Texts {
    /// What is left for people to read.
    pub(super) caption: String,
    /// `http` and `https` URLs, in their order.
    pub(super) urls: Vec<String>,
}

/// Takes the texts of an answer apart. A stream may cut a URL into several texts, so they are
/// looked at one by one and together.
pub(super) fn take_apart(texts: &[String]) -> Texts {
    let joined = texts.concat();
    if joined.matches("://").count() == 1
        && let Some(url) = bare_url(&joined)
    {
        return Texts { caption: String::new(), urls: vec![url.to_owned()] };
    }
    let mut found = Texts::default();
    let mut prose = String::new();
    for text in texts {
        match bare_url(text) {
            Some(url) => found.urls.push(url.to_owned()),
            None => prose.push_str(text),
        }
    }
    let mut rest = prose.as_str();
    while let Some((before, url, after)) = next_markdown_image(rest) {
        found.caption.push_str(before);
        if is_url(url) {
            found.urls.push(url.to_owned());
        }
        rest = after;
    }
    found.caption.push_str(rest);
    Texts { caption: found.caption.trim().to_owned(), ..found }
}

/// The number of every image that stood in `text` as a `data:` URL.
pub(super) fn embedded_images(text: &str) -> Vec<usize> {
    text.match_indices(";base64,#")
        .filter_map(|(at, mark)| {
            let digits = &text[at + mark.len() - 1..];
            let end = digits[1..].find(|c: char| !c.is_ascii_digit()).map_or(digits.len(), |end| end + 1);
            placeholder_number(&digits[..end])
        })
        .collect()
}

/// `text` as a URL that may lead to an image.
pub(super) fn bare_url(text: &str) -> Option<&str> {
    let text = text.trim();
    is_url(text).then_some(text)
}

fn is_url(text: &str) -> bool {
    let has_scheme = ["https://", "http://"].iter().any(|scheme| {
        text.len() > scheme.len() && text.as_bytes()[..scheme.len()].eq_ignore_ascii_case(scheme.as_bytes())
    });
    has_scheme && text.len() <= URL_BYTES_MAX && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// The next `![alt](target)` or `![alt](target "title")`: what is before it, its target, and
/// what comes after it. Only targets that are URLs count; all else is prose.
fn next_markdown_image(text: &str) -> Option<(&str, &str, &str)> {
    for (start, _) in text.match_indices("![") {
        let Some(middle) = text[start..].find("](").map(|at| start + at) else { break };
        let target = &text[middle + 2..];
        let Some(end) = target.find(')') else { break };
        let url = target[..end].split_whitespace().next().unwrap_or_default();
        let url = url.trim_start_matches('<').trim_end_matches('>');
        if is_url(url) || url.starts_with("data:") {
            return Some((&text[..start], url, &target[end + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(texts: &[&str], caption: &str, urls: &[&str]) {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let expect =
            Texts { caption: caption.to_owned(), urls: urls.iter().map(|&url| url.to_owned()).collect() };
        assert_eq!(take_apart(&texts), expect, "{texts:?}");
    }

    #[test]
    fn urls_are_found_in_all_their_shapes_and_captions_stay() {
        check(&[], "", &[]);
        check(&["A frog ", "on a leaf.\n"], "A frog on a leaf.", &[]);
        check(&[" https://x.test/a.png?b=c \n"], "", &["https://x.test/a.png?b=c"]);
        check(&["https://x.te", "st/a.png"], "", &["https://x.test/a.png"]);
        check(&["https://x.test/1", "https://x.test/2"], "", &["https://x.test/1", "https://x.test/2"]);
        check(&["Here:", "https://x.test/1"], "Here:", &["https://x.test/1"]);
        check(&["see https://x.test/1 for more"], "see https://x.test/1 for more", &[]);
        check(&["A ![frog](https://x.test/", "a.png) now"], "A  now", &["https://x.test/a.png"]);
        check(
            &["![1](https://x.test/1)\n![2](<http://127.0.0.1:9/2> \"two\")"],
            "",
            &["https://x.test/1", "http://127.0.0.1:9/2"],
        );
        check(&["![frog](data:image/png;base64,#0)"], "", &[]);
        check(&["![frog](leaf.png) ![", "![a]("], "![frog](leaf.png) ![![a](", &[]);
        check(&["ftp://x.test/a", " gs://b/c"], "ftp://x.test/a gs://b/c", &[]);
        check(&["https://"], "https://", &[]);
    }

    #[test]
    fn the_numbers_of_embedded_images_are_found() {
        assert_eq!(embedded_images("![](data:image/png;base64,#0) data:image/jpeg;base64,#12"), [0, 12]);
        assert!(embedded_images("#3 ;base64,#x ;base64,#99999 ;base64,#").is_empty());
    }
}
