//! How the server begins to listen, when it is ready, and how it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tonic_health::server::HealthReporter;

use crate::os::cancel::Cancel;
use crate::serve::address::{CALLS, bind, bind_metrics, bind_unix};
use crate::serve::events::Event;
use crate::serve::ours::Ours;
use crate::serve::running::Running;
use crate::serve::scrape::answer;
use crate::serve::settings::{Settings, Tell};
use crate::serve::store::Store;
use crate::serve::theirs::Theirs;
use crate::wire::devices::Devices;
use crate::wire::storage::storage_server::StorageServer;
use crate::wire::v1::server_server::ServerServer;

/// They only take calls and send answers; a large request takes one for as long as it takes to parse.
const RPC_THREADS: usize = 4;
/// A request of two million chunks; gRPC's own limit is 4 MiB.
const MOST_REQUEST_BYTES: usize = 64 << 20;
/// How often the flag that ends the server is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long loads that were asked to end are waited for.
const END: Duration = Duration::from_secs(10);
/// How long a peer may be silent before its host counts as gone.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How a server ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// As it was asked to.
    Stopped,
    /// An error broke a CUDA context, so that it could not go on.
    Broken(String),
}

/// Serves until `stop` is set, or nothing works any more.
pub fn serve(settings: Settings, devices: Arc<dyn Devices>, stop: &Cancel, tell: Tell) -> Result<Ended> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RPC_THREADS)
        .thread_name("rpc")
        .enable_all()
        .build()
        .context("start the threads that take calls")?;
    let store = Arc::new(Store::new(settings, devices, tell)?);
    let ended = runtime.block_on(run(store.clone(), stop, started));
    // Calls that hang in a file system are left to the end of the process.
    runtime.shutdown_background();
    ended
}

async fn run(store: Arc<Store>, stop: &Cancel, started: Instant) -> Result<Ended> {
    let settings = &store.settings;
    let listener = bind(&settings.host, settings.port, &CALLS).await?;
    let mut at = vec![listener.local_addr().context("ask where it listens")?.to_string()];
    let unix = settings.unix.as_deref().map(bind_unix).transpose()?;
    at.extend(settings.unix.iter().map(|path| format!("unix:{}", path.display())));
    let scraped = match &settings.metrics {
        Some(address) => {
            let listener = bind_metrics(address).await?;
            at.push(format!("http://{}/metrics", listener.local_addr().context("ask where it listens")?));
            let page = store.clone();
            Some(tokio::spawn(answer(listener, Arc::new(move || page.metrics_page()))))
        }
        None => None,
    };
    let (reporter, health) = tonic_health::server::health_reporter();
    let (ending, _) = watch::channel(false);
    let running = Running::default();
    let router = || {
        let theirs =
            StorageServer::new(Theirs::new(store.clone())).max_decoding_message_size(MOST_REQUEST_BYTES);
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE));
        let ours = ServerServer::new(Ours::new(store.clone(), running.clone()))
            .max_decoding_message_size(MOST_REQUEST_BYTES);
        server.add_service(health.clone()).add_service(theirs).add_service(ours)
    };
    let mut servers = tokio::task::JoinSet::new();
    let until = |mut ending: watch::Receiver<bool>| async move {
        drop(ending.wait_for(|is_ending| *is_ending).await)
    };
    let tcp = TcpIncoming::from(listener).with_nodelay(Some(true));
    servers.spawn(router().serve_with_incoming_shutdown(tcp, until(ending.subscribe())));
    if let Some(listener) = unix {
        servers.spawn(serve_unix(router(), listener, until(ending.subscribe())));
    }
    serving(&reporter, true).await;
    let gpus = ready(&store, at, started).await;
    begin(&store, gpus);
    let ended = wait(&store, stop, &mut servers).await;
    serving(&reporter, false).await;
    let why = match &ended {
        Ok(Ended::Stopped) => "it was asked to".to_string(),
        Ok(Ended::Broken(error)) => format!("nothing can be loaded in this process any more: {error}"),
        Err(error) => format!("{error:#}"),
    };
    store.tell(&Event::Stopping { why });
    ending.send_replace(true);
    let grace = if matches!(ended, Ok(Ended::Stopped)) { store.settings.grace } else { Duration::ZERO };
    let closing = store.clone();
    let left = tokio::task::spawn_blocking(move || closing.under_way.close(grace, END)).await?;
    scraped.inspect(|scraped| scraped.abort());
    // Answers go out; a client that keeps its connection open is not waited for.
    let _ =
        tokio::time::timeout(Duration::from_secs(1), async { while servers.join_next().await.is_some() {} })
            .await;
    if let Some(path) = &store.settings.unix {
        let _ = std::fs::remove_file(path);
    }
    if left > 0 {
        let what = format!(
            "{left} loads did not end, as where storage hangs, and are left to the end of the process"
        );
        store.tell(&Event::Warning { what });
    }
    ended
}

