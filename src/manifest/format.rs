//! Which of the four formats a manifest is in: its extension says so.

use std::path::Path;

/// A manifest's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `.yaml`, `.yml`.
    Yaml,
    /// `.json`: one object, as in YAML.
    Json,
    /// `.jsonl`, `.ndjson`: a job a line; also standard input.
    Jsonl,
    /// `.csv`: a row a job.
    Csv,
}

impl Format {
    /// The format that `path`'s extension names, whatever its case.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        Some(match extension.as_str() {
            "yaml" | "yml" => Self::Yaml,
            "json" => Self::Json,
            "jsonl" | "ndjson" => Self::Jsonl,
            "csv" => Self::Csv,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_names_the_format() {
        let check = |path: &str, expect| assert_eq!(Format::of(Path::new(path)), expect, "{path}");
        check("a/b.yaml", Some(Format::Yaml));
        check("b.YML", Some(Format::Yaml));
        check("b.json", Some(Format::Json));
        check("b.jsonl", Some(Format::Jsonl));
        check("b.ndjson", Some(Format::Jsonl));
        check("b.csv", Some(Format::Csv));
        check("b.txt", None);
        check("yaml", None);
    }
}
