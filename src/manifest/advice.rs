//! Warnings: what the API's pages and Google's say against a job that is well formed. They
//! never stop anything, since models, ratios and sizes are open strings.
//!
//! A message holds values and no ids, so that equal ones collapse.

use jiff::civil::Date;

use super::diagnostic::{Collector, Location, excerpt};
use super::suggest::nearest;
use crate::job::{ModelFacts, ModelName, Provider, Reference, known_models, model_facts};

/// Largest inline reference in practice (Google's image pages, read 2026-11).
const REFERENCE_BYTES_USUAL: u64 = 7_000_000;

/// Largest request with inline data in practice (Google: 20 MB in all; gateways cut at about
/// 18 MB; read 2026-11).
const REQUEST_BYTES_USUAL: u64 = 18_000_000;

/// Warns of a model that is unknown or was shut down.
pub(super) fn on_model(model: &ModelName, today: Date, at: Location, out: &mut Collector) {
    let shown = excerpt(model.as_str());
    let Some(facts) = model_facts(model) else {
        let near = nearest(model.as_str(), known_models().iter().map(|facts| facts.name));
        let hint = near.map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
        out.warning(at, format!("the model {shown} is not one that this version knows{hint}"));
        return;
    };
    let Some((day, successor)) = facts.shutdown else { return };
    if day.parse::<Date>().is_ok_and(|day| day <= today) {
        out.warning(
            at,
            format!("Google shut the model {shown} down on {day}; its successor is `{successor}`"),
        );
    }
}

/// Warns of an aspect ratio that is not documented for the model.
pub(super) fn on_ratio(
    ratio: &str,
    model: &ModelName,
    provider: Provider,
    at: Location,
    out: &mut Collector,
) {
    let Some(facts) = model_facts(model) else { return };
    let documented = facts.ratios_documented.contains(&ratio);
    let google = facts.ratios_google.contains(&ratio);
    if documented || (google && provider == Provider::Google) {
        return;
    }
    let mut listed = facts.ratios_documented.to_vec();
    if provider == Provider::Google {
        listed.extend(facts.ratios_google);
    }
    let but = if google { "; Google itself takes it" } else { "" };
    out.warning(at, not_documented("aspect_ratio", ratio, facts, &listed) + but);
}

/// Warns of an image size that is not documented for the model.
pub(super) fn on_size(size: &str, model: &ModelName, provider: Provider, at: Location, out: &mut Collector) {
    let Some(facts) = model_facts(model) else { return };
    let google = facts.sizes.contains(&size);
    if provider == Provider::Google {
        if !google {
            out.warning(at, not_documented("image_size", size, facts, facts.sizes));
        }
    } else if !facts.sizes_documented.contains(&size) {
        let but = if google { "; Google itself takes it" } else { "" };
        out.warning(at, not_documented("image_size", size, facts, facts.sizes_documented) + but);
    } else if !google {
        let but =
            format!("; the provider's pages list it, but Google serves only {}", facts.sizes.join(", "));
        out.warning(at, format!("image_size {} with {}{but}", excerpt(size), facts.name));
    }
}

fn not_documented(key: &str, value: &str, facts: &ModelFacts, listed: &[&str]) -> String {
    let near = nearest(value, listed.iter().copied());
    let hint = near.map_or_else(String::new, |near| format!(", did you mean `{near}`"));
    format!(
        "{key} {} is not documented for {}{hint}; documented are {}",
        excerpt(value),
        facts.name,
        listed.join(", ")
    )
}

/// Warns of references that are more or larger than what is known to work.
pub(super) fn on_references(references: &[Reference], model: &ModelName, at: Location, out: &mut Collector) {
    for reference in references.iter().filter(|reference| reference.bytes > REFERENCE_BYTES_USUAL) {
        let path = reference.path.display().to_string();
        let message = format!(
            "the reference {} has {:.1} MB; above {} MB it may be refused",
            excerpt(&path),
            megabytes(reference.bytes),
            REFERENCE_BYTES_USUAL / 1_000_000
        );
        out.warning(at, message);
    }
    let Some(facts) = model_facts(model) else { return };
    if references.len() > facts.references_max {
        let (found, most, model) = (references.len(), facts.references_max, facts.name);
        out.warning(at, format!("{found} references; {model} takes {most} at most"));
    }
}

/// Warns of a request that is larger than what is known to work.
pub(super) fn on_request_size(bytes: u64, at: Location, out: &mut Collector) {
    if bytes > REQUEST_BYTES_USUAL {
        let (found, most) = (megabytes(bytes), REQUEST_BYTES_USUAL / 1_000_000);
        out.warning(at, format!("the request has about {found:.1} MB; above {most} MB it may be refused"));
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for a message, rounded to one digit")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(warn: impl Fn(&mut Collector)) -> String {
        let mut out = Collector::new("x".into());
        warn(&mut out);
        let text = out.finish().1.to_string();
        text.trim_start_matches("x:1:1: warning: ").to_owned()
    }

    fn model(name: &str) -> ModelName {
        name.parse().expect("a model's name")
    }

    #[test]
    fn a_model_past_its_shutdown_names_its_successor() {
        let check = |name: &str, day: &str, expect: &str| {
            let day = day.parse().expect("a day");
            assert_eq!(warnings(|out| on_model(&model(name), day, Location::START, out)), expect);
        };
        check("gemini-3-pro-image-preview", "2026-06-24", "");
        check(
            "gemini-3-pro-image-preview",
            "2026-06-25",
            "Google shut the model `gemini-3-pro-image-preview` down on 2026-06-25; its successor is `gemini-3-pro-image`",
        );
        check("gemini-3-pro-image", "2030-01-01", "");
        check(
            "gemini-3-pro-imag",
            "2026-01-01",
            "the model `gemini-3-pro-imag` is not one that this version knows, did you mean `gemini-3-pro-image`?",
        );
        check("imagen", "2026-01-01", "the model `imagen` is not one that this version knows");
    }

    #[test]
    fn ratios_and_sizes_outside_the_documented_ones_are_warned_of() {
        let flash = "gemini-3.1-flash-image";
        let ratio = |ratio: &str, provider| {
            warnings(|out| on_ratio(ratio, &model(flash), provider, Location::START, out))
        };
        assert_eq!(ratio("16:9", Provider::Anyfast), "");
        assert_eq!(ratio("21:9", Provider::Google), "");
        assert!(ratio("21:9", Provider::Anyfast).ends_with("; Google itself takes it"));
        assert!(ratio("16x9", Provider::Google).contains("did you mean `16:9`"));
        let size = |model_name: &str, size: &str, provider| {
            warnings(|out| on_size(size, &model(model_name), provider, Location::START, out))
        };
        assert_eq!(size(flash, "4K", Provider::Anyfast), "");
        assert_eq!(size(flash, "512", Provider::Google), "");
        assert!(size(flash, "512", Provider::Anyfast).ends_with("; Google itself takes it"));
        assert!(size(flash, "4k", Provider::Google).contains("did you mean `4K`"));
        assert!(size("gemini-2.5-flash-image", "4K", Provider::Anyfast).contains("Google serves only 1K"));
        assert!(size("gemini-2.5-flash-image", "4K", Provider::Google).contains("documented are 1K"));
    }
}
