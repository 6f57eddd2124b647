//! The result of a bench: tables for the terminal, and the same as a document.

use std::fmt::Write as _;

use super::figures::{Bound, Target};
use super::machine;

/// Everything that a run found out.
#[derive(Debug, Default)]
pub struct Report {
    /// Heading of its section.
    pub title: &'static str,
    /// The machine, line by line: what, and which.
    pub machine: Vec<(&'static str, String)>,
    /// The command that was run.
    pub command: String,
    /// Results in their order.
    pub tables: Vec<Table>,
    /// The goals.
    pub targets: Vec<Target>,
}

impl Report {
    /// Of a run whose load and whose subject have cores of their own; `cores` says who has which. Prints the machine.
    pub fn apart(title: &'static str, cpu: usize, cores: &str) -> Self {
        let mut report = Self {
            title,
            machine: machine::describe(cpu),
            command: command(),
            ..Self::default()
        };
        for (what, which) in &mut report.machine {
            if *what == "cores" {
                let count = which.split(';').next().unwrap_or_default();
                *which = format!("{count}; {cores}");
            }
            println!("{what:<12} {which}");
        }
        report
    }
}

/// The command that runs.
pub fn command() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    format!("cargo xtask {}", args.join(" "))
}

/// One table of results.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Heading.
    pub title: String,
    /// How it was measured, and what to keep in mind.
    pub text: String,
    /// Column headings; the first column is on the left, numbers are on the right.
    pub columns: Vec<String>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(title: &str, text: &str, columns: &[&str]) -> Self {
        Self {
            title: title.into(),
            text: text.into(),
            columns: columns.iter().map(|name| name.to_string()).collect(),
            rows: Vec::new(),
        }
    }

    /// The table as text, with aligned columns. Legal Markdown too.
    pub fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.columns[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let cells = cells.iter().zip(&widths).enumerate();
            let padded = cells.map(|(at, (cell, width))| match at {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
            format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
        };
        let mut out = line(&self.columns);
        let rule = widths.iter().enumerate().map(|(at, width)| match at {
            0 => "-".repeat(*width),
            _ => format!("{}:", "-".repeat(width.saturating_sub(1))),
        });
        let _ = writeln!(out, "| {} |", rule.collect::<Vec<_>>().join(" | "));
        self.rows.iter().for_each(|row| out += &line(row));
        out
    }
}

impl Report {
    /// Adds a table, and prints it so that a long run shows how it gets on.
    pub fn add(&mut self, table: Table) {
        println!("\n{}\n\n{}", table.title, table.render());
        self.tables.push(table);
    }

    /// Adds a goal.
    pub fn target(&mut self, what: &str, bound: Bound, measured: Option<f64>, unit: &'static str) {
        self.targets.push(Target {
            what: what.into(),
            bound,
            measured,
            unit,
        });
    }

    /// The goals, as a table.
    pub fn summary(&self) -> Table {
        let mut table = Table::new(
            "Goals",
            "What this run was to reach, and what it reached.",
            &["goal", "wanted", "measured", ""],
        );
        for target in &self.targets {
            let measured = target.measured.filter(|value| value.is_finite());
            table.rows.push(vec![
                target.what.clone(),
                format!("{}{}", target.bound, target.unit),
                measured.map_or("-".into(), |value| format!("{value:.2}{}", target.unit)),
                match target.met() {
                    Some(true) => "met".into(),
                    Some(false) => "MISSED".into(),
                    None => "not measured".into(),
                },
            ]);
        }
        table
    }

    /// The whole as a section of a Markdown document.
    pub fn section(&self) -> String {
        let mut out = format!("## {}\n\n", self.title);
        let _ = writeln!(
            out,
            "Written by `{}`. Where a measurement was repeated, the median is given with the smallest and the largest value.\n",
            self.command
        );
        let mut machine = Table::new("", "", &["machine", ""]);
        machine.rows = self
            .machine
            .iter()
            .map(|(what, which)| vec![what.to_string(), which.clone()])
            .collect();
        out += &machine.render();
        for table in [self.summary()].iter().chain(&self.tables) {
            let _ = write!(out, "\n### {}\n\n{}\n\n{}", table.title, table.text, table.render());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_goal_is_shown_as_missed() {
        let mut report = Report {
            command: "cargo xtask bench nat".into(),
            ..Report::default()
        };
        report.target("speed", Bound::AtLeast(3.0), Some(2.5), " x");
        report.target("cost", Bound::AtMost(3.0), None, "");
        let text = report.section();
        assert!(text.contains("| speed |  ≥ 3 x |   2.50 x |       MISSED |"), "{text}");
        assert!(text.contains("| cost  |    ≤ 3 |        - | not measured |"), "{text}");
    }
}
