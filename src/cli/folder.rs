//! Which run folder a command means, and how the manifest is called as seen from it.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::job::{ObjectUrl, Provider, printable};
use crate::output::RunFolder;

/// Where run folders lie unless `-o` says otherwise.
const OUT: &str = "out";
/// Run folders that an error lists.
const LISTED_MAX: usize = 10;

/// The folder of a command that has a manifest and no `-o`: `out/<stem>`, or
/// `out/<stem>-simulator` for a rehearsal.
pub(super) fn of_manifest(manifest: &Path, provider: Provider) -> Result<RunFolder> {
    if manifest == Path::new("-") {
        bail!("a manifest from standard input has no name for its folder; name one with -o DIR");
    }
    let Some(stem) = manifest.file_stem() else {
        bail!("{} names no file; name the run folder with -o DIR", manifest.display());
    };
    let mut name = stem.to_owned();
    if provider == Provider::Simulator {
        name.push("-simulator");
    }
    given(&Path::new(OUT).join(name))
}

/// The folder of a command without a manifest and `-o`: the only run in `out/` of `current`.
pub(super) fn of_run(current: &Path) -> Result<RunFolder> {
    let mut runs = Vec::new();
    if let Ok(entries) = std::fs::read_dir(current.join(OUT)) {
        let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
        runs.extend(names.filter(|name| is_run(current, name)));
    }
    runs.sort();
    match runs.as_slice() {
        [] => bail!("there is no run in {OUT}/ here; name its folder with -o DIR"),
        [only] => given(&Path::new(OUT).join(only)),
        several => {
            let shown = several.iter().take(LISTED_MAX);
            let shown: Vec<String> =
                shown.map(|name| format!("-o {OUT}/{}", name.to_string_lossy())).collect();
            let more = if several.len() > LISTED_MAX { " …" } else { "" };
            bail!("{OUT}/ holds {} runs; choose one: {}{more}", several.len(), shown.join(", "))
        }
    }
}

fn is_run(current: &Path, name: &OsStr) -> bool {
    RunFolder::new(current.join(OUT).join(name)).queue().is_file()
}

/// The folder of a batch that has none yet, or of an address. The name comes from a database or from far away.
pub(super) fn below_out(name: &str) -> Result<RunFolder> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) => given(&Path::new(OUT).join(name)),
        _ => bail!("`{}` names no folder; name one with -o DIR", printable(name)),
    }
}

/// A folder that a person named.
pub(super) fn given(folder: &Path) -> Result<RunFolder> {
    if folder.as_os_str().is_empty() {
        bail!("-o names no folder");
    }
    if folder.exists() && !folder.is_dir() {
        bail!("{} is a file, not a folder; name another one with -o", folder.display());
    }
    Ok(RunFolder::new(folder))
}

/// How a run folder knows its manifest: by its path relative to the folder, with `/`, so that both
/// can be moved together; one in object storage by its address. `None` for standard input.
pub(super) fn manifest_name(manifest: &Path, folder: &RunFolder) -> Result<Option<String>> {
    if manifest == Path::new("-") {
        return Ok(None);
    }
    if let Some(address) = manifest.to_str().filter(|text| ObjectUrl::is_meant(text)) {
        return Ok(Some(address.to_owned()));
    }
    let manifest = resolved(manifest)?;
    let folder = resolved(folder.path())?;
    let common = manifest.iter().zip(&folder).take_while(|(a, b)| a == b).count();
    let ups = folder.iter().skip(common).map(|_| OsStr::new(".."));
    let downs = manifest.iter().skip(common);
    let parts: Vec<_> = ups.chain(downs).map(OsStr::to_string_lossy).collect();
    Ok(Some(parts.join("/")))
}

/// Absolute, without `.` and `..`, and without symbolic links as far as the path exists: one
/// folder by two ways is one folder.
fn resolved(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))?;
    let mut existing = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => drop(existing.pop()),
            Component::CurDir => {}
            part => existing.push(part),
        }
        if let Ok(real) = existing.canonicalize() {
            existing = real;
        }
    }
    Ok(existing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_lies_under_its_manifests_name_and_a_rehearsal_beside_it() {
        let check = |manifest: &str, provider, expect: &str| {
            let folder = of_manifest(Path::new(manifest), provider).expect("resolves");
            assert_eq!(folder.path(), Path::new(expect));
        };
        check("jobs/spring.yaml", Provider::Anyfast, "out/spring");
        check("jobs/spring.yaml", Provider::Simulator, "out/spring-simulator");
        check("a.b.jsonl", Provider::Google, "out/a.b");
        assert!(of_manifest(Path::new("-"), Provider::Google).is_err());
    }

    #[test]
    fn without_a_manifest_there_must_be_exactly_one_run() {
        let root = tempfile::tempdir().expect("temp dir");
        let error = of_run(root.path()).expect_err("none");
        assert!(error.to_string().contains("-o DIR"), "{error}");
        let make = |name: &str| {
            std::fs::create_dir_all(root.path().join("out").join(name)).expect("creates");
            std::fs::write(root.path().join("out").join(name).join("queue.db"), b"").expect("writes");
        };
        std::fs::create_dir_all(root.path().join("out/no-run")).expect("creates");
        make("spring");
        assert_eq!(of_run(root.path()).expect("one").path(), Path::new("out/spring"));
        make("autumn");
        let error = of_run(root.path()).expect_err("two");
        assert!(error.to_string().contains("-o out/autumn, -o out/spring"), "{error}");
    }

    #[test]
    fn a_manifest_is_known_by_its_way_from_the_folder() {
        let root = tempfile::tempdir().expect("temp dir");
        let at = |path: &str| root.path().join(path);
        let name = |manifest: &str, folder: &str| {
            manifest_name(&at(manifest), &RunFolder::new(at(folder))).expect("resolves")
        };
        assert_eq!(name("jobs/a.yaml", "out/a").as_deref(), Some("../../jobs/a.yaml"));
        assert_eq!(name("jobs/../jobs/./a.yaml", "out/x/../a").as_deref(), Some("../../jobs/a.yaml"));
        assert_eq!(name("a.yaml", ".").as_deref(), Some("a.yaml"));
        assert_eq!(manifest_name(Path::new("-"), &RunFolder::new("x")).expect("resolves"), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_to_the_same_folder_makes_no_other_manifest_of_it() {
        let root = tempfile::tempdir().expect("temp dir");
        std::fs::create_dir(root.path().join("real")).expect("creates");
        std::os::unix::fs::symlink(root.path().join("real"), root.path().join("link")).expect("links");
        let name = |way: &str| {
            let folder = RunFolder::new(root.path().join("out"));
            manifest_name(&root.path().join(way).join("a.yaml"), &folder).expect("resolves")
        };
        assert_eq!(name("link"), name("real"));
    }
}
