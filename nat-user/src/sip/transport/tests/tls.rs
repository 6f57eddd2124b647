//! Connections with TLS.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use super::echo::{Lab, PATIENCE, options};
use crate::{
    config::sip::Tls,
    sip::{
        command::{Command, Destination, Hop, Input, SendError, Ticket},
        flow::{ListenerId, Transport},
        transport::{Options, Reason},
    },
};

const REQUEST: &[u8] = b"OPTIONS sip:a SIP/2.0\r\nl: 3\r\n\r\nabc";

/// An authority with a directory of files, which goes with it.
struct Authority {
    directory: PathBuf,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Authority {
    fn new() -> Authority {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("sipnat-ca-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("directory");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("signed").pem();
        std::fs::write(directory.join("ca.pem"), &certificate).expect("written");
        Authority {
            directory,
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// Certificate and key, PEM.
    fn issue(&self, names: &[SanType]) -> (String, String) {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.subject_alt_names = names.to_vec();
        let key = KeyPair::generate().expect("key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    fn pair(&self, names: &[SanType]) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let (certificate, key) = self.issue(names);
        (
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM"),
        )
    }

    /// `[sip.tls]` with a new certificate in its files.
    fn tls(&self, name: &str) -> Tls {
        let (certificate, key) = self.issue(&[dns(name)]);
        let tls = Tls {
            certificate: self.directory.join("server.pem"),
            key: self.directory.join("server.key"),
            authorities: Some(self.directory.join("ca.pem")),
        };
        std::fs::write(&tls.certificate, certificate).expect("written");
        std::fs::write(&tls.key, key).expect("written");
        tls
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("PEM"))
            .expect("added");
        roots
    }

    /// Of a client that shows a certificate for these names, if there are any.
    fn connector(&self, shows: Option<(&Authority, &[SanType])>) -> TlsConnector {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(self.roots());
        let config = match shows {
            None => config.with_no_client_auth(),
            Some((issuer, names)) => {
                let (chain, key) = issuer.pair(names);
                config.with_client_auth_cert(chain, key).expect("a pair")
            }
        };
        TlsConnector::from(Arc::new(config))
    }

    fn acceptor(&self, names: &[SanType]) -> TlsAcceptor {
        let (chain, key) = self.pair(names);
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a pair");
        TlsAcceptor::from(Arc::new(config))
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.to_owned().try_into().expect("a name"))
}

async fn call(authority: &Authority, to: SocketAddr, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(to).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    timeout(PATIENCE, authority.connector(None).connect(name, stream))
        .await
        .expect("in time")
}

async fn echoed(stream: &mut TlsStream<TcpStream>) {
    stream.write_all(REQUEST).await.expect("sent");
    let mut got = vec![0; REQUEST.len()];
    timeout(PATIENCE, stream.read_exact(&mut got))
        .await
        .expect("in time")
        .expect("received");
    assert_eq!(got, REQUEST);
}

fn with_tls(tls: Tls) -> Options {
    Options {
        tls: Some(tls),
        ..options(&[Transport::Tls])
    }
}

#[tokio::test]
async fn messages_come_back() {
    let authority = Authority::new();
    let mut lab = Lab::start(with_tls(authority.tls("sip.example.com"))).await;
    let mut phone = call(&authority, lab.at(0), "sip.example.com").await.expect("trusted");
    echoed(&mut phone).await;
    let flow = lab.wait(|input| match input {
        Input::Received { flow, .. } => Some(*flow),
        _ => None,
    });
    assert_eq!(flow.await.transport, Transport::Tls);
    let tls = lab.handle.counters().await.expect("counters").tls;
    assert_eq!((tls.accepted, tls.open, tls.messages_in), (1, 1, 1));
}

#[tokio::test]
async fn who_does_not_speak_tls_is_counted_and_never_opened() {
    let authority = Authority::new();
    let mut options = with_tls(authority.tls("sip.example.com"));
    options.limits.message_time = Duration::from_millis(100);
    let lab = Lab::start(options).await;
    let mut plain = TcpStream::connect(lab.at(0)).await.expect("connected");
    plain.write_all(REQUEST).await.expect("sent");
    let mut end = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut end))
        .await
        .expect("it is closed");
    let mut silent = TcpStream::connect(lab.at(0)).await.expect("connected");
    let _ = timeout(PATIENCE, silent.read_to_end(&mut end))
        .await
        .expect("it is closed");
    let counters = lab.handle.counters().await.expect("counters");
    assert_eq!(
        (counters.dropped(Reason::Handshake), counters.dropped(Reason::Slow)),
        (1, 1)
    );
    assert_eq!(counters.tls.accepted, 0);
}

#[tokio::test]
async fn a_new_certificate_is_taken_and_a_bad_one_refused() {
    let authority = Authority::new();
    let tls = authority.tls("old.example.com");
    let lab = Lab::start(with_tls(tls.clone())).await;
    let mut old = call(&authority, lab.at(0), "old.example.com").await.expect("trusted");
    authority.tls("new.example.com");
    lab.handle.reload(with_tls(tls.clone())).await.expect("reloaded");
    echoed(&mut call(&authority, lab.at(0), "new.example.com").await.expect("trusted")).await;
    call(&authority, lab.at(0), "old.example.com")
        .await
        .expect_err("no longer");
    let (_, other) = authority.issue(&[dns("other.example.com")]);
    std::fs::write(&tls.key, other).expect("written");
    let error = format!("{:#}", lab.handle.reload(with_tls(tls)).await.expect_err("refused"));
    assert!(error.contains("is not that of the certificate"), "{error}");
    echoed(&mut call(&authority, lab.at(0), "new.example.com").await.expect("trusted")).await;
    echoed(&mut old).await;
}

#[tokio::test]
async fn a_listener_without_certificate_is_refused() {
    let error = Lab::try_start(options(&[Transport::Tls])).await.err().expect("refused");
    assert!(
        format!("{error:#}").contains("set `certificate` and `key` in [sip.tls]"),
        "{error:#}"
    );
}

#[tokio::test]
async fn servers_must_have_the_name_that_was_looked_up() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let uri = SanType::URI("sip:example.com".to_owned().try_into().expect("a URI"));
    let address = SanType::IpAddress("127.0.0.1".parse().expect("address"));
    type Case<'a> = (&'a Authority, &'a [SanType], Option<&'a str>, Option<SendError>);
    let cases: [Case<'_>; 8] = [
        (&authority, &[dns("example.com")], Some("example.com"), None),
        (&authority, std::slice::from_ref(&uri), Some("example.com"), None),
        (&authority, &[address], None, None),
        (
            &authority,
            &[dns("other.com")],
            Some("example.com"),
            Some(SendError::Certificate),
        ),
        (
            &authority,
            &[uri.clone(), dns("sip.example.com")],
            Some("sip.example.com"),
            Some(SendError::Certificate),
        ),
        (
            &authority,
            &[dns("*.example.com")],
            Some("sip.example.com"),
            Some(SendError::Certificate),
        ),
        (&authority, &[dns("example.com")], None, Some(SendError::Certificate)),
        (
            &stranger,
            &[dns("example.com")],
            Some("example.com"),
            Some(SendError::Certificate),
        ),
    ];
    let mut lab = Lab::start(with_tls(authority.tls("sip.example.com"))).await;
    for (i, (issuer, names, wanted, expected)) in cases.into_iter().enumerate() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let acceptor = issuer.acceptor(names);
        let hop = Hop {
            transport: Transport::Tls,
            address: server.local_addr().expect("address"),
            name: wanted.map(Into::into),
        };
        let serving = async {
            let (stream, _) = server.accept().await.expect("accepted");
            let mut stream = acceptor.accept(stream).await.ok()?;
            let mut got = vec![0; REQUEST.len()];
            stream.read_exact(&mut got).await.ok()?;
            Some(got)
        };
        lab.tell(Command::Send {
            to: Destination::Hop {
                listener: ListenerId(0),
                hop,
            },
            bytes: REQUEST.into(),
            ticket: Some(Ticket(i as u64)),
        })
        .await;
        let got = timeout(PATIENCE, serving).await.expect("in time");
        let failed = lab.wait(|input| match input {
            Input::Sent { ticket: Ticket(t), .. } if *t == i as u64 => Some(None),
            Input::Failed {
                ticket: Ticket(t),
                reason,
            } if *t == i as u64 => Some(Some(*reason)),
            _ => None,
        });
        assert_eq!(failed.await, expected, "case {i}");
        assert_eq!(got.as_deref(), expected.is_none().then_some(REQUEST), "case {i}");
    }
}

