//! Copies of registrations: the kernel program makes the same as the host build, and leaves the packets alone.

use nat_common::flow::Side;
use nat_common::memory::{Frame, Setup, end};
use nat_common::watch::{Copied, MAX_LEN};

use crate::rig::{Rig, in_lab};
use crate::twin::Twin;

const PHONE: &str = "10.0.0.5:5060";
const REGISTRAR: &str = "198.51.100.7:5060";

/// A REGISTER of so many bytes.
fn register(len: usize) -> Vec<u8> {
    let mut text = b"REGISTER sip:example.com SIP/2.0\r\n".to_vec();
    text.resize(len.max(text.len()), b'x');
    text
}

#[test]
fn registrations_are_copied_as_the_host_does() {
    let setup = Setup {
        watch: vec![5060],
        ..Setup::default()
    };
    in_lab(&setup, |_| {
        let mut rig = Rig::new(&setup);
        for len in [34, 35, 500, 1199, 1460] {
            let mut twin = Twin::new(&mut rig, &setup);
            let text = register(len);
            let external = twin.first(&Frame::udp(end(PHONE), end(REGISTRAR), &text).bytes().0);
            copied(&mut twin, &[&text]);
            let ok = [b"SIP/2.0 200 OK\r\n", &text[..]].concat();
            let back = |twin: &mut Twin, text: &[u8]| {
                let frame = Frame::udp(end(REGISTRAR), external, text).bytes().0;
                let (_, ran) = twin.both(Side::Outside, &frame).unwrap();
                assert!(ran.bytes.ends_with(text), "every byte of it");
            };
            if ok.len() < 1472 {
                back(&mut twin, &ok);
                copied(&mut twin, &[&ok]);
            }
            back(&mut twin, b"SIP/2.0 401 Unauthorized\r\n\r\n");
            back(&mut twin, b"INVITE sip:user@host SIP/2.0\r\n\r\n");
            copied(&mut twin, &[]);
        }
        // What does not register, and what comes before anybody has.
        let mut twin = Twin::new(&mut rig, &setup);
        let external = twin.first(
            &Frame::udp(end(PHONE), end(REGISTRAR), b"OPTIONS sip:a SIP/2.0\r\n\r\n")
                .bytes()
                .0,
        );
        let ok = Frame::udp(end(REGISTRAR), external, b"SIP/2.0 200 OK\r\n\r\n")
            .bytes()
            .0;
        twin.both(Side::Outside, &ok).unwrap();
        let elsewhere = Frame::udp(end(PHONE), end("198.51.100.7:5061"), &register(100))
            .bytes()
            .0;
        twin.both(Side::Inside, &elsewhere).unwrap();
        copied(&mut twin, &[]);
    });
}

/// Nobody can flood the daemon: there is a budget for each host, and copies stop when it is used up while packets go on.
#[test]
fn copies_have_a_budget() {
    let setup = Setup {
        watch: vec![5060],
        ..Setup::default()
    };
    in_lab(&setup, |_| {
        let mut rig = Rig::new(&setup);
        rig.drain_watch_budget();
        let mut twin = Twin::new(&mut rig, &setup);
        twin.first(&Frame::udp(end(PHONE), end(REGISTRAR), &register(100)).bytes().0);
        let (kernel, host) = twin.copies();
        assert_eq!((kernel.len(), host.len()), (0, 1), "the host build has no budgets");
    });
}

/// Both made copies of exactly these messages, and the same ones.
fn copied(twin: &mut Twin, texts: &[&[u8]]) {
    let (kernel, host) = twin.copies();
    let host: Vec<Vec<u8>> = host
        .iter()
        .map(|(header, text)| [bytes_of(header), text].concat())
        .collect();
    assert_eq!(kernel, host);
    let payloads: Vec<&[u8]> = kernel.iter().map(|record| &record[size_of::<Copied>()..]).collect();
    let expected: Vec<&[u8]> = texts.iter().map(|text| &text[..text.len().min(MAX_LEN)]).collect();
    assert_eq!(payloads, expected);
}

fn bytes_of(header: &Copied) -> &[u8] {
    // SAFETY: a struct of numbers without padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(header).cast(), size_of::<Copied>()) }
}
