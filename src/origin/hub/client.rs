//! Requests to the hub: redirects followed by hand, so that the token stays with its host; retries that end;
//! refusals explained.

use std::cell::Cell;
use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use thiserror::Error;
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use crate::origin::hub::model::Model;
use crate::origin::hub::options::Options;
use crate::origin::hub::url::{Origin, redirected, shown};
use crate::os::cancel::Interrupted;

const MAX_REDIRECTS: usize = 8;
/// Tries of one request, or of one stretch of a download.
const MAX_TRIES: u32 = 5;
/// A longer Retry-After ends the command with a message instead.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
const MAX_JSON_BYTES: u64 = 32 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Without a byte for so long, a connection counts as cut.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// The hub was not reached, or is out of order; a snapshot in the cache may serve instead.
#[derive(Debug, Error)]
#[error("{what}")]
pub(super) struct NoAnswer {
    what: String,
    /// True when no connection came about at all.
    pub network: bool,
}

/// Why one try failed.
pub(super) enum Failure {
    /// A cut connection, a busy server: worth another try.
    Passing {
        what: String,
        retry_after: Option<Duration>,
    },
    /// No connection came about: worth another try only if the hub answered before.
    Unreachable {
        what: String,
    },
    Final(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Final(error)
    }
}

impl Failure {
    pub fn passing(what: String) -> Failure {
        Failure::Passing { what, retry_after: None }
    }
}

pub(super) struct Client<'a> {
    agent: Agent,
    model: &'a Model,
    options: &'a Options,
    origin: Origin,
    answered: Cell<bool>,
}

