//! How much memory this process can have.

use std::path::Path;

/// Bytes of memory that this process can have without others suffering: what is free or can be given
/// back, within the limits of its control groups (containers have one). `None` where it cannot be told.
pub fn memory_available() -> Option<u64> {
    if cfg!(target_os = "linux") {
        available(&|path| std::fs::read_to_string(path).ok())
    } else {
        // macOS compresses and swaps before it refuses; `--max-in-flight` is there for the rest.
        None
    }
}

/// `read` returns the text of a file, if there is such a file.
fn available(read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let free = read(Path::new("/proc/meminfo")).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kib.checked_mul(1024)
    });
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().filter_map(|line| left_in_group(line, read));
    limits.chain(free).min()
}

/// What the group of this line of `/proc/self/cgroup` (`0::/path`, or `4:memory:/path` in version 1)
/// and those above it leave.
fn left_in_group(line: &str, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (root, most, used) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
        "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        _ => return None,
    };
    let root = Path::new(root);
    let own = root.join(path.trim_start_matches('/'));
    let number = |group: &Path, file| read(&group.join(file))?.trim().parse::<u64>().ok();
    let groups = own.ancestors().take_while(|group| group.starts_with(root));
    // `max` is no number: no limit.
    groups.filter_map(|group| Some(number(group, most)?.saturating_sub(number(group, used)?))).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "MemTotal: 24684084 kB\nMemFree: 100 kB\nMemAvailable:   23310008 kB\n";

    fn with(files: &[(&str, &str)]) -> Option<u64> {
        available(&|path| {
            files.iter().find(|(name, _)| Path::new(name) == path).map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn the_narrowest_limit_counts() {
        let free = ("/proc/meminfo", MEMINFO);
        assert_eq!(with(&[free]), Some(23_310_008 * 1024));
        assert_eq!(with(&[]), None);
        let container = [
            free,
            ("/proc/self/cgroup", "0::/\n"),
            ("/sys/fs/cgroup/memory.max", "536870912\n"),
            ("/sys/fs/cgroup/memory.current", "100000000\n"),
        ];
        assert_eq!(with(&container), Some(436_870_912));
        let pod = [
            free,
            ("/proc/self/cgroup", "0::/pods/one\n"),
            ("/sys/fs/cgroup/pods/one/memory.max", "max\n"),
            ("/sys/fs/cgroup/pods/one/memory.current", "5\n"),
            ("/sys/fs/cgroup/pods/memory.max", "1000\n"),
            ("/sys/fs/cgroup/pods/memory.current", "1200\n"),
        ];
        assert_eq!(with(&pod), Some(0));
        let version_1 = [
            free,
            ("/proc/self/cgroup", "5:cpu:/x\n4:memory:/x\n"),
            ("/sys/fs/cgroup/memory/x/memory.limit_in_bytes", "2000\n"),
            ("/sys/fs/cgroup/memory/x/memory.usage_in_bytes", "500\n"),
        ];
        assert_eq!(with(&version_1), Some(1_500));
    }
}
