//! Certificates for tests: an authority of its own, and what it signs, as PEM files.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use crate::programs::TempDir;

/// An authority that signs certificates. Its files go away with it.
#[derive(Debug)]
pub struct Authority {
    /// Its own certificate, PEM.
    pub file: PathBuf,
    der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
    dir: TempDir,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one.
    pub fn new() -> Result<Self> {
        let (dir, key) = (TempDir::new()?, KeyPair::generate()?);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "sipnat's tests");
        let certificate = params.self_signed(&key)?;
        let file = dir.path().join("authority.pem");
        fs::write(&file, certificate.pem()).with_context(|| format!("write {}", file.display()))?;
        let der = certificate.der().to_vec();
        Ok(Self {
            file,
            der,
            issuer: Issuer::new(params, key),
            dir,
        })
    }

    /// Signs a server's certificate for these names and addresses; the first is the subject (RFC 5922 §7.1).
    pub fn sign(&self, names: &[&str]) -> Result<Certificate> {
        let (key, mut params) = (KeyPair::generate()?, CertificateParams::default());
        let subject = names.first().context("a certificate needs a name")?;
        params.distinguished_name.push(DnType::CommonName, *subject);
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.to_string().try_into()?),
            });
        }
        let signed = params.signed_by(&key, &self.issuer)?;
        let at = |what: &str| self.dir.path().join(format!("{subject}-{what}.pem"));
        let files = Certificate {
            certificate: at("certificate"),
            key: at("key"),
        };
        fs::write(&files.certificate, signed.pem()).context("write the certificate")?;
        fs::write(&files.key, key.serialize_pem()).context("write the key")?;
        Ok(files)
    }

    /// Trust in this authority and no other.
    pub fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(self.der.clone()))?;
        Ok(roots)
    }
}