/// Says that it serves, and asks for the GPUs: off the threads that take calls, since the driver takes its time.
async fn ready(store: &Arc<Store>, at: Vec<String>, started: Instant) -> bool {
    let devices = store.devices.clone();
    let gpus = tokio::task::spawn_blocking(move || devices.list()).await;
    let gpus = gpus.unwrap_or_else(|error| Err(error.to_string()));
    let has_gpus = gpus.is_ok();
    let (gpus, no_gpus) = gpus.map_or_else(|why| (Vec::new(), Some(why)), |gpus| (gpus, None));
    let pool_bytes = store.settings.pool_bytes;
    store.tell(&Event::Ready { at, gpus, no_gpus, pool_bytes, elapsed_s: started.elapsed().as_secs_f64() });
    has_gpus
}

/// Makes the pool's memory where it is pinned, then brings models into it.
fn begin(store: &Arc<Store>, has_gpus: bool) {
    let store = store.clone();
    let work = move || {
        // Without GPUs nothing is pinned: memory is taken as it is needed.
        if has_gpus {
            make_pool(&store);
        }
        // What fails is told, and is no reason to serve nothing: whoever loads the model later gets the same words.
        for name in &store.settings.warm {
            let _ = store.warm(name, &Cancel::new());
        }
        for name in &store.settings.pin {
            let _ = store.pin(name, true, &Cancel::new());
        }
    };
    // Where the system starts no thread, loads make what they need.
    let _ = std::thread::Builder::new().name("begin".into()).spawn(work);
}

fn make_pool(store: &Store) {
    let began = Instant::now();
    match store.loader.prefault_pool() {
        Ok(()) => {
            let bytes = store.settings.pool_bytes;
            store.tell(&Event::PoolMade { bytes, elapsed_s: began.elapsed().as_secs_f64() });
        }
        Err(error) => {
            let what =
                format!("not all of the pool could be made, and loads go past what is missing: {error}");
            store.tell(&Event::Warning { what });
        }
    }
}

/// Waits for what ends the server.
async fn wait(
    store: &Store,
    stop: &Cancel,
    servers: &mut tokio::task::JoinSet<Result<(), tonic::transport::Error>>,
) -> Result<Ended> {
    let mut broken = store.broken();
    let asked = async {
        while !stop.is_set() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::select! {
        () = asked => Ok(Ended::Stopped),
        error = broken.wait_for(Option::is_some) => {
            Ok(Ended::Broken(error.ok().and_then(|error| error.clone()).unwrap_or_default()))
        }
        Some(ended) = servers.join_next() => match ended {
            Ok(Ok(())) => bail!("it stopped listening without being asked to; please report this"),
            Ok(Err(error)) => Err(error).context("listen"),
            Err(error) => Err(error).context("listen"),
        },
    }
}

async fn serving(reporter: &HealthReporter, is_serving: bool) {
    use tonic_health::ServingStatus::{NotServing, Serving};
    let status = if is_serving { Serving } else { NotServing };
    for name in ["", "storage.Storage", "sllm_gds.v1.Server"] {
        reporter.set_service_status(name, status).await;
    }
}

/// Takes calls of processes of this user alone.
async fn serve_unix(
    router: Router,
    listener: UnixListener,
    until: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let own = UnixListenerStream::new(listener)
        .filter(|stream: &std::io::Result<UnixStream>| stream.as_ref().map_or(true, is_of_this_user));
    router.serve_with_incoming_shutdown(own, until).await
}

fn is_of_this_user(stream: &UnixStream) -> bool {
    let own = crate::os::sys::user_id();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own)
}
