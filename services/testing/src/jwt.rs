//! Keys with which a platform signs for the push services, and how those verify what it signed.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{self, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

/// A pair of keys.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// The private one, PKCS #8 in PEM.
    pub pem: String,
    /// Of P-256 the point, of RSA its DER.
    pub public: Vec<u8>,
    algorithm: &'static dyn VerificationAlgorithm,
}

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
}

impl SigningKey {
    /// Of P-256, as APNs and Web Push have it.
    ///
    /// # Panics
    /// If the machine has no randomness.
    #[must_use]
    pub fn p256() -> Self {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let der = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).expect("randomness");
        let key = EcdsaKeyPair::from_pkcs8(algorithm, der.as_ref()).expect("a key");
        Self { pem: pem(der.as_ref()), public: key.public_key().as_ref().to_vec(), algorithm: &ECDSA_P256_SHA256_FIXED }
    }

    /// Of P-256, of which only the point is known: it verifies, and signs nothing.
    #[must_use]
    pub fn verifying_p256(public: Vec<u8>) -> Self {
        Self { pem: String::new(), public, algorithm: &ECDSA_P256_SHA256_FIXED }
    }

    /// Of RSA with 2048 bits, as Google has it.
    ///
    /// # Panics
    /// As [`p256`](Self::p256).
    #[must_use]
    pub fn rsa() -> Self {
        let key = rsa::KeyPair::generate(KeySize::Rsa2048).expect("randomness");
        let der: Pkcs8V1Der<'_> = key.as_der().expect("a key");
        let public = key.public_key().as_ref().to_vec();
        Self { pem: pem(der.as_ref()), public, algorithm: &RSA_PKCS1_2048_8192_SHA256 }
    }

    /// Header and claims of a token that this key has signed.
    #[must_use]
    pub fn verify(&self, token: &str) -> Option<(Value, Value)> {
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(self.algorithm, &self.public).verify(signed.as_bytes(), &signature).ok()?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        Some((decode(header)?, decode(claims)?))
    }
}