impl<'a> Client<'a> {
    pub fn new(model: &'a Model, options: &'a Options) -> Result<Client<'a>> {
        let origin =
            Origin::of(&options.endpoint).context("HF_ENDPOINT should look like https://huggingface.co")?;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("sllm-gds/", env!("CARGO_PKG_VERSION")))
            // A compressed answer would not have the size that the hub announces.
            .accept_encoding("identity")
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT));
        if ["127.0.0.1", "[::1]", "localhost"].contains(&origin.host.as_str()) {
            config = config.proxy(None);
        }
        Ok(Client { agent: config.build().new_agent(), model, options, origin, answered: Cell::new(false) })
    }

    pub fn endpoint(&self) -> &str {
        &self.options.endpoint
    }

    /// Opens a file's content from this byte on; one try.
    pub fn open(&self, url: &str, from_byte: u64) -> Result<Response<Body>, Failure> {
        self.request(Method::Get { from_byte }, url, &mut |_| false)
    }

    /// Reads one JSON answer, of bounded size.
    pub fn json<T: DeserializeOwned>(&self, url: &str) -> Result<T> {
        let body = self.retry(|| {
            let response = self.open(url, 0)?;
            let mut body = Vec::new();
            let mut reader = response.into_body().into_reader().take(MAX_JSON_BYTES + 1);
            reader.read_to_end(&mut body).map_err(|e| Failure::passing(format!("{url} was cut off: {e}")))?;
            Ok(body)
        })?;
        if body.len() as u64 > MAX_JSON_BYTES {
            bail!("{url} answers with more than {} MiB of JSON; is this a hub?", MAX_JSON_BYTES >> 20);
        }
        serde_json::from_slice(&body).with_context(|| {
            let start: String = String::from_utf8_lossy(&body).chars().take(40).collect();
            format!(
                "{url} answers with something else than the hub's JSON ({start:?}…); a proxy or a login page?"
            )
        })
    }

    /// One request, redirects included. `visit` sees each answer's headers and says whether they suffice.
    pub fn request(
        &self,
        method: Method,
        url: &str,
        visit: &mut dyn FnMut(&HeaderMap) -> bool,
    ) -> Result<Response<Body>, Failure> {
        let mut url = url.to_string();
        for _ in 0..=MAX_REDIRECTS {
            self.check_cancel()?;
            let origin = Origin::of(&url)?;
            let mut request = match method {
                Method::Head => self.agent.head(&url),
                Method::Get { .. } => self.agent.get(&url),
            };
            if let Method::Get { from_byte: from_byte @ 1.. } = method {
                request = request.header("Range", format!("bytes={from_byte}-"));
            }
            if let Some(token) = self.options.token.as_ref().filter(|_| origin == self.origin) {
                request = request.header("Authorization", format!("Bearer {}", token.0));
            }
            let response = request.call().map_err(|e| self.transport_failure(&origin, e))?;
            self.answered.set(true);
            let status = response.status();
            let goes_on = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let enough = (status.is_success() || goes_on) && visit(response.headers());
            if status.is_success() || enough {
                return Ok(response);
            }
            if !goes_on {
                return Err(self.refused(&origin, &url, &response));
            }
            let location = header(response.headers(), "location")
                .with_context(|| format!("{} redirects ({status}) without saying where", shown(&url)))?;
            url = redirected(&url, location)?;
            if origin.scheme == "https" && !url.starts_with("https:") {
                return Err(anyhow!("{origin} redirects from https to plain http: refused").into());
            }
        }
        Err(anyhow!("{} redirects more than {MAX_REDIRECTS} times", shown(&url)).into())
    }

    /// Errors of ureq never hold request headers, so the token cannot be in them.
    fn transport_failure(&self, origin: &Origin, error: ureq::Error) -> Failure {
        use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
        let place = if *origin == self.origin { self.options.endpoint.clone() } else { origin.to_string() };
        let cut = [ConnectionReset, ConnectionAborted, UnexpectedEof, BrokenPipe, TimedOut];
        match &error {
            ureq::Error::Io(e) if cut.contains(&e.kind()) => {
                Failure::passing(format!("{place} cut the connection: {error}"))
            }
            ureq::Error::Timeout(ureq::Timeout::RecvResponse | ureq::Timeout::PerRead) => {
                Failure::passing(format!("{place} does not answer: {error}"))
            }
            ureq::Error::Http(_)
            | ureq::Error::BadUri(_)
            | ureq::Error::Protocol(_)
            | ureq::Error::LargeResponseHeader(..) => {
                Failure::Final(anyhow!("{place} does not speak HTTP as it should: {error}"))
            }
            _ => Failure::Unreachable { what: format!("cannot reach {place}: {error}") },
        }
    }

    /// What an error status means and what to do about it.
    fn refused(&self, origin: &Origin, url: &str, response: &Response<Body>) -> Failure {
        let status = response.status().as_u16();
        let what = format!("{} answers {status}", shown(url));
        if matches!(status, 408 | 429 | 500..) {
            let seconds = header(response.headers(), "retry-after").and_then(|text| text.trim().parse().ok());
            return Failure::Passing { what, retry_after: seconds.map(Duration::from_secs) };
        }
        // The store behind the hub refuses links that have expired; the next try gets a new one.
        if *origin != self.origin {
            return Failure::passing(what);
        }
        let code = header(response.headers(), "x-error-code").unwrap_or_default();
        let (id, endpoint) = (&self.model.id, &self.options.endpoint);
        let accept = format!(
            "accept its terms at {endpoint}/{id}, then set HF_TOKEN or give a hub token (one that may read gated \
             models, from {endpoint}/settings/tokens)"
        );
        let has_token = self.options.token.is_some();
        let meaning = match (status, code) {
            (401 | 403, "GatedRepo") => format!("{id} is gated: {accept}"),
            (401, _) if has_token => format!(
                "the hub takes this token for expired or mistyped, or there is no {id}; if it is gated, {accept}"
            ),
            (401, _) => format!("no public model {id}: check the name; if it is gated, {accept}"),
            (403, _) if has_token => format!("this token may not read {id}; if it is gated, {accept}"),
            (403, _) => format!("{id} may not be read without a token; if it is gated, {accept}"),
            (404, "RevisionNotFound") => format!("{id} has no revision '{}'", self.model.revision),
            (404, "EntryNotFound") => format!("{id} lists a file that the hub does not have"),
            (404, _) => {
                format!(
                    "no model {id} here: check the name; if it is private, set HF_TOKEN or give a hub token"
                )
            }
            _ => "the hub takes this request for wrong".to_string(),
        };
        Failure::Final(Refused(format!("{meaning} ({what})")).into())
    }

    /// Tries until it works, fails for good, or has failed often enough.
    pub fn retry<T>(&self, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let mut tries = self.tries();
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => tries.again(failure)?,
            }
        }
    }

    pub fn tries(&self) -> Tries<'_> {
        Tries { client: self, failed: 0 }
    }

    /// The error of Ctrl-C, once it was pressed.
    pub fn check_cancel(&self) -> Result<()> {
        if self.options.cancel.is_set() {
            return Err(Interrupted.into());
        }
        Ok(())
    }

    /// Tells the user now.
    pub fn note(&self, text: &str) {
        self.options.progress.note(text);
    }

    /// Sleeps, but not through Ctrl-C.
    pub fn pause(&self, duration: Duration) -> Result<()> {
        let step = Duration::from_millis(100);
        let mut left = duration;
        while !left.is_zero() {
            self.check_cancel()?;
            std::thread::sleep(left.min(step));
            left = left.saturating_sub(step);
        }
        self.check_cancel()
    }
}

/// A refusal for good, in words for the user.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Refused(String);

#[derive(Clone, Copy)]
pub(super) enum Method {
    Head,
    Get { from_byte: u64 },
}

/// Counts the failures of one request.
pub(super) struct Tries<'a> {
    client: &'a Client<'a>,
    failed: u32,
}

impl Tries<'_> {
    /// Waits before another try, or gives up.
    pub fn again(&mut self, failure: Failure) -> Result<()> {
        let (what, retry_after, network) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing { what, retry_after } => (what, retry_after.unwrap_or_default(), false),
            Failure::Unreachable { what } => (what, Duration::ZERO, true),
        };
        self.failed += 1;
        if network && !self.client.answered.get() {
            return Err(NoAnswer { what, network }.into());
        }
        if retry_after > MAX_RETRY_AFTER {
            let what =
                format!("{what}, and asks to come back in {} s; try again then", retry_after.as_secs());
            return Err(NoAnswer { what, network }.into());
        }
        if self.failed >= MAX_TRIES {
            let what = format!("{what} ({MAX_TRIES} tries); run it again, it goes on where it stopped");
            return Err(NoAnswer { what, network }.into());
        }
        let note = format!("{what}; trying again ({} of {MAX_TRIES})", self.failed + 1);
        self.client.note(&note);
        let back_off = self.client.options.back_off.saturating_mul(1 << (self.failed - 1));
        self.client.pause(back_off.max(retry_after))
    }
}

/// A header's text, if it is there and is text.
pub(super) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
