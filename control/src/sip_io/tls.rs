//! Certificates: ours, those we trust, and what a peer's says (RFC 5922).
//!
//! Ours comes from files, or is made at start for the configured names. Peers of ours are verified against the domain that was asked for;
//! a wildcard stands for one left-most label, as providers use it although RFC 5922 §7.2 does not. A client that shows a certificate
//! at the TLS port has it verified against the configured authorities; one that shows none is let in, since digest or address may do.
//! No ALPN is offered unless it is configured: Meta's endpoint ends the handshake when it sees one. A server may want something of
//! its own (`Server`): a certificate of ours to know us by, ALPN, or no verification.

use crate::sip::transport::{PeerIdentity, Transport};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The certificates of the SIP sockets.
#[derive(Clone, Default)]
pub struct TlsSettings {
    /// PEM files of our certificate with its chain, and of its key; `None`: one is made at start.
    pub files: Option<(PathBuf, PathBuf)>,
    /// Names and addresses that a made certificate carries.
    pub names: Vec<String>,
    /// PEM file of authorities that are trusted beside the system's.
    pub trusted: Option<PathBuf>,
    /// Show our certificate to servers that ask for one; some carriers do.
    pub client_certificate: bool,
    /// Offer ALPN `sip`.
    pub alpn: bool,
}

/// What one server wants that others do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Its name, or its address where it has none, as connections ask for it.
    pub name: String,
    /// Any certificate of its will do.
    pub unverified: bool,
    /// PEM files of the certificate that it is shown, with its chain, and of the key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// It is offered ALPN `sip`.
    pub alpn: bool,
}

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl TlsSettings {
    /// For a listener.
    pub(super) fn acceptor(&self, transport: Transport) -> io::Result<TlsAcceptor> {
        let (chain, key) = self.chain()?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(wrong)?;
        // A browser would ask its user for a certificate that no softphone has.
        let builder = match &self.trusted {
            Some(path) if transport == Transport::Tls => {
                let mut roots = RootCertStore::empty();
                add_file(&mut roots, path)?;
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.allow_unauthenticated().build().map_err(wrong)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(wrong)?;
        if self.alpn && transport == Transport::Tls {
            config.alpn_protocols = vec![b"sip".to_vec()];
        }
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// For connections of ours, to one server or to all that want nothing of their own.
    pub(super) fn connector(&self, server: Option<&Server>) -> io::Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        // A host without authorities of its own can still trust those that are configured.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = &self.trusted {
            add_file(&mut roots, path)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(wrong)?;
        let builder = match server.is_some_and(|server| server.unverified) {
            false => builder.with_root_certificates(roots),
            true => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
        };
        let own = server.and_then(|server| server.certificate.as_ref());
        let shown = match own {
            Some(files) => Some(read_chain(files)?),
            None => self.client_certificate.then(|| self.chain()).transpose()?,
        };
        let mut config = match shown {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(wrong)?,
            None => builder.with_no_client_auth(),
        };
        if self.alpn || server.is_some_and(|server| server.alpn) {
            config.alpn_protocols = vec![b"sip".to_vec()];
        }
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn chain(&self) -> io::Result<Chain> {
        self.files.as_ref().map_or_else(|| self.made(), read_chain)
    }

    /// A certificate that nobody has signed: good for tests, and for peers that do not verify.
    fn made(&self) -> io::Result<Chain> {
        let names = if self.names.is_empty() { vec!["localhost".to_owned()] } else { self.names.clone() };
        let made = rcgen::generate_simple_self_signed(names).map_err(wrong)?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(wrong)?;
        Ok((vec![made.cert.der().clone()], key))
    }
}

/// Takes any certificate, and still has its holder prove that the key is theirs.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn read_chain((certificate, key): &(PathBuf, PathBuf)) -> io::Result<Chain> {
    let chain = certificates(certificate)?;
    if chain.is_empty() {
        return Err(wrong(format!("{} holds no certificate", certificate.display())));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(format!("{}: {error}", key.display())))?;
    Ok((chain, key))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let named = |error: rustls::pki_types::pem::Error| wrong(format!("{}: {error}", path.display()));
    CertificateDer::pem_file_iter(path).map_err(named)?.collect::<Result<_, _>>().map_err(named)
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> io::Result<()> {
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    if added == 0 { Err(wrong(format!("{} holds no authority's certificate", path.display()))) } else { Ok(()) }
}

fn wrong(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error.to_string())
}

/// The names in a verified peer's certificate: DNS names, addresses, and URIs such as `sip:example.com` (RFC 5922 §7.1).
pub(super) fn peer_identity(chain: Option<&[CertificateDer<'_>]>) -> PeerIdentity {
    let certificate = chain.and_then(|chain| chain.first()).and_then(|der| X509Certificate::from_der(der).ok());
    let Some((_, certificate)) = certificate else { return PeerIdentity::default() };
    let names = certificate.subject_alternative_name().ok().flatten();
    let mut certificate_names = Vec::new();
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => certificate_names.push(name.to_ascii_lowercase()),
            GeneralName::URI(uri) => certificate_names.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => certificate_names.extend(address(bytes).map(|ip| ip.to_string())),
            _ => {}
        }
    }
    // RFC 5922 §7.1: the common name counts only where there are no others.
    if certificate_names.is_empty() {
        let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        certificate_names.extend(common.map(str::to_ascii_lowercase));
    }
    PeerIdentity { certificate_names }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}
