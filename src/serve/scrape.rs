//! Where Prometheus asks: one page by plain HTTP, and no more.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A request's head is shorter, and comes sooner.
const MOST_HEAD_BYTES: usize = 8 << 10;
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the page.
pub type Page = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Answers until it is dropped.
pub async fn answer(listener: TcpListener, page: Page) {
    loop {
        // A connection that failed before it was taken is none; out of descriptors, the next may find some.
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(timeout(PATIENCE, answer_one(stream, page.clone())))),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer_one(mut stream: TcpStream, page: Page) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > MOST_HEAD_BYTES || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let (status, kind, body) = match line {
        b"GET /metrics HTTP/1.1" | b"GET /metrics HTTP/1.0" => match page() {
            Some(page) => ("200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", page),
            None => ("500 Internal Server Error", "text/plain", "the page could not be made\n".into()),
        },
        _ => ("404 Not Found", "text/plain", "there is only /metrics\n".into()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
