//! The files in `deploy/`: they can be read, and every command in them is one that the program takes.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// `--help` at the end shows help only when all before it is known.
#[track_caller]
fn is_known(args: &[String]) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_nightpress"));
    let help = program.args(args).arg("--help").stdin(Stdio::null()).output().expect("starts");
    assert!(help.status.success(), "{args:?}: {}", String::from_utf8_lossy(&help.stderr));
}

fn words(value: &Value) -> Vec<String> {
    let words = value.as_array().expect("a list").iter();
    words.map(|word| word.as_str().expect("a text").to_owned()).collect()
}

#[test]
fn what_compose_runs_is_known() {
    let compose = yaml("compose.yaml");
    let services = compose["services"].as_object().expect("services");
    let ours: Vec<_> = services.values().filter(|one| one["image"] == "nightpress").collect();
    assert_eq!(ours.len(), 4, "simulator, load, worker, status");
    for one in &ours {
        is_known(&words(&one["command"]));
    }
    assert_eq!(services["worker"]["deploy"]["replicas"], 3);
    assert_eq!(
        services["worker"]["volumes"], services["load"]["volumes"],
        "references stand where they stood"
    );
    for image in
        services.values().filter_map(|one| one["image"].as_str()).filter(|image| *image != "nightpress")
    {
        let name = image.rsplit('/').next().unwrap_or_default();
        assert!(name.contains(':') && !name.ends_with(":latest"), "{image} may be another one tomorrow");
    }
    let environment = &ours[0]["environment"];
    for name in ["NIGHTPRESS_QUEUE", "NIGHTPRESS_BATCH", "NIGHTPRESS_PROVIDER", "NIGHTPRESS_BASE_URL"] {
        assert!(environment[name].is_string(), "{name}");
        let help =
            Command::new(env!("CARGO_BIN_EXE_nightpress")).args(["work", "--help"]).output().expect("starts");
        assert!(String::from_utf8_lossy(&help.stdout).contains(name), "{name} is read by nobody");
    }
}

#[test]
fn what_kubernetes_runs_is_known_and_has_time_to_drain() {
    let job = yaml("kubernetes.yaml");
    let pod = &job["spec"]["template"]["spec"];
    let args = words(&pod["containers"][0]["args"]);
    is_known(&args);
    let grace = args.iter().position(|arg| arg == "--grace").map(|at| args[at + 1].as_str());
    assert_eq!(grace, Some("2m"));
    assert!(pod["terminationGracePeriodSeconds"].as_u64().expect("seconds") > 120);
    assert!(job["spec"].get("completions").is_none(), "a worker that finds nothing ends the Job");
    let rules = job["spec"]["podFailurePolicy"]["rules"].as_array().expect("rules");
    let fails: Vec<_> = rules.iter().filter(|rule| rule["action"] == "FailJob").collect();
    let codes = fails[0]["onExitCodes"]["values"].as_array().expect("codes");
    let codes: Vec<_> = codes.iter().filter_map(serde_json::Value::as_i64).collect();
    assert_eq!((fails.len(), codes), (1, vec![1, 2]), "one drained pod (3) must not end the others");
}

#[test]
fn what_systemd_runs_is_known_and_has_time_to_drain() {
    let unit = file("nightpress.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    let args: Vec<String> = line.split_whitespace().skip(1).map(str::to_owned).collect();
    is_known(&args);
    assert!(line.contains("--grace 2m") && unit.contains("TimeoutStopSec=3min"));
    let ended_by_signal = ["130", "143"];
    let successes = unit.lines().find_map(|line| line.strip_prefix("SuccessExitStatus=")).expect("codes");
    let successes: Vec<_> = successes.split(' ').collect();
    assert!(ended_by_signal.iter().all(|code| successes.contains(code)), "`systemctl stop` is no failure");
    assert!(!unit.contains("Restart="), "after the deadline it would run until the next one");
    assert!(!unit.contains("[Install]"), "enabled, it would run at every boot");
    let timer = file("nightpress.timer");
    assert!(timer.contains("OnCalendar=23:00"));
    for by_day in ["OnBootSec", "Persistent=true"] {
        assert!(!timer.contains(by_day), "{by_day} begins a paid night at ten in the morning");
    }
}

/// The program finds what it needs in an image that holds a C library, the unwinder and certificates alone.
#[cfg(target_os = "linux")]
#[test]
fn the_image_holds_all_that_the_program_links_to() {
    let linked = Command::new("ldd").arg(env!("CARGO_BIN_EXE_nightpress")).output().expect("ldd is there");
    let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
    let there = ["linux-vdso", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "ld-linux", "libpthread", "libdl"];
    for line in linked.lines() {
        assert!(there.iter().any(|name| line.contains(name)), "not in the image: {line}");
    }
    assert!(file("Dockerfile").contains("libgcc_s.so.1"));
}
