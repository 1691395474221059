//! Text patterns: `{{ tags.locale }}/{{ id }}` in `output`, and in a prompt that asks for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Object, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Template, UndefinedBehavior};

use super::diagnostic::excerpt;
use super::suggest::nearest;

/// The output's pattern when a manifest gives none.
pub(super) const DEFAULT_OUTPUT: &str = "{{ id }}";

/// Compiled patterns that are kept. A manifest has one or two for `output`; each prompt may
/// be one of its own, and those need not be kept.
const COMPILED_MAX: usize = 1000;

/// What a pattern can speak of, beside `tags.…`.
const NAMES: [&str; 4] = ["id", "model", "aspect_ratio", "image_size"];

/// The values of one job.
#[derive(Debug, Clone)]
pub(super) struct Values {
    /// Not for the prompt of a job whose id is made from it.
    pub(super) id: Option<String>,
    pub(super) model: String,
    pub(super) aspect_ratio: Option<String>,
    pub(super) image_size: Option<String>,
    pub(super) tags: BTreeMap<String, String>,
}

impl Values {
    fn get(&self, name: &str) -> Option<&str> {
        match name {
            "id" => self.id.as_deref(),
            "model" => Some(&self.model),
            "aspect_ratio" => self.aspect_ratio.as_deref(),
            "image_size" => self.image_size.as_deref(),
            _ => None,
        }
    }
}

/// Steps of one pattern. A name takes ten, a prompt with a loop over its tags a thousand.
const FUEL: u64 = 50_000;

/// Patterns, each compiled once.
pub(super) struct Patterns {
    environment: Environment<'static>,
    compiled: usize,
}

impl Patterns {
    pub(super) fn new() -> Self {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        // A loop over a million numbers has no place in a file name.
        environment.remove_global("range");
        environment.set_fuel(Some(FUEL));
        if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
            environment.set_syntax(syntax);
        }
        Self { environment, compiled: 0 }
    }

    /// Why `pattern` is none.
    pub(super) fn check(&mut self, pattern: &str) -> Result<(), String> {
        if is_literal(pattern) || pattern == DEFAULT_OUTPUT {
            return Ok(());
        }
        self.compile(pattern).map(|_| ())
    }

    /// `pattern` with a job's values in it.
    pub(super) fn render(&mut self, pattern: &str, values: &Values) -> Result<String, String> {
        if is_literal(pattern) {
            return Ok(pattern.to_owned());
        }
        if let (DEFAULT_OUTPUT, Some(id)) = (pattern, &values.id) {
            return Ok(id.clone());
        }
        let template = self.compile(pattern)?;
        let context = Value::from_object(Context(Arc::new(values.clone())));
        template.render(context).map_err(|error| explain(&error, &template, values))
    }

    /// A pattern goes by its own text as its name.
    fn compile(&mut self, pattern: &str) -> Result<Template<'_, '_>, String> {
        if self.environment.get_template(pattern).is_err() {
            if self.compiled >= COMPILED_MAX {
                self.environment.clear_templates();
                self.compiled = 0;
            }
            let added = self.environment.add_template_owned(pattern.to_owned(), pattern.to_owned());
            added.map_err(|error| describe(&error))?;
            self.compiled += 1;
        }
        self.environment.get_template(pattern).map_err(|error| describe(&error))
    }
}

/// Nothing in it is a pattern.
fn is_literal(text: &str) -> bool {
    !["{{", "{%", "{#"].iter().any(|open| text.contains(open))
}

fn describe(error: &Error) -> String {
    let kind = error.kind();
    error.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {}", excerpt(detail)))
}

/// Why rendering failed; for a name without a value, which one and what there is.
fn explain(error: &Error, template: &Template<'_, '_>, values: &Values) -> String {
    if error.kind() != ErrorKind::UndefinedError {
        return describe(error);
    }
    let mut wanted: Vec<String> = template.undeclared_variables(true).into_iter().collect();
    wanted.sort();
    let missing = wanted.iter().find_map(|name| match name.strip_prefix("tags.") {
        Some(tag) => (!values.tags.contains_key(tag)).then(|| missing_tag(tag, values)),
        None => (name != "tags" && values.get(name).is_none()).then(|| missing_name(name, values)),
    });
    missing.unwrap_or_else(|| describe(error))
}

