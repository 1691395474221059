//! Whatever stands in a manifest: no panic, no hang, and either jobs or an error with its place.

use proptest::prelude::*;

use super::*;
use crate::fuzz;

proptest! {
    #![proptest_config(fuzz::config())]

    #[test]
    fn any_manifest_gives_jobs_or_errors_on_lines_that_it_has(fuzz::Input { name, bytes } in fuzz::mutated("manifests")) {
        let fixture = Fixture::new();
        let outcome = fixture.read(&name, &bytes);
        prop_assert!(!outcome.jobs.is_empty() || !outcome.errors.is_empty(), "{}", name);
        let lines = 1 + bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
        for error in outcome.errors.lines().chain(outcome.warnings.lines()) {
            prop_assert!(!error.chars().any(char::is_control), "{:?}", error);
            let place = error.strip_prefix(&format!("{name}:")).and_then(|rest| rest.split(':').next());
            if let Some(line) = place.and_then(|line| line.parse::<usize>().ok()) {
                prop_assert!((1..=lines).contains(&line), "{} of {} lines", error, lines);
            }
        }
        for job in &outcome.jobs {
            // Names were checked while the manifest was read: each is one that the disk may have.
            prop_assert_eq!(job.output.as_str().parse().ok(), Some(job.output.clone()));
            prop_assert!(!job.spec.prompt.trim().is_empty());
        }
    }
}
