//! Where a server listens, as people write it.

use std::path::Path;

use crate::client::error::ClientError;

/// What gRPC's own naming calls this address: `HOST:PORT`, or `unix:PATH`.
pub fn endpoint(address: &str) -> Result<String, ClientError> {
    let malformed = || {
        ClientError::Refused(format!(
            "'{address}' is no server's address: it is HOST:PORT, such as 127.0.0.1:8073, or unix:PATH"
        ))
    };
    if let Some(path) = address.strip_prefix("unix:") {
        // Two slashes before an absolute path are usual.
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() {
            return Err(malformed());
        }
        let whole = std::path::absolute(Path::new(path)).map_err(|_| malformed())?;
        return whole.to_str().map(|path| format!("unix://{path}")).ok_or_else(malformed);
    }
    let address = address.strip_prefix("http://").unwrap_or(address);
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(format!("http://{address}"))
        }
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (address, wanted) in [
            ("127.0.0.1:8073", "http://127.0.0.1:8073"),
            ("http://node-3:80", "http://node-3:80"),
            ("[::1]:8073", "http://[::1]:8073"),
            ("unix:/run/s.sock", "unix:///run/s.sock"),
            ("unix:///run/s.sock", "unix:///run/s.sock"),
        ] {
            assert_eq!(endpoint(address).unwrap(), wanted, "{address}");
        }
        assert!(endpoint("unix:s.sock").unwrap().starts_with("unix:///"));
        for address in ["", "host", ":80", "host:", "host:99999", "unix:", "unix://"] {
            assert!(
                matches!(endpoint(address), Err(ClientError::Refused(why)) if why.contains("HOST:PORT")),
                "{address}"
            );
        }
    }
}
