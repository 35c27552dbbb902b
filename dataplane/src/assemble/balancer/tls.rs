//! How health checks over HTTPS verify certificates.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use throughway_config::Trust;

/// Where distributions keep the certificate authorities that a host trusts: Debian and Arch, Fedora, SUSE, Alpine.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What a TLS client needs to know. Files are read when this is called.
///
/// # Errors
/// When there is nothing to verify against, in words.
pub fn config(trust: &Trust) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match trust {
        Trust::Nothing => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
        Trust::System => {
            let file = SYSTEM.iter().map(Path::new).find(|path| path.exists());
            let file = file.ok_or("the host has no certificate authorities (package ca-certificates)")?;
            builder.with_root_certificates(roots(file)?)
        }
        Trust::File(file) => builder.with_root_certificates(roots(file)?),
    };
    Ok(Arc::new(builder.with_no_client_auth()))
}

fn roots(file: &Path) -> Result<RootCertStore, String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let all = CertificateDer::pem_file_iter(file).map_err(|error| told(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in all {
        // One that is odd does not make the others worthless, as long as there are others.
        let _ = certificate.map(|certificate| roots.add(certificate)).map_err(|error| told(&error))?;
    }
    if roots.is_empty() { Err(told(&"there is no certificate in it that can be used")) } else { Ok(roots) }
}

/// Takes any certificate, whoever signed it: the check asks whether the backend is alive, not who it is. That the backend has the
/// certificate's key is verified nevertheless.
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
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused_by_its_name() {
        let file = std::env::temp_dir().join(format!("throughway-empty-{}.pem", std::process::id()));
        std::fs::write(&file, "nothing\n").unwrap();
        let error = config(&Trust::File(file.clone())).unwrap_err();
        assert!(error.contains(file.to_str().unwrap()) && error.contains("no certificate"), "{error}");
        std::fs::remove_file(&file).unwrap();
        assert!(config(&Trust::File(file)).unwrap_err().contains("o such file"));
        assert!(config(&Trust::Nothing).is_ok());
    }
}
