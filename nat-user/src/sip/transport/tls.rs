//! Certificates: ours, and whose we believe (RFC 3261 section 26.3.1, RFC 5922).

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result, anyhow, bail};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{config::sip::Tls, sip::command::Hop};

const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What TLS connections are made with. Those that are open keep what they began with.
#[derive(Clone)]
pub struct Identity {
    /// `None`: we have no certificate, so nobody can connect to us.
    pub acceptor: Option<TlsAcceptor>,
    pub connector: TlsConnector,
    verifier: Arc<Verifier>,
}

impl Identity {
    /// Reads the files. Without `[sip.tls]` there is only the system's list of authorities, if it has one.
    ///
    /// # Errors
    /// With the file and what is wrong with it.
    pub fn read(tls: Option<&Tls>) -> Result<Identity> {
        let provider = Arc::new(ring::default_provider());
        let roots = match tls.and_then(|tls| tls.authorities.as_deref()) {
            Some(path) => authorities(path).context("[sip.tls] authorities")?,
            None => authorities(Path::new(SYSTEM_AUTHORITIES)).unwrap_or_else(|error| {
                tracing::warn!("no TLS server will be trusted: {error:#}; set `authorities` in [sip.tls]");
                RootCertStore::empty()
            }),
        };
        let verifier = Arc::new(Verifier {
            roots,
            provider: Arc::clone(&provider),
        });
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _);
        let Some(tls) = tls else {
            let client = client.with_no_client_auth();
            return Ok(Identity {
                acceptor: None,
                connector: TlsConnector::from(Arc::new(client)),
                verifier,
            });
        };
        let (chain, key) = pair(&tls.certificate, &tls.key, &provider)?;
        let client = client
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .context("[sip.tls] certificate")?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS versions")?
            .with_client_cert_verifier(Arc::clone(&verifier) as _)
            .with_single_cert(chain, key)
            .context("[sip.tls] certificate")?;
        Ok(Identity {
            acceptor: Some(TlsAcceptor::from(Arc::new(server))),
            connector: TlsConnector::from(Arc::new(client)),
            verifier,
        })
    }

    /// Knows clients by their certificates.
    pub fn clients(&self) -> Clients {
        Clients(Arc::clone(&self.verifier))
    }
}

/// Says who a client of ours is.
#[derive(Clone)]
pub struct Clients(Arc<Verifier>);

impl Clients {
    /// The domains that a client has proven to be (RFC 5922 section 7.1), in lower case. None if it has shown no certificate, or one that no authority
    /// of ours has signed; it may go on without (RFC 5923 section 9.2).
    pub fn domains(&self, shown: Option<&[CertificateDer<'_>]>) -> Vec<Arc<str>> {
        let Some((certificate, intermediates)) = shown.and_then(<[_]>::split_first) else {
            return Vec::new();
        };
        self.0.client(certificate, intermediates).unwrap_or_default()
    }
}

/// The name that a hop's certificate must have: the one that was looked up, else the address.
///
/// # Errors
/// If no certificate can have such a name.
pub fn server_name(hop: &Hop) -> Result<ServerName<'static>> {
    match &hop.name {
        Some(name) => ServerName::try_from(name.trim_end_matches('.').to_owned())
            .with_context(|| format!("`{name}` is no name for a certificate")),
        None => Ok(ServerName::IpAddress(hop.address.ip().into())),
    }
}

fn pair(
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = certificates(certificate).context("[sip.tls] certificate")?;
    let shown = key.display();
    let text = fs::read(key).with_context(|| format!("[sip.tls] key: cannot read {shown}"))?;
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|error| anyhow!("[sip.tls] key: {shown} has no private key in PEM that can be read: {error}"))?;
    match CertifiedKey::from_der(chain.clone(), key.clone_key(), provider) {
        Ok(_) => Ok((chain, key)),
        Err(Error::InconsistentKeys(_)) => bail!(
            "[sip.tls]: the key in {shown} is not that of the certificate in {}; the first certificate of the file must be the server's own",
            certificate.display()
        ),
        Err(error) => bail!(
            "[sip.tls]: {} and {shown} cannot be used: {error}",
            certificate.display()
        ),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let shown = path.display();
    let text = fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| anyhow!("{shown} is no proper PEM: {error}"))?;
    if chain.is_empty() {
        bail!("{shown} has no certificate in PEM (`-----BEGIN CERTIFICATE-----`)");
    }
    Ok(chain)
}

fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    if added == 0 {
        bail!("{} has no certificate of an authority that can be used", path.display());
    }
    Ok(roots)
}

