//! Ids and output names: made where they are not given, and each given once.
//!
//! Of every job only two hashes and two numbers are kept, so that a manifest of millions fits.
//! The hashes have 64 bits and a random key: among a million names the chance that two
//! different ones look equal is 1 in 37 million, and another run would tell them apart.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use deunicode::deunicode;

use crate::job::{JobName, OutputName, Spec};

/// Characters of the prompt that a derived id shows at most.
const SLUG_CHARS_MAX: usize = 40;

/// Characters of a prompt that a slug is looked for in.
const SLUG_SOURCE_CHARS: usize = 200;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Its line.
    pub(super) line: u32,
    /// Its number among the jobs, from 1.
    pub(super) number: u32,
}

/// All names of a manifest so far.
#[derive(Debug, Default)]
pub(super) struct Names {
    hasher: RandomState,
    ids: HashMap<u64, Place>,
    outputs: HashMap<u64, Place>,
    /// How often a derived id was wanted again.
    repeats: HashMap<u64, u32>,
}

impl Names {
    /// Takes an id that the manifest gives, or says who has it.
    pub(super) fn claim_id(&mut self, id: &JobName, place: Place) -> Result<(), Place> {
        claim(&mut self.ids, self.hasher.hash_one(id.as_str()), place)
    }

    /// Takes an output's name, or says who has one that is the same file on some disk.
    pub(super) fn claim_output(&mut self, output: &OutputName, place: Place) -> Result<(), Place> {
        claim(&mut self.outputs, self.hasher.hash_one(output.key()), place)
    }

    /// Makes an id from what a job asks for: the prompt's first words and its digest, and for
    /// an exact repeat `-2`, `-3` … Never from its place, or a row inserted on top would make
    /// all jobs below new ones.
    pub(super) fn derive_id(&mut self, spec: &Spec, place: Place) -> Option<JobName> {
        let base = format!("{}-{}", slug(&spec.prompt), spec.content_digest().short());
        let repeat = self.repeats.entry(self.hasher.hash_one(&base)).or_insert(0);
        // Each turn meets another id of this manifest, so it ends.
        loop {
            *repeat += 1;
            let id = if *repeat == 1 { base.clone() } else { format!("{base}-{repeat}") };
            if claim(&mut self.ids, self.hasher.hash_one(&id), place).is_ok() {
                return id.parse().ok();
            }
        }
    }
}

fn claim(taken: &mut HashMap<u64, Place>, hash: u64, place: Place) -> Result<(), Place> {
    let first = *taken.entry(hash).or_insert(place);
    if first == place { Ok(()) } else { Err(first) }
}

/// The first words of a prompt in lower-case ASCII with hyphens; `job` when nothing is left.
fn slug(prompt: &str) -> String {
    let start: String = prompt.chars().take(SLUG_SOURCE_CHARS).collect();
    let ascii = deunicode(&start).to_ascii_lowercase();
    let mut slug = String::new();
    for word in ascii.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        let room = SLUG_CHARS_MAX.saturating_sub(slug.len());
        if slug.is_empty() {
            slug.extend(word.chars().take(room));
        } else if word.len() < room {
            slug.push('-');
            slug.push_str(word);
        } else {
            break;
        }
    }
    if slug.is_empty() { "job".to_owned() } else { slug }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::ModelName;

    fn place(number: u32) -> Place {
        Place { line: number, number }
    }

    fn spec(prompt: &str) -> Spec {
        Spec::new(prompt, ModelName::default_model())
    }

    #[test]
    fn a_slug_is_short_readable_ascii() {
        let check = |prompt: &str, expect: &str| assert_eq!(slug(prompt), expect);
        check(
            "A bottle of mineral water on wet slate, morning light",
            "a-bottle-of-mineral-water-on-wet-slate",
        );
        check("  Größe: Übermut!", "grosse-ubermut");
        check("猫", "mao");
        check("… !!", "job");
        check("\u{e000}", "job");
        check(&"x".repeat(90), &"x".repeat(40));
    }

    #[test]
    fn repeats_are_numbered_and_taken_ids_are_stepped_over() {
        let mut names = Names::default();
        let first = names.derive_id(&spec("a cat"), place(1)).expect("an id");
        let digest = spec("a cat").content_digest().short();
        assert_eq!(first.as_str(), format!("a-cat-{digest}"));
        let taken: JobName = format!("{first}-2").parse().expect("an id");
        assert_eq!(names.claim_id(&taken, place(2)), Ok(()));
        let next = names.derive_id(&spec("a cat"), place(3)).expect("an id");
        assert_eq!(next.as_str(), format!("{first}-3"));
        assert_eq!(names.claim_id(&first, place(4)), Err(place(1)));
    }

    #[test]
    fn outputs_that_one_disk_would_fold_collide() {
        let mut names = Names::default();
        let mut claim = |text: &str, n| names.claim_output(&text.parse().expect("a name"), place(n));
        assert_eq!(claim("Hero/Ä", 1), Ok(()));
        assert_eq!(claim("hero/a\u{308}", 2), Err(place(1)));
        assert_eq!(claim("hero", 3), Ok(()));
    }
}
