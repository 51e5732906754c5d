//! Where a server listens: ports and sockets, and what to do where they can't be had.

use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use tokio::net::{TcpListener, UnixListener, lookup_host};

/// What a port is for.
pub struct Purpose {
    what: &'static str,
    other: &'static str,
}

/// Calls of clients.
pub const CALLS: Purpose = Purpose { what: "listen at", other: "take another port or host" };
/// Questions of Prometheus.
pub const METRICS: Purpose =
    Purpose { what: "answer Prometheus at", other: "take another address for Prometheus" };

/// Listens at a port of an address, or of a name that stands for one.
pub async fn bind(host: &str, port: u16, purpose: &Purpose) -> Result<TcpListener> {
    let Purpose { what, other } = purpose;
    // As in URLs, an IPv6 address may stand in brackets.
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let refused = |why: &str, error: Error| anyhow!("{what} {host}:{port}: {why} ({error}): {other}");
    let found = lookup_host((bare, port))
        .await
        .map_err(|error| refused("the host is no IP address, and no name that is known here", error))?;
    let found: Vec<_> = found.collect();
    TcpListener::bind(&found[..]).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => refused("another server, or another program, listens there already", error),
        ErrorKind::AddrNotAvailable => refused(
            "no network interface here has that address; 127.0.0.1 is for this machine alone, 0.0.0.0 for all interfaces",
            error,
        ),
        ErrorKind::PermissionDenied => {
            refused("this user may not listen there, as at most ports below 1024", error)
        }
        _ => refused("the system refuses it", error),
    })
}

/// Listens where Prometheus is to ask: `HOST:PORT`.
pub async fn bind_metrics(address: &str) -> Result<TcpListener> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match parts.filter(|(host, _)| !host.is_empty()) {
        Some((host, port)) => bind(host, port, &METRICS).await,
        None => bail!(
            "{} '{address}': this is no HOST:PORT, such as 127.0.0.1:9273: {}",
            METRICS.what,
            METRICS.other
        ),
    }
}

/// A socket that only this user may connect to. One that a server left behind is replaced, one that a server listens at is not.
pub fn bind_unix(path: &Path) -> Result<UnixListener> {
    let listen = || format!("listen at the Unix socket {}", path.display());
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("{}: another server listens there: take another path, or end that", listen());
    }
    match std::fs::symlink_metadata(path) {
        Ok(about) if about.file_type().is_socket() => {
            std::fs::remove_file(path).with_context(listen)?;
        }
        Ok(_) => bail!("{}: something else stands there: take another path, or move that", listen()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(listen),
    }
    let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            anyhow!("{}: its directory does not exist: make it, or take another path", listen())
        }
        ErrorKind::InvalidInput => anyhow!("{}: {error}: take a shorter path", listen()),
        _ => anyhow!("{}: {error}: take a path in a directory that this user may write to", listen()),
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(listen)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_can_not_be_had_says_why_and_what_to_do() {
        let taken = bind("127.0.0.1", 0, &CALLS).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = bind("127.0.0.1", port, &CALLS).await.unwrap_err().to_string();
        assert!(error.contains("listens there already") && error.contains("take another port"), "{error}");
        // Of the addresses that are kept for documents; no interface has one.
        let error = bind("192.0.2.1", 0, &METRICS).await.unwrap_err().to_string();
        assert!(
            error.contains("no network interface") && error.contains("address for Prometheus"),
            "{error}"
        );
        let error = bind("127.0.0.1:9", 0, &CALLS).await.unwrap_err().to_string();
        assert!(error.contains("no name that is known") && error.contains("port or host"), "{error}");
        for address in ["foo", ":9273", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:99999"] {
            let error = bind_metrics(address).await.unwrap_err().to_string();
            assert!(error.contains("HOST:PORT, such as"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_can_not_be_made_says_why_and_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = |name: &str| bind_unix(&dir.path().join(name)).unwrap_err().to_string();
        assert!(error("none/x").contains("its directory does not exist: make it"), "{}", error("none/x"));
        let long = "x".repeat(200);
        assert!(error(&long).contains("take a shorter path"), "{}", error(&long));
        bind_unix(&dir.path().join("x")).unwrap();
    }
}
