//! Where keys come from: the environment or a file, never a flag.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::settings::ApiKeyFile;
use crate::gemini::Key;
use crate::job::Provider;

/// What the simulator of this process is given: it takes any.
const SIMULATOR_KEY: &str = "simulator-needs-no-key";
/// The largest key file that is read.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Each is a lane for each model, with requests in flight of its own.
const KEYS_MAX: usize = 64;

/// The keys for `provider`, each once, at least one. `variable` looks into the environment.
///
/// A file that was named goes first, since it is the more deliberate choice; then
/// `NIGHTPRESS_API_KEYS`, `NIGHTPRESS_API_KEY`, and the provider's own variable.
pub(super) fn find_keys(
    provider: Provider,
    file: &ApiKeyFile,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Key>> {
    let of_provider = match provider {
        Provider::Simulator => return keys(SIMULATOR_KEY).context("the simulator's key"),
        Provider::Anyfast => "ANYFAST_API_KEY",
        Provider::Google => "GEMINI_API_KEY",
    };
    if let ApiKeyFile(Some(path)) = file {
        return read(path);
    }
    let given = |name| variable(name).filter(|text| !text.trim().is_empty());
    if let Some(text) = given("NIGHTPRESS_API_KEYS") {
        return keys(&text).context("the variable NIGHTPRESS_API_KEYS holds no list of keys");
    }
    for name in ["NIGHTPRESS_API_KEY", of_provider] {
        if let Some(text) = given(name) {
            let key = Key::new(&text).with_context(|| format!("the variable {name} holds no key"))?;
            return Ok(vec![key]);
        }
    }
    bail!(
        "there is no key for {provider}: set NIGHTPRESS_API_KEY or {of_provider} (NIGHTPRESS_API_KEYS for several), \
         or name a file with --api-key-file (to try things out without one: --provider simulator)"
    )
}

fn read(path: &Path) -> Result<Vec<Key>> {
    let cannot = || format!("cannot read the key file {}", path.display());
    let bytes = std::fs::metadata(path).with_context(cannot)?.len();
    if bytes > FILE_BYTES_MAX {
        bail!("the key file {} has {bytes} bytes; a key has a few dozen", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(cannot)?;
    keys(&text).with_context(|| format!("the file {} holds no key, or one a line", path.display()))
}

/// Keys between commas and line ends. Lines that begin with `#` say whose they are.
fn keys(text: &str) -> Result<Vec<Key>> {
    // Editors of Windows begin a file with a byte order mark.
    let lines =
        text.trim_start_matches('\u{feff}').lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut keys: Vec<Key> = Vec::new();
    for text in lines.flat_map(|line| line.split(',')).filter(|text| !text.trim().is_empty()) {
        let key = Key::new(text).with_context(|| format!("key number {}", keys.len() + 1))?;
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    ensure!(!keys.is_empty(), "it is empty");
    ensure!(keys.len() <= KEYS_MAX, "it has {} keys; at most {KEYS_MAX} are used", keys.len());
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> String {
        Key::new(text).expect("a key").id()
    }

    #[test]
    fn the_key_is_looked_for_in_the_order_of_the_contract() {
        let file = tempfile::NamedTempFile::new().expect("temp file");
        std::fs::write(file.path(), "key-of-the-file\n").expect("writes");
        let named = ApiKeyFile(Some(file.path().to_owned()));
        let none = ApiKeyFile(None);
        let all = |name: &str| match name {
            "NIGHTPRESS_API_KEY" => Some("key-of-nightpress".to_owned()),
            "ANYFAST_API_KEY" => Some("key-of-anyfast".to_owned()),
            "GEMINI_API_KEY" => Some("key-of-gemini".to_owned()),
            _ => None,
        };
        let own = |name: &str| all(name).filter(|_| name != "NIGHTPRESS_API_KEY");
        let ids = |keys: Result<Vec<Key>>| keys.expect("found").iter().map(Key::id).collect::<Vec<_>>();
        let find = |provider, file: &ApiKeyFile| ids(find_keys(provider, file, all));
        assert_eq!(find(Provider::Anyfast, &named), [id("key-of-the-file")]);
        assert_eq!(find(Provider::Google, &none), [id("key-of-nightpress")]);
        assert_eq!(ids(find_keys(Provider::Google, &none, own)), [id("key-of-gemini")]);
        assert_eq!(ids(find_keys(Provider::Anyfast, &none, own)), [id("key-of-anyfast")]);
        let several = |name: &str| match name {
            "NIGHTPRESS_API_KEYS" => Some("key-number-one, key-number-two\n,key-number-one".to_owned()),
            name => all(name),
        };
        let two = [id("key-number-one"), id("key-number-two")];
        assert_eq!(ids(find_keys(Provider::Anyfast, &none, several)), two);
        std::fs::write(file.path(), "# mine\nkey-number-one\n\n# hers\nkey-number-two\n").expect("writes");
        assert_eq!(find(Provider::Anyfast, &named), two);
        std::fs::write(file.path(), "\u{feff}# mine\r\nkey-number-one\r\n").expect("writes");
        assert_eq!(find(Provider::Anyfast, &named), two[..1]);
        assert!(find_keys(Provider::Simulator, &none, |_| None).is_ok());
    }

    #[test]
    fn without_a_key_it_is_said_where_one_can_stand() {
        let error = find_keys(Provider::Anyfast, &ApiKeyFile(None), |_| None).expect_err("none");
        let text = error.to_string();
        assert!(text.contains("NIGHTPRESS_API_KEY") && text.contains("--api-key-file"), "{text}");
        let error =
            find_keys(Provider::Anyfast, &ApiKeyFile(None), |_| Some("tiny".to_owned())).expect_err("bad");
        assert!(!format!("{error:#}").contains("tiny"), "{error:#}");
    }
}
