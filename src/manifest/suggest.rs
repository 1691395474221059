//! "Did you mean": the known word that is nearest to an unknown one.

/// The candidate that `word` was probably meant to be. Case, `_`, `-` and blanks do not count
/// (`aspectRatio`, `aspect-ratio`); beyond that, one slip for every three letters is forgiven.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(word);
    let slips_max = (folded.chars().count() / 3).min(3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&folded, &fold(candidate)), candidate))
        .filter(|(slips, _)| *slips <= slips_max)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, candidate)| candidate)
}

/// Longest word that is compared; the comparison's cost grows with the product of lengths.
const WORD_CHARS_MAX: usize = 64;

fn fold(word: &str) -> String {
    let letters = word.chars().filter(|c| !matches!(c, '_' | '-' | ' '));
    letters.take(WORD_CHARS_MAX).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_forgiven_and_other_words_are_not() {
        let keys = ["id", "prompt", "references", "aspect_ratio", "image_size"];
        let check = |word: &str, expect| assert_eq!(nearest(word, keys), expect, "{word}");
        check("promt", Some("prompt"));
        check("Prompt", Some("prompt"));
        check("aspect-ratio", Some("aspect_ratio"));
        check("aspectRatio", Some("aspect_ratio"));
        check("reference", Some("references"));
        check("ID", Some("id"));
        check("locale", None);
        check("sku", None);
        check("", None);
    }
}
