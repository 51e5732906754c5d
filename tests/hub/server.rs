//! The hub's stand-in: a tiny HTTP/1.1 server on loopback.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

pub struct Request {
    /// `GET /path`, without the query.
    pub line: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

#[derive(Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Drops the connection after so many bytes of the body.
    pub cut_at: Option<usize>,
}

pub fn reply(status: u16, body: impl AsRef<[u8]>) -> Reply {
    Reply { status, body: body.as_ref().to_vec(), ..Reply::default() }
}

impl Reply {
    pub fn with(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.to_string(), value.to_string()));
        self
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// An HTTP/1.1 server, one request a connection; it remembers what it was asked.
pub struct Server {
    pub url: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (handler, log): (Arc<Handler>, _) = (Arc::new(handler), seen.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, log) = (handler.clone(), log.clone());
                std::thread::spawn(move || serve(stream, &*handler, &log));
            }
        });
        Server { url, seen }
    }

    /// What was asked so far, such as `HEAD /org/tiny/…`.
    pub fn lines(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|request| request.line.clone()).collect()
    }

    pub fn count(&self, line: &str) -> usize {
        self.lines().iter().filter(|seen| *seen == line).count()
    }

    /// This header of all requests.
    pub fn headers(&self, name: &str) -> Vec<Option<String>> {
        self.seen.lock().unwrap().iter().map(|request| request.header(name).map(str::to_string)).collect()
    }
}

fn serve(stream: TcpStream, handler: &Handler, log: &Mutex<Vec<Request>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':').map(|(k, v)| (k.to_lowercase(), v.trim().to_string())))
        .collect();
    let (method, rest) = first.split_once(' ').unwrap();
    let path = rest.split([' ', '?']).next().unwrap();
    let request = Request { line: format!("{method} {path}"), headers };
    let mut reply = handler(&request);
    log.lock().unwrap().push(request);
    if !reply.headers.iter().any(|(name, _)| name == "Transfer-Encoding") {
        let bytes = reply.body.len();
        reply = reply.with("Content-Length", bytes);
    }
    let mut out = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", reply.status).into_bytes();
    for (name, value) in &reply.headers {
        out.extend(format!("{name}: {value}\r\n").bytes());
    }
    out.extend(b"\r\n");
    if method != "HEAD" {
        out.extend(&reply.body[..reply.cut_at.unwrap_or(reply.body.len())]);
    }
    // The client may have left already.
    let _ = (&stream).write_all(&out);
}

/// An address where nobody listens: the near end of a connection holds its port for as long as this lives.
pub struct Nowhere {
    pub url: String,
    _held: (TcpListener, TcpStream),
}

impl Nowhere {
    pub fn new() -> Nowhere {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Nowhere { url: format!("http://{}", near.local_addr().unwrap()), _held: (listener, near) }
    }
}
