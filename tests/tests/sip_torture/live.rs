//! The running server takes all of it, and goes on serving.

use tests::{
    prelude::*,
    sip::{
        message::compose,
        peer::Peer,
        stream::Stream,
        torture::{RFC4475, RFC5118},
    },
    sipnat::Daemon,
};

use crate::on_the_wire;

#[test]
fn the_server_survives_all_of_them_in_one_connection_each() {
    let lab = Lab::builder().inside_hosts(0).outside_hosts(2).build().unwrap();
    let mut server = Daemon::prepare(lab.o(1), NatConfig::toml("")).unwrap();
    let toml = format!(
        r#"
[sip]
store = "off"
secret = {:?}
[[sip.listen]]
transport = "udp"
address = "{ip}"
[[sip.listen]]
transport = "tcp"
address = "{ip}"
[[sip.domain]]
names = ["example.com"]
authenticate = false
"#,
        server.dir().join("secret"),
        ip = lab.o(1).ip
    );
    server.write_config(&toml).unwrap();
    server.restart().unwrap();
    let endpoint = std::net::SocketAddrV4::new(lab.o(1).ip, 5060);
    let peer = Peer::udp(lab.o(2), 5060).unwrap();
    for torture in RFC4475.iter().chain(&RFC5118) {
        let bytes = on_the_wire(torture);
        peer.send(endpoint, &bytes).unwrap();
        let mut stream = Stream::connect(lab.o(2), endpoint).unwrap();
        // The server may have closed it by then.
        let _ = stream.send(&bytes);
    }
    let own = peer.endpoint;
    let options = compose(
        &[
            format!("OPTIONS sip:{endpoint} SIP/2.0"),
            format!("Via: SIP/2.0/UDP {own};branch=z9hG4bKserved"),
            format!("From: <sip:{own}>;tag=1"),
            format!("To: <sip:{endpoint}>"),
            "Call-ID: served".into(),
            "CSeq: 1 OPTIONS".into(),
            "Max-Forwards: 70".into(),
        ],
        "",
    );
    peer.send(endpoint, options.bytes()).unwrap();
    let wanted = |message: &tests::sip::message::Message| message.headers("Call-ID") == ["served"];
    let (answer, _) = peer.recv_where("the answer to OPTIONS", wanted).unwrap();
    assert_eq!(answer.status(), Some(200));
    server.stop().unwrap();
}