/// Checks peers as SIP wants it: by the names of RFC 5922, of which none has a wildcard.
#[derive(Debug)]
struct Verifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        match server_name {
            ServerName::DnsName(name) => {
                let parsed = webpki::EndEntityCert::try_from(end_entity)
                    .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
                if !is_for(name.as_ref(), parsed.valid_uri_names(), parsed.valid_dns_names()) {
                    return Err(Error::InvalidCertificate(CertificateError::NotValidForName));
                }
            }
            address => verify_server_name(&certificate, address)?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl Verifier {
    /// Whom an authority of ours calls this client.
    fn client(&self, certificate: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Option<Vec<Arc<str>>> {
        let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
        let (algorithms, usage) = (
            self.provider.signature_verification_algorithms.all,
            webpki::KeyUsage::client_auth(),
        );
        parsed
            .verify_for_usage(
                algorithms,
                &self.roots.roots,
                intermediates,
                UnixTime::now(),
                usage,
                None,
                None,
            )
            .ok()?;
        let domains = identities(parsed.valid_uri_names(), parsed.valid_dns_names());
        Some(domains.map(|domain| domain.to_ascii_lowercase().into()).collect())
    }
}

/// Clients are asked for a certificate and need not have one (RFC 5923 section 9.2). They prove that theirs is theirs; who has signed it is
/// looked at afterwards ([`Clients::domains`]), since one from an authority that is none of ours is as good as none.
impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        ParsedCertificate::try_from(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

/// RFC 5922 section 7.2: an identity matches as a whole.
fn is_for<'a>(name: &str, uris: impl Iterator<Item = &'a str>, names: impl Iterator<Item = &'a str>) -> bool {
    identities(uris, names).any(|identity| identity.eq_ignore_ascii_case(name))
}

/// RFC 5922 section 7.1: a SIP URI without user is an identity; if there is none, DNS names are.
fn identities<'a>(
    uris: impl Iterator<Item = &'a str>,
    names: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = &'a str> {
    let domain = |uri: &'a str| {
        let (scheme, rest) = uri.split_once(':')?;
        (scheme.eq_ignore_ascii_case("sip") && !rest.contains('@')).then_some(rest)
    };
    let mut domains = uris.filter_map(domain).peekable();
    let has_uri = domains.peek().is_some();
    domains.chain(names.filter(move |_| !has_uri))
}

/// Whether an error of a handshake means that the peer is not who he should be.
pub fn is_certificate(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Error>());
    matches!(
        cause,
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented)
    )
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn identities_are_those_of_rfc_5922() {
        let is = |name, uris: &[&'static str], names: &[&'static str]| {
            is_for(name, uris.iter().copied(), names.iter().copied())
        };
        assert!(is("example.com", &[], &["other.com", "Example.COM"]));
        assert!(is("example.com", &["sip:example.com"], &[]));
        assert!(
            !is("sip.example.com", &["sip:example.com"], &["sip.example.com"]),
            "URIs come first"
        );
        assert!(is(
            "sip.example.com",
            &["sip:bob@example.com", "im:x"],
            &["sip.example.com"]
        ));
        assert!(!is("a.example.com", &[], &["*.example.com", "example.com"]));
    }

    #[test]
    fn files_are_named_with_what_is_wrong() {
        let directory = std::env::temp_dir().join(format!("sipnat-tls-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("directory");
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).expect("written");
            path
        };
        let one = rcgen::generate_simple_self_signed(["one.example".to_owned()]).expect("made");
        let two = rcgen::generate_simple_self_signed(["two.example".to_owned()]).expect("made");
        let certificate = write("one.pem", &one.cert.pem());
        let key = write("one.key", &one.signing_key.serialize_pem());
        let other = write("two.key", &two.signing_key.serialize_pem());
        let empty = write("empty.pem", "nothing\n");
        let read = |certificate: &Path, key: &Path| {
            let tls = Tls {
                certificate: certificate.into(),
                key: key.into(),
                authorities: Some(directory.join("one.pem")),
            };
            Identity::read(Some(&tls))
                .map(|_| ())
                .map_err(|error| format!("{error:#}"))
        };
        assert_eq!(read(&certificate, &key), Ok(()));
        for (certificate, key, expected) in [
            (&certificate, &other, "is not that of the certificate in"),
            (&empty, &key, "empty.pem has no certificate in PEM"),
            (&certificate, &empty, "empty.pem has no private key in PEM"),
            (&directory.join("none.pem"), &key, "cannot read"),
        ] {
            let error = read(certificate, key).expect_err(expected);
            assert!(error.starts_with("[sip.tls]") && error.contains(expected), "{error}");
        }
        fs::remove_dir_all(&directory).expect("removed");
    }

    #[test]
    fn the_name_is_the_one_looked_up() {
        let hop = |name: Option<&str>| Hop {
            transport: crate::sip::flow::Transport::Tls,
            address: "192.0.2.1:5061".parse().expect("address"),
            name: name.map(Into::into),
        };
        let name = server_name(&hop(Some("example.com."))).expect("a name");
        assert_eq!(name, ServerName::try_from("example.com").expect("a name"));
        let address = server_name(&hop(None)).expect("an address");
        assert_eq!(address, ServerName::from(IpAddr::from([192, 0, 2, 1])));
        assert!(server_name(&hop(Some("a b"))).is_err());
    }
}
