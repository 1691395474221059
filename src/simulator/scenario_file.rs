//! Scenarios as YAML files, and the scenario of the demo.

use std::path::{Path, PathBuf};

use super::fault::Fault;
use super::scenario::{
    FaultRule, HINT_FACTOR_MAX, Hint, Latency, LimitKind, LimitRule, Scenario, StreamShape,
};

/// The largest scenario file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A scenario that cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("cannot read the scenario {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file is too large to be a scenario.
    #[error("the scenario {} has {bytes} bytes; at most {FILE_BYTES_MAX} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// It is not YAML of the right shape.
    #[error("the scenario is not valid: {0}")]
    Parse(#[from] Box<serde_saphyr::Error>),
    /// A value outside its range.
    #[error("{field} of the scenario must be {expected}")]
    Range {
        /// The field.
        field: &'static str,
        /// What would be right.
        expected: &'static str,
    },
}

impl Scenario {
    /// Reads a scenario from YAML.
    pub fn from_yaml(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = serde_saphyr::from_str(text).map_err(Box::new)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Reads a scenario from a YAML file. Blocks for the time of a small read.
    pub fn from_file(path: &Path) -> Result<Self, ScenarioError> {
        let failed = |source| ScenarioError::Read { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(failed)?.len();
        if bytes > FILE_BYTES_MAX {
            return Err(ScenarioError::TooLarge { path: path.to_owned(), bytes });
        }
        Self::from_yaml(&std::fs::read_to_string(path).map_err(failed)?)
    }

    /// The service of the demo: thinking that can be watched, a refusal that states the limit, one
    /// overload and one stream that is cut off.
    #[must_use]
    pub fn demo() -> Self {
        let limit = LimitRule {
            kind: LimitKind::SlidingWindow,
            per_window: 3,
            window_ms: 2000,
            hint: Hint::All,
            quota_value: true,
            ..LimitRule::default()
        };
        let fault = |fault, request| FaultRule { requests: vec![request], ..FaultRule::always(fault) };
        Self {
            latency: Latency { median_ms: 700, sigma: 0.5, ..Latency::default() },
            stream: StreamShape { chunk_bytes: 32 * 1024, chunk_delay_ms: 3, ..StreamShape::default() },
            limits: vec![limit],
            faults: vec![fault(Fault::Http429, 3), fault(Fault::Http503, 5), fault(Fault::TruncateClean, 11)],
            ..Self::default()
        }
    }

    /// Values that would make no sense, or never end.
    pub(super) fn check(&self) -> Result<(), ScenarioError> {
        let share = |value: f64| (0.0..=1.0).contains(&value);
        let latency = &self.latency;
        let ranges = [
            (share(latency.first_byte_share), "latency.first_byte_share", "from 0 to 1"),
            (share(latency.thinking_share), "latency.thinking_share", "from 0 to 1"),
            (
                share(latency.first_byte_share + latency.thinking_share),
                "latency.first_byte_share + thinking_share",
                "at most 1",
            ),
            ((0.0..=5.0).contains(&latency.sigma), "latency.sigma", "from 0 to 5"),
            (self.stream.chunk_bytes > 0, "stream.chunk_bytes", "at least 1"),
            (self.pictures.scale > 0.0 && self.pictures.scale <= 1.0, "pictures.scale", "above 0, at most 1"),
            (self.pictures.bytes.is_none_or(|bytes| bytes <= 256 << 20), "pictures.bytes", "at most 256 MiB"),
            (self.limits.iter().all(|limit| limit.window_ms > 0), "limits.window_ms", "at least 1"),
            (
                self.limits.iter().all(|limit| (0.0..=HINT_FACTOR_MAX).contains(&limit.hint_factor)),
                "limits.hint_factor",
                "from 0 to 1000",
            ),
            (
                self.limits.iter().all(|limit| limit.schedule.is_sorted_by_key(|change| change.from_ms)),
                "limits.schedule",
                "in order of from_ms",
            ),
            (
                self.faults.iter().all(|fault| fault.probability.is_none_or(share)),
                "faults.probability",
                "from 0 to 1",
            ),
            (self.faults.iter().all(|fault| fault.every != Some(0)), "faults.every", "at least 1"),
        ];
        match ranges.into_iter().find(|(holds, ..)| !holds) {
            Some((_, field, expected)) => Err(ScenarioError::Range { field, expected }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_is_read_and_what_it_does_not_name_stays_calm() {
        let text = "
latency: { median_ms: 12000, sigma: 0.6 }
pictures: { tiny: true }
limits:
  - { model: gemini-3.1-flash-image, kind: sliding_window, per_window: 60, count_refused: true,
      hint: retry_after_date, quota_value: true, style: gateway, refusal_ms: { min: 2000, max: 6000 } }
faults:
  - { fault: http_503, probability: 0.05 }
  - { fault: reset_mid, jobs: llama, times: 2 }
";
        let scenario = Scenario::from_yaml(text).expect("a scenario");
        assert_eq!(scenario.latency.median_ms, 12_000);
        assert_eq!(scenario.limits[0].hint, Hint::RetryAfterDate);
        assert_eq!(scenario.faults[1].fault, Fault::ResetMid);
        assert_eq!(scenario.stream, StreamShape::default());
        assert_eq!(Scenario::from_yaml("{}").expect("empty"), Scenario::default());
    }

    #[test]
    fn what_a_scenario_cannot_mean_is_an_error() {
        let check = |text: &str, expected: &str| {
            let error = Scenario::from_yaml(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("latencies: {}", "latencies");
        check("faults: [{ fault: http_53 }]", "did you mean `http_503`");
        check("faults: [{ fault: http_503, probability: 2 }]", "faults.probability");
        check("limits: [{ window_ms: 0 }]", "limits.window_ms");
        check("pictures: { scale: 0 }", "pictures.scale");
    }

    #[test]
    fn the_demo_can_be_played_and_written_down() {
        let demo = Scenario::demo();
        assert!(demo.check().is_ok());
        let yaml = serde_saphyr::to_string(&demo).expect("yaml");
        assert_eq!(Scenario::from_yaml(&yaml).expect("read back"), demo);
    }
}
