//! The rule for addresses that others can reach.

use std::net::IpAddr;

use super::AuthError;

/// Checks that `address` may be listened on: loopback always, any other only with tokens or when the operator has said so explicitly.
///
/// # Errors
/// [`AuthError::OpenAddress`], whose text says the remedies.
pub fn check_bind(address: IpAddr, has_tokens: bool, allow_unauthenticated: bool) -> Result<(), AuthError> {
    if address.to_canonical().is_loopback() || has_tokens || allow_unauthenticated {
        Ok(())
    } else {
        Err(AuthError::OpenAddress { address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_address_needs_a_token_or_a_word() {
        for (address, tokens, word, good) in [
            ("127.0.0.1", false, false, true),
            ("127.9.9.9", false, false, true),
            ("::1", false, false, true),
            ("::ffff:127.0.0.1", false, false, true),
            ("0.0.0.0", false, false, false),
            ("::", false, false, false),
            ("192.168.1.5", false, false, false),
            ("0.0.0.0", true, false, true),
            ("0.0.0.0", false, true, true),
        ] {
            let result = check_bind(address.parse().unwrap(), tokens, word);
            assert_eq!(result.is_ok(), good, "{address} {tokens} {word}");
            if let Err(e) = result {
                assert!(e.to_string().contains("--token-file") && e.to_string().contains(address), "{e}");
            }
        }
    }
}
