//! What the fuzzing tests share: a corpus of inputs, and changes to them that keep their shape
//! mostly, so that what is behind the first syntax error is reached too.
//!
//! A run is bounded and the same each time. `NIGHTPRESS_FUZZ_CASES=100000 cargo test fuzz` looks
//! further, `NIGHTPRESS_SEED=n` elsewhere; what is found is printed, made as small as it goes, and
//! belongs into `tests/corpus/` with the fix.

use std::fs;
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

/// Inputs of a usual run, for each target.
const CASES: u32 = 2_000;

/// Changes to one input at most.
const CHANGES_MAX: usize = 6;

/// How long a fuzzing test goes on.
pub(crate) fn config() -> ProptestConfig {
    let from_env = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let cases = from_env("NIGHTPRESS_FUZZ_CASES").map_or(CASES, |n| u32::try_from(n).unwrap_or(u32::MAX));
    let rng_seed = RngSeed::Fixed(from_env("NIGHTPRESS_SEED").unwrap_or(1));
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

/// An input; a failing one is printed so that it can be read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Input {
    /// The corpus' file that it was made from.
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} as b\"{}\"", self.name, self.bytes.escape_ascii())
    }
}

/// Inputs of `tests/corpus/<folder>`, changed at up to [`CHANGES_MAX`] places.
pub(crate) fn mutated(folder: &str) -> impl Strategy<Value = Input> + use<> {
    let corpus = corpus(folder);
    let donors: Vec<Vec<u8>> = corpus.iter().map(|input| input.bytes.clone()).collect();
    (prop::sample::select(corpus), vec(change(donors), 0..=CHANGES_MAX)).prop_map(|(input, changes)| {
        let bytes = changes.into_iter().fold(input.bytes, |bytes, change| change.apply(&bytes));
        Input { name: input.name, bytes }
    })
}

/// In the order of their names, so that a seed means the same everywhere.
fn corpus(folder: &str) -> Vec<Input> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(folder);
    let mut inputs: Vec<Input> = fs::read_dir(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .map(|entry| entry.expect("an entry").path())
        .map(|file| {
            let name = file.file_name().expect("a name").to_string_lossy().into_owned();
            Input { name, bytes: fs::read(&file).expect("readable") }
        })
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "no corpus in {}", path.display());
    inputs
}

/// One change; places are shares of whatever length there is when it is made.
#[derive(Debug, Clone)]
enum Change {
    Replace(Index, u8),
    Remove(Index, Index),
    Repeat(Index, Index, u8),
    Insert(Index, Vec<u8>),
    /// A piece of another input of the corpus.
    Splice(Index, Vec<u8>),
    CutOff(Index),
}

fn change(donors: Vec<Vec<u8>>) -> impl Strategy<Value = Change> {
    let place = || any::<Index>();
    let piece = (prop::sample::select(donors), place(), place()).prop_map(|(donor, one, other)| {
        let (from, to) = range(&donor, one, other);
        donor[from..to].to_vec()
    });
    prop_oneof![
        3 => (place(), any::<u8>()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        2 => (place(), place()).prop_map(|(one, other)| Change::Remove(one, other)),
        1 => (place(), place(), 1..40_u8).prop_map(|(one, other, times)| Change::Repeat(one, other, times)),
        3 => (place(), prop::sample::select(words())).prop_map(|(at, word)| Change::Insert(at, word)),
        2 => (place(), piece).prop_map(|(at, piece)| Change::Splice(at, piece)),
        1 => place().prop_map(Change::CutOff),
    ]
}

/// What breaks readers of text, JSON, YAML, CSV and streams.
fn words() -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = [
        "\0",
        "\"",
        "\\",
        "\\u0000",
        "\\ud800",
        "\r",
        "\n",
        "\n\n",
        "\r\n\r\n",
        "\t",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "- ",
        "? ",
        "&a ",
        "*a",
        "<<: *a",
        "|\n",
        ">-\n",
        "#",
        "%YAML 1.2\n",
        "---\n",
        "...\n",
        "!!binary ",
        "null",
        "~",
        "1e999",
        "-0",
        "99999999999999999999",
        "\u{feff}",
        "\u{2028}",
        "\u{202e}",
        "\u{1f438}",
        "\u{1b}[31m",
        "../",
        "/etc/passwd",
        "CON",
        "{{ id }}",
        "{% for x in range(9) %}",
        "data: ",
        "data:image/png;base64,",
        ": ",
        "[DONE]",
        "<html>",
        "retry in ",
        "s",
        "=",
        "==",
        "limit: ",
    ]
    .map(|word| word.as_bytes().to_vec())
    .to_vec();
    words.extend([vec![0xff], vec![0xc0, 0x80], vec![0xed, 0xa0, 0x80], vec![0xf4, 0x90, 0x80, 0x80]]);
    words
}

fn range(bytes: &[u8], one: Index, other: Index) -> (usize, usize) {
    let (one, other) = (one.index(bytes.len() + 1), other.index(bytes.len() + 1));
    (one.min(other), one.max(other))
}

impl Change {
    fn apply(self, bytes: &[u8]) -> Vec<u8> {
        let at = |place: Index| bytes.split_at(place.index(bytes.len() + 1));
        match self {
            Self::Replace(place, byte) => {
                let (head, tail) = at(place);
                [head, &[byte], tail.get(1..).unwrap_or_default()].concat()
            }
            Self::Remove(one, other) => {
                let (from, to) = range(bytes, one, other);
                [&bytes[..from], &bytes[to..]].concat()
            }
            Self::Repeat(one, other, times) => {
                let (from, to) = range(bytes, one, other);
                [&bytes[..from], &bytes[from..to].repeat(times.into()), &bytes[to..]].concat()
            }
            Self::Insert(place, piece) | Self::Splice(place, piece) => {
                let (head, tail) = at(place);
                [head, &piece, tail].concat()
            }
            Self::CutOff(place) => at(place).0.to_vec(),
        }
    }
}