/// RFC 5923 section 8.2: a connection serves for the address that its client named if what is sent is for a domain that the client's
/// certificate has, and one of our authorities has signed that. Else it is a client like any other.
#[tokio::test]
async fn a_connection_serves_for_the_domains_of_its_client() {
    let authority = Authority::new();
    let stranger = Authority::new();
    let uri = SanType::URI("sip:Example.com".to_owned().try_into().expect("a URI"));
    let mut lab = Lab::start(with_tls(authority.tls("sip.example.com"))).await;
    type Case<'a> = (Option<(&'a Authority, &'a [SanType])>, bool);
    let cases: [Case<'_>; 5] = [
        (Some((&authority, &[dns("example.com")])), true),
        (Some((&authority, &[uri])), true),
        (Some((&authority, &[dns("other.com")])), false),
        (Some((&stranger, &[dns("example.com")])), false),
        (None, false),
    ];
    for (i, (shows, serves)) in cases.into_iter().enumerate() {
        let name = ServerName::try_from("sip.example.com").expect("a name");
        let stream = TcpStream::connect(lab.at(0)).await.expect("connected");
        let mut peer = authority.connector(shows).connect(name, stream).await.expect("trusted");
        echoed(&mut peer).await;
        let flow = lab
            .wait(|input| match input {
                Input::Received { flow, .. } => Some(*flow),
                _ => None,
            })
            .await;
        // Nobody listens there, so what does not go over the connection fails.
        let free = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = free.local_addr().expect("address");
        drop(free);
        lab.tell(Command::Alias { flow, address }).await;
        let ticket = Ticket(i as u64);
        lab.tell(Command::Send {
            to: Destination::Hop {
                listener: ListenerId(0),
                hop: Hop {
                    transport: Transport::Tls,
                    address,
                    name: Some("example.com".into()),
                },
            },
            bytes: REQUEST.into(),
            ticket: Some(ticket),
        })
        .await;
        let on = lab
            .wait(|input| match input {
                Input::Sent { ticket: t, flow } if *t == ticket => Some(Some(*flow)),
                Input::Failed { ticket: t, .. } if *t == ticket => Some(None),
                _ => None,
            })
            .await;
        assert_eq!(on, serves.then_some(flow), "case {i}");
        if serves {
            let mut got = vec![0; REQUEST.len()];
            timeout(PATIENCE, peer.read_exact(&mut got))
                .await
                .expect("in time")
                .expect("received");
            assert_eq!(got, REQUEST, "case {i}");
        }
    }
    let counters = lab.handle.counters().await.expect("counters");
    assert_eq!(counters.dropped(Reason::Alias), 2, "those who have proven nothing");
}
