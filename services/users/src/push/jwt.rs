//! Signed JSON Web Tokens for the push services: ES256 for APNs and VAPID, RS256 for Google's OAuth. The keys are of PKCS #8.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";

pub(super) enum SigningKey {
    Es256(EcdsaKeyPair),
    Rs256(rsa::KeyPair),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

/// The DER of a key in PEM.
fn decode_pem(pem: &str) -> Result<Vec<u8>, String> {
    let (_, rest) = pem.split_once(BEGIN).ok_or(format!("there is no `{BEGIN}`: a key in PKCS #8 is needed"))?;
    let (coded, _) = rest.split_once(END).ok_or(format!("there is no `{END}`"))?;
    let coded: String = coded.split_whitespace().collect();
    STANDARD.decode(coded).map_err(|_| "what is in the PEM is not base64".to_owned())
}

impl SigningKey {
    /// A key of P-256.
    ///
    /// # Errors
    /// What is wrong, without the key.
    pub(super) fn es256(pem: &str) -> Result<Self, String> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &decode_pem(pem)?);
        key.map(Self::Es256).map_err(|_| "it is no private key of P-256".to_owned())
    }

    /// # Errors
    /// What is wrong, without the key.
    pub(super) fn rs256(pem: &str) -> Result<Self, String> {
        let key = rsa::KeyPair::from_pkcs8(&decode_pem(pem)?);
        key.map(Self::Rs256).map_err(|_| "it is no private key of RSA with 2048 bits or more".to_owned())
    }

    /// The public key of P-256, uncompressed; empty for RSA.
    pub(super) fn public_point(&self) -> &[u8] {
        match self {
            Self::Es256(key) => key.public_key().as_ref(),
            Self::Rs256(_) => &[],
        }
    }

    /// A token with these claims. `None` if the library refuses to sign.
    pub(super) fn sign(&self, key_id: Option<&str>, claims: &Value) -> Option<String> {
        let alg = match self {
            Self::Es256(_) => "ES256",
            Self::Rs256(_) => "RS256",
        };
        let mut header = json!({"typ": "JWT", "alg": alg});
        if let Some(key_id) = key_id {
            header["kid"] = key_id.into();
        }
        let code = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", code(&header), code(claims));
        // The nonce of a signature is the library's: it shows in nothing that a simulation compares.
        let random = SystemRandom::new();
        let signature = match self {
            Self::Es256(key) => key.sign(&random, signed.as_bytes()).ok()?.as_ref().to_vec(),
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).ok()?;
                signature
            }
        };
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
