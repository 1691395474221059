//! Money as an integer.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// Millionths of a US dollar. Printed as dollars with six decimals: `0.067200`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub i64);

impl Micros {
    /// From dollars as a person writes them; `None` if negative, not finite or out of range.
    #[must_use]
    pub fn from_usd(usd: f64) -> Option<Self> {
        let micros = (usd * 1e6).round();
        // 9.0e18 lies within i64 and is exact enough for a bound on money.
        #[expect(clippy::cast_possible_truncation, reason = "the range is checked in the condition")]
        (micros.is_finite() && (0.0..9.0e18).contains(&micros)).then_some(Self(micros as i64))
    }

    /// With two decimals and a dollar sign, for people: `$1.34`.
    #[must_use]
    pub fn rounded(self) -> String {
        let cents = (self.0.saturating_add(5_000)) / 10_000;
        format!("${}.{:02}", cents / 100, cents % 100)
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let micros = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

impl Add for Micros {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Micros {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Micros {
    fn sum<I: Iterator<Item = Self>>(parts: I) -> Self {
        parts.fold(Self::default(), Add::add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_printed_with_six_decimals_or_two_for_people() {
        assert_eq!(Micros(67_200).to_string(), "0.067200");
        assert_eq!(Micros(12_345_678).to_string(), "12.345678");
        assert_eq!(Micros(1_335_000).rounded(), "$1.34");
        assert_eq!(Micros::from_usd(0.039), Some(Micros(39_000)));
        assert_eq!(Micros::from_usd(-1.0), None);
        assert_eq!(Micros::from_usd(f64::NAN), None);
    }
}
