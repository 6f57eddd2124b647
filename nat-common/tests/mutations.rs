//! One good packet of each kind and its named mutations: what becomes of each.

use nat_common::flow::Endpoint;
use nat_common::memory::oracle::View;
use nat_common::memory::{cases, cases::setup};
use nat_common::verdict::Verdict;

#[test]
fn every_case_ends_as_expected() {
    let mut wrong = Vec::new();
    for case in cases() {
        let world = setup().world();
        let external = case.first.as_ref().map(|first| {
            let (verdict, after) = world.inside(first.clone());
            assert!(matches!(verdict, Verdict::Forward(..)), "{}: {verdict:?}", case.name);
            let view = View::of(&after.0).unwrap();
            Endpoint::new(view.source, view.ports.0)
        });
        let frame = case.frame(external.unwrap_or_default());
        let (verdict, _, checked) = world.try_on(case.side, device(case.side), &frame.into());
        if verdict.reason() != case.expected || checked.is_err() {
            wrong.push(format!(
                "{}: {verdict:?} {checked:?}, not {:?}",
                case.name, case.expected
            ));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn names_are_unique() {
    let mut names: Vec<String> = cases().into_iter().map(|case| case.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

fn device(side: nat_common::flow::Side) -> u32 {
    match side {
        nat_common::flow::Side::Inside => 10,
        nat_common::flow::Side::Outside => 20,
    }
}
