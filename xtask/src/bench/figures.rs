//! Measured values: medians, spreads, and targets that they meet or miss.

use std::fmt;

/// The same thing measured several times.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl Series {
    /// One more value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The middle value; not a number if there is none.
    pub fn median(&self) -> f64 {
        let count = self.0.len();
        match count {
            0 => f64::NAN,
            _ if count % 2 == 1 => self.0[count / 2],
            _ => (self.0[count / 2 - 1] + self.0[count / 2]) / 2.0,
        }
    }

    /// The same with `by` subtracted from every value.
    pub fn less(&self, by: f64) -> Self {
        Self(self.0.iter().map(|value| value - by).collect())
    }

    /// The smallest value.
    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// The largest value.
    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// Median with smallest and largest, all divided by `unit`.
    pub fn text(&self, unit: f64, digits: usize) -> String {
        let [median, min, max] = [self.median(), self.min(), self.max()].map(|value| value / unit);
        format!("{median:.digits$} ({min:.digits$} to {max:.digits$})")
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        let mut series = Self::default();
        values.into_iter().for_each(|value| series.push(value));
        series
    }
}

/// What a figure has to be.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A figure of the project's goals, and what was measured.
#[derive(Clone, Debug)]
pub struct Target {
    /// What it is.
    pub what: String,
    /// What it has to be.
    pub bound: Bound,
    /// What it is, in the bound's unit; `None` if this run did not measure it.
    pub measured: Option<f64>,
    /// Unit, as it is printed after the number.
    pub unit: &'static str,
}

impl Target {
    /// Whether it is met.
    pub fn met(&self) -> Option<bool> {
        let measured = self.measured.filter(|value| value.is_finite())?;
        Some(match self.bound {
            Bound::AtLeast(least) => measured >= least,
            Bound::AtMost(most) => measured <= most,
        })
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::AtLeast(value) => write!(f, "≥ {value}"),
            Bound::AtMost(value) => write!(f, "≤ {value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_follow_outliers() {
        let mut series = Series::default();
        assert!(series.median().is_nan());
        for value in [3.0, 1.0, 100.0, 2.0] {
            series.push(value);
        }
        assert_eq!((series.median(), series.min(), series.max()), (2.5, 1.0, 100.0));
        series.push(2.0);
        assert_eq!(series.median(), 2.0);
    }

    #[test]
    fn a_target_without_a_measurement_is_neither_met_nor_missed() {
        let target = |bound, measured| Target {
            what: String::new(),
            bound,
            measured,
            unit: "",
        };
        assert_eq!(target(Bound::AtLeast(3.0), Some(3.0)).met(), Some(true));
        assert_eq!(target(Bound::AtLeast(3.0), Some(2.9)).met(), Some(false));
        assert_eq!(target(Bound::AtMost(2.0), Some(2.1)).met(), Some(false));
        assert_eq!(target(Bound::AtMost(2.0), None).met(), None);
        assert_eq!(target(Bound::AtMost(2.0), Some(f64::NAN)).met(), None);
    }
}
