//! The key by which a client recognises its own request when it sends it again.

/// A key and what was asked for with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The value of `Idempotency-Key`. Each owner has keys of its own.
    pub key: String,
    /// SHA-256 of the request in its canonical form: the same for the same request, whatever its bytes.
    pub fingerprint: [u8; 32],
}
