//! Where the key comes from: the environment or a file, never a flag.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::settings::ApiKeyFile;
use crate::gemini::Key;
use crate::job::Provider;

/// What the simulator of this process is given: it takes any.
const SIMULATOR_KEY: &str = "simulator-needs-no-key";
/// The largest key file that is read.
const FILE_BYTES_MAX: u64 = 4 << 10;

/// The key for `provider`. `variable` looks into the environment.
///
/// A file that was named goes first, since it is the more deliberate choice; then
/// `NIGHTPRESS_API_KEY`, then the provider's own variable.
pub(super) fn find_key(
    provider: Provider,
    file: &ApiKeyFile,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Key> {
    let of_provider = match provider {
        Provider::Simulator => return Key::new(SIMULATOR_KEY).context("the simulator's key"),
        Provider::Anyfast => "ANYFAST_API_KEY",
        Provider::Google => "GEMINI_API_KEY",
    };
    if let ApiKeyFile(Some(path)) = file {
        return read(path);
    }
    for name in ["NIGHTPRESS_API_KEY", of_provider] {
        if let Some(text) = variable(name).filter(|text| !text.trim().is_empty()) {
            return Key::new(&text).with_context(|| format!("the variable {name} holds no key"));
        }
    }
    bail!(
        "there is no key for {provider}: set NIGHTPRESS_API_KEY or {of_provider}, or name a file with \
         --api-key-file (to try things out without one: --provider simulator)"
    )
}

fn read(path: &Path) -> Result<Key> {
    let cannot = || format!("cannot read the key file {}", path.display());
    let bytes = std::fs::metadata(path).with_context(cannot)?.len();
    if bytes > FILE_BYTES_MAX {
        bail!("the key file {} has {bytes} bytes; a key has a few dozen", path.display());
    }
    let text = std::fs::read_to_string(path).with_context(cannot)?;
    Key::new(&text).with_context(|| format!("the file {} holds no key", path.display()))
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
        let find = |provider, file: &ApiKeyFile| find_key(provider, file, all).expect("found").id();
        assert_eq!(find(Provider::Anyfast, &named), id("key-of-the-file"));
        assert_eq!(find(Provider::Google, &none), id("key-of-nightpress"));
        assert_eq!(find_key(Provider::Google, &none, own).expect("found").id(), id("key-of-gemini"));
        assert_eq!(find_key(Provider::Anyfast, &none, own).expect("found").id(), id("key-of-anyfast"));
        assert!(find_key(Provider::Simulator, &none, |_| None).is_ok());
    }

    #[test]
    fn without_a_key_it_is_said_where_one_can_stand() {
        let error = find_key(Provider::Anyfast, &ApiKeyFile(None), |_| None).expect_err("none");
        let text = error.to_string();
        assert!(text.contains("NIGHTPRESS_API_KEY") && text.contains("--api-key-file"), "{text}");
        let error =
            find_key(Provider::Anyfast, &ApiKeyFile(None), |_| Some("tiny".to_owned())).expect_err("bad");
        assert!(!format!("{error:#}").contains("tiny"), "{error:#}");
    }
}