fn missing_tag(tag: &str, values: &Values) -> String {
    let known: Vec<String> = values.tags.keys().take(20).map(|tag| excerpt(tag)).collect();
    let wanted = excerpt(&format!("tags.{tag}"));
    if known.is_empty() {
        return format!("{wanted} has no value: this job has no tags");
    }
    let near = nearest(tag, values.tags.keys().map(String::as_str));
    let hint =
        near.map_or_else(String::new, |near| format!(", did you mean {}", excerpt(&format!("tags.{near}"))));
    format!("{wanted} has no value{hint}; this job's tags are {}", known.join(", "))
}

fn missing_name(name: &str, values: &Values) -> String {
    let wanted = excerpt(name);
    if name == "id" {
        return "`id` has no value here: this job's id is made from its prompt; give it an id".to_owned();
    }
    if NAMES.contains(&name) {
        return format!("{wanted} has no value: this job gives none");
    }
    if values.tags.contains_key(name) {
        return format!("{wanted} is unknown, did you mean {}?", excerpt(&format!("tags.{name}")));
    }
    format!("{wanted} is unknown; a pattern can use {}, tags.…", NAMES.join(", "))
}

/// A job's values as minijinja sees them.
#[derive(Debug)]
struct Context(Arc<Values>);

impl Object for Context {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "tags" => Some(Value::from_object(Tags(Arc::clone(&self.0)))),
            name => self.0.get(name).map(Value::from),
        }
    }
}

#[derive(Debug)]
struct Tags(Arc<Values>);

impl Object for Tags {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.tags.get(key.as_str()?).map(|text| Value::from(text.as_str()))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.tags.keys().map(|key| Value::from(key.as_str())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> Values {
        Values {
            id: Some("hero".to_owned()),
            model: "m".to_owned(),
            aspect_ratio: Some("16:9".to_owned()),
            image_size: None,
            tags: [("locale", "de"), ("a b", "<x>")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        }
    }

    fn render(pattern: &str) -> Result<String, String> {
        Patterns::new().render(pattern, &values())
    }

    #[test]
    fn patterns_are_filled_in() {
        let check =
            |pattern: &str, expect: &str| assert_eq!(render(pattern).as_deref(), Ok(expect), "{pattern}");
        check("{{ id }}", "hero");
        check("plain } text {", "plain } text {");
        check("{{ tags.locale }}/{{ id }}", "de/hero");
        check("{{ tags['a b'] }}.html", "<x>.html");
        check("{{ aspect_ratio | replace(':', 'x') }}-{{ model }}\n", "16x9-m\n");
        check("{{ tags.sku | default('none') }}", "none");
        check("{% for tag in tags %}{{ tag }};{% endfor %}", "a b;locale;");
    }

    #[test]
    fn a_name_without_a_value_is_an_error_that_says_what_there_is() {
        let check = |pattern: &str, expect: &str| assert_eq!(render(pattern).expect_err(pattern), expect);
        check(
            "{{ tags.local }}",
            "`tags.local` has no value, did you mean `tags.locale`; this job's tags are `a b`, `locale`",
        );
        check("{{ locale }}", "`locale` is unknown, did you mean `tags.locale`?");
        check("{{ sku }}", "`sku` is unknown; a pattern can use id, model, aspect_ratio, image_size, tags.…");
        check("{{ image_size }}", "`image_size` has no value: this job gives none");
    }

    #[test]
    fn a_broken_pattern_is_an_error_when_it_is_checked() {
        let mut patterns = Patterns::new();
        assert!(patterns.check("{{ id").expect_err("broken").contains("syntax error"));
        assert!(patterns.check("{{ id | nofilter }}").is_err() || render("{{ id | nofilter }}").is_err());
        assert_eq!(patterns.check("{{ tags.any }}"), Ok(()));
    }

    #[test]
    fn compiled_patterns_are_bounded() {
        let mut patterns = Patterns::new();
        for n in 0..COMPILED_MAX + 10 {
            assert_eq!(patterns.render(&format!("{n}{{{{id}}}}"), &values()), Ok(format!("{n}hero")));
        }
        assert!(patterns.compiled <= COMPILED_MAX);
    }
}
