//! One file's bytes, into `blobs/<etag>.incomplete`, from where a cut download left off; checked, then renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::Response;

use crate::origin::hub::api::Remote;
use crate::origin::hub::cache::Repo;
use crate::origin::hub::client::{Client, Failure, header};
use crate::os::progress::Meter;

const BUFFER_BYTES: usize = 1 << 20;
/// So much is written between two syncs: the last one, during which nothing can be interrupted, finds no more.
const SYNC_BYTES: u64 = 256 << 20;
/// A try that brought so much was a good one, and the count of failures starts anew.
const GOOD_TRY_BYTES: u64 = 16 << 20;

/// Brings the blob into the cache, unless it is there. The meter stands at `before_bytes` plus what has arrived.
pub(super) fn fetch(
    client: &Client,
    repo: &Repo,
    remote: &Remote,
    meter: &Meter,
    before_bytes: u64,
) -> Result<()> {
    let _lock = repo.lock(&remote.etag, client)?;
    let blob = repo.blob(&remote.etag);
    if fs::metadata(&blob).is_ok_and(|meta| meta.len() == remote.bytes) {
        return Ok(());
    }
    let mut partial =
        Partial::open(blob.with_file_name(format!("{}.incomplete", remote.etag)), remote, client)?;
    let mut tries = client.tries();
    // Only new ground counts as progress: a server that starts over again and again must not keep us for ever.
    let mut reached_bytes = partial.bytes;
    while partial.bytes < remote.bytes {
        let arrived = |bytes: u64| meter.set(before_bytes.saturating_add(bytes));
        let received = receive(client, remote, &mut partial, &arrived);
        if partial.bytes >= reached_bytes.saturating_add(GOOD_TRY_BYTES) {
            reached_bytes = partial.bytes;
            tries = client.tries();
        }
        received.or_else(|failure| tries.again(failure))?;
    }
    partial.finish(remote, &blob)
}

/// One try: reads on from where the partial file ends.
fn receive(
    client: &Client,
    remote: &Remote,
    partial: &mut Partial,
    arrived: &dyn Fn(u64),
) -> Result<(), Failure> {
    let response = client.open(&remote.url, partial.bytes)?;
    if check_range(&response, partial.bytes, remote)? == 0 {
        partial.restart()?;
    }
    let mut reader = response.into_body().into_reader();
    let mut buffer = vec![0u8; BUFFER_BYTES];
    loop {
        client.check_cancel()?;
        let cut = |at: u64, why: &str| {
            Failure::passing(format!("the connection was cut at byte {at} of {}{why}", remote.bytes))
        };
        let read = reader.read(&mut buffer).map_err(|e| cut(partial.bytes, &format!(": {e}")))?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return if partial.bytes == remote.bytes { Ok(()) } else { Err(cut(partial.bytes, "")) };
        };
        if read as u64 > remote.bytes - partial.bytes {
            partial.restart()?;
            return Err(
                anyhow!("{} sends more than the {} bytes it announced", remote.url, remote.bytes).into()
            );
        }
        partial.write(bytes)?;
        arrived(partial.bytes);
    }
}

/// The byte at which this answer begins: where we asked, or 0 from a server that knows no ranges.
fn check_range(response: &Response<Body>, asked_from: u64, remote: &Remote) -> Result<u64> {
    let header = |name: &str| header(response.headers(), name);
    let (from, total_bytes) = match (response.status().as_u16(), header("content-range")) {
        (206, Some(range)) => {
            let (from, total) = parse_range(range).with_context(|| {
                format!("{} answers with the range {range:?}, which makes no sense", remote.url)
            })?;
            if from != asked_from {
                bail!("{} was asked for bytes from {asked_from} and sends them from {from}", remote.url);
            }
            (from, Some(total))
        }
        (206, None) => bail!("{} sends a part and does not say which", remote.url),
        _ => (0, header("content-length").and_then(|text| text.trim().parse().ok())),
    };
    if total_bytes.is_some_and(|total| total != remote.bytes) {
        bail!(
            "{} announced {} bytes and now has {}; run it again, or name a revision",
            remote.url,
            remote.bytes,
            total_bytes.unwrap_or_default()
        );
    }
    Ok(from)
}

/// `bytes 5-9/10` begins at 5 of 10.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    Some((from.trim().parse().ok()?, total.trim().parse().ok()?))
}

/// The bytes that have arrived, and their digest so far where the etag is one.
struct Partial {
    path: PathBuf,
    file: File,
    bytes: u64,
    sha256: Option<Sha256>,
}

impl Partial {
    /// Takes up what an earlier run left. The blob's lock is held.
    fn open(path: PathBuf, remote: &Remote, client: &Client) -> Result<Partial> {
        let is_sha256 = remote.etag.len() == 64 && remote.etag.bytes().all(|b| b.is_ascii_hexdigit());
        let open = || -> io::Result<File> {
            fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)
        };
        let file = open().with_context(|| format!("open {}", path.display()))?;
        let mut partial = Partial { path, file, bytes: 0, sha256: is_sha256.then(Sha256::new) };
        partial.take_up(remote, client).with_context(|| format!("read {}", partial.path.display()))?;
        Ok(partial)
    }

    fn take_up(&mut self, remote: &Remote, client: &Client) -> Result<()> {
        let bytes = self.file.metadata()?.len();
        if bytes > remote.bytes {
            return self.restart();
        }
        if let Some(sha256) = &mut self.sha256 {
            let mut buffer = vec![0u8; BUFFER_BYTES];
            loop {
                client.check_cancel()?;
                match self.file.read(&mut buffer)? {
                    0 => break,
                    read => sha256.update(&buffer[..read]),
                }
            }
        }
        self.bytes = self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.sha256 = self.sha256.take().map(|_| Sha256::new());
        self.bytes = 0;
        let restart = self.file.set_len(0).and_then(|()| self.file.rewind());
        restart.with_context(|| format!("empty {}", self.path.display()))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| {
            format!("write {} at byte {}; is the disk full?", self.path.display(), self.bytes)
        })?;
        let before_bytes = self.bytes;
        self.bytes += bytes.len() as u64;
        if before_bytes / SYNC_BYTES != self.bytes / SYNC_BYTES {
            self.sync()?;
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().with_context(|| format!("sync {}", self.path.display()))
    }

    /// Checks the digest and gives the bytes their place. Synced first: after a crash a blob is whole or absent.
    fn finish(mut self, remote: &Remote, blob: &Path) -> Result<()> {
        if let Some(sha256) = self.sha256.take() {
            let found = format!("{:x}", sha256.finalize());
            if !found.eq_ignore_ascii_case(&remote.etag) {
                self.restart()?;
                bail!(
                    "{} arrived with the SHA-256 {found}, but should have {}; it was thrown away, run it again",
                    remote.url,
                    remote.etag
                );
            }
        }
        self.sync()?;
        fs::rename(&self.path, blob)
            .with_context(|| format!("rename {} to {}", self.path.display(), blob.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, 10)));
        for bad in ["", "bytes */10", "bytes 5-9", "bytes 5-9/*", "5-9/10", "bytes -9/10"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
