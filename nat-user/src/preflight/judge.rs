//! From facts to findings. Pure: the same input and facts give the same report.

use crate::net::Interface;

use super::finding::{Finding, Fix, Report};
use super::{Facts, InterfaceSpec, PreflightInput};
use super::{device, host, network};

/// Judges a configuration on a machine. Never panics, whatever the facts.
pub fn judge(input: &PreflightInput, facts: &Facts) -> Report {
    let mut report = Report::default();
    host::judge(input, facts, &mut report);
    let ports = resolve(input, facts, &mut report);
    report.mode = device::choose_mode(input.mode, &ports, facts, &mut report);
    for port in &ports {
        device::judge(port, input, facts, &mut report);
    }
    network::judge(input, &ports, facts, &mut report);
    report
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Inside,
    Outside,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Side::Inside => "inside",
            Side::Outside => "outside",
        }
    }
}

/// A configured interface that exists.
#[derive(Debug, Clone, Copy)]
pub(super) struct Port<'a> {
    pub spec: &'a InterfaceSpec,
    pub side: Side,
    /// Where the program is attached.
    pub device: &'a Interface,
    /// Where the addresses, routes and neighbours are: the VLAN's own interface above the device if there is one, else the
    /// device.
    pub layer3: &'a Interface,
}

impl Port<'_> {
    pub(super) fn label(&self) -> String {
        match self.spec.vlan {
            Some(id) => format!("{} VLAN {id}", self.spec.name),
            None => self.spec.name.clone(),
        }
    }
}

/// Finds the configured interfaces; reports those that are missing or named twice.
fn resolve<'a>(input: &'a PreflightInput, facts: &'a Facts, report: &mut Report) -> Vec<Port<'a>> {
    let inside = input.inside.iter().map(|spec| (Side::Inside, spec));
    let all: Vec<_> = inside
        .chain(input.outside.iter().map(|spec| (Side::Outside, spec)))
        .collect();
    for side in [Side::Inside, Side::Outside] {
        if !all.iter().any(|(s, _)| *s == side) {
            report.error(
                Finding::new(
                    "no-interface",
                    side.name(),
                    format!("no {} interface is named", side.name()),
                )
                .why("a NAT stands between an inside and an outside")
                .remedy(format!("name one with --{} IF or in the configuration", side.name())),
            );
        }
    }
    let mut ports: Vec<Port> = Vec::new();
    for (i, (side, spec)) in all.iter().enumerate() {
        if let Some((earlier, _)) = all[..i].iter().find(|(_, s)| s == spec) {
            let what = if earlier == side {
                format!("named twice as {} interface", side.name())
            } else {
                "named both as inside and as outside interface".into()
            };
            report.error(
                Finding::new("interface-twice", &spec.name, what)
                    .why("each packet must come from one side")
                    .remedy("name it once; two sides on one wire need two VLANs, each with its own interface"),
            );
            continue;
        }
        match facts.by_name(&spec.name) {
            Some(device) => {
                let upper = spec.vlan.and_then(|id| facts.vlan_upper(device.index, id));
                ports.push(Port {
                    spec,
                    side: *side,
                    device,
                    layer3: upper.unwrap_or(device),
                });
            }
            None => report.error(missing(spec, *side, facts)),
        }
    }
    ports
}

fn missing(spec: &InterfaceSpec, side: Side, facts: &Facts) -> Finding {
    let names: Vec<_> = facts.interfaces.iter().map(|i| i.name.as_str()).collect();
    Finding::new("interface-missing", &spec.name, "there is no such interface")
        .why(format!(
            "it is named as {} interface; this network namespace has {}",
            side.name(),
            names.join(", ")
        ))
        .remedy("correct the name, or create the interface before sipnat starts")
}

impl Report {
    pub(super) fn error(&mut self, finding: Finding) {
        self.errors.push(finding);
    }

    pub(super) fn warning(&mut self, finding: Finding) {
        self.warnings.push(finding);
    }

    pub(super) fn note(&mut self, finding: Finding) {
        self.notes.push(finding);
    }
}

impl Finding {
    pub(super) fn new(code: &'static str, where_: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
            where_: where_.into(),
            why: String::new(),
            remedy: String::new(),
            fix: None,
        }
    }

    pub(super) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// A sysctl repairs it: sets remedy and fix.
    pub(super) fn sysctl(mut self, path: String, value: &str) -> Self {
        self.remedy = format!("echo {value} > {path}");
        self.fix = Some(Fix {
            path: path.into(),
            value: value.into(),
        });
        self
    }
}
