//! What Prometheus is told: counted from events, and looked up when it asks.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::load::{LoadReport, Phases, PoolReport};
use crate::serve::events::Event;

/// A label and its value.
type Labels = Vec<(&'static str, String)>;
type Seconds = Family<Labels, Counter<f64, AtomicU64>>;
type Count = Family<Labels, Counter>;

/// All that is counted.
pub struct Metrics {
    registry: Mutex<Registry>,
    loads: Count,
    load_s: Histogram,
    phase_s: Seconds,
    bytes: Count,
    link_bytes: Count,
    failures: Count,
    evictions: Counter,
    chunks: Family<Labels, Gauge>,
    under_way: Gauge,
    open_handles: Gauge,
}

/// What is looked up when Prometheus asks.
pub struct Now {
    pub pool: PoolReport,
    pub loads: usize,
    pub open_handles: usize,
}

impl Metrics {
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("sllm_gds");
        let metrics = Metrics {
            loads: Family::default(),
            // A millisecond to half a minute.
            load_s: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            phase_s: Family::default(),
            bytes: Family::default(),
            link_bytes: Family::default(),
            failures: Family::default(),
            evictions: Counter::default(),
            chunks: Family::default(),
            under_way: Gauge::default(),
            open_handles: Gauge::default(),
            registry: Mutex::default(),
        };
        let Metrics { loads, load_s, phase_s, bytes, link_bytes, failures, .. } = &metrics;
        registry.register("loads", "Loads to clients' memory, by where most bytes came from", loads.clone());
        registry.register_with_unit("load", "How long loads took", Unit::Seconds, load_s.clone());
        registry.register_with_unit("load_phase", "Where their time went", Unit::Seconds, phase_s.clone());
        registry.register_with_unit(
            "loaded",
            "Bytes brought to clients or into the pool, by source",
            Unit::Bytes,
            bytes.clone(),
        );
        registry.register_with_unit("link", "Bytes over each GPU's link", Unit::Bytes, link_bytes.clone());
        registry.register(
            "failures",
            "Calls that were not done, by what they were to do and code",
            failures.clone(),
        );
        let Metrics { evictions, chunks, under_way, open_handles, .. } = &metrics;
        registry.register(
            "pool_evictions",
            "Checkpoints, or parts of one, that left the pool so far",
            evictions.clone(),
        );
        registry.register("pool_chunks", "Chunks of the pool, by state", chunks.clone());
        registry.register("loads_under_way", "Loads that run, fills of the pool too", under_way.clone());
        registry.register("open_handles", "Memories of clients that are open", open_handles.clone());
        Metrics { registry: Mutex::new(registry), ..metrics }
    }

    /// Counts what happened.
    pub fn observe(&self, event: &Event) {
        match event {
            Event::Loaded { report, .. } => self.observe_load(report),
            Event::Warmed { warmed, .. } => {
                self.bytes.get_or_create(&label("source", "pool_fill")).inc_by(warmed.read_bytes);
            }
            Event::Failed { what, code, .. } => {
                let labels = [label("call", what), label("code", code)].concat();
                self.failures.get_or_create(&labels).inc();
            }
            _ => {}
        }
    }

    fn observe_load(&self, report: &LoadReport) {
        let sources = [
            ("pool", report.held_bytes),
            ("joined", report.joined_bytes),
            ("drive", report.direct_bytes),
            ("page_cache", report.buffered_bytes),
        ];
        let most = sources.iter().max_by_key(|(_, bytes)| *bytes).map_or("none", |(source, _)| source);
        self.loads.get_or_create(&label("source", most)).inc();
        self.load_s.observe(report.elapsed_s);
        for (source, bytes) in sources {
            self.bytes.get_or_create(&label("source", source)).inc_by(bytes);
        }
        let Phases { open_s, plan_s, allocate_s, register_s, transfer_s, .. } = report.phases;
        for (phase, spent_s) in [
            ("open", open_s),
            ("plan", plan_s),
            ("allocate", allocate_s),
            ("register", register_s),
            ("transfer", transfer_s),
        ] {
            self.phase_s.get_or_create(&label("phase", phase)).inc_by(spent_s);
        }
        for link in &report.links {
            self.link_bytes.get_or_create(&label("gpus", &link.gpus.join(","))).inc_by(link.bytes);
        }
    }

    /// All of it as Prometheus reads it.
    pub fn text(&self, now: &Now) -> Result<String, fmt::Error> {
        let pool = &now.pool;
        let capacity = pool.bytes.checked_div(pool.chunk_bytes).unwrap_or(0) as usize;
        let claimed = pool.made_chunks.saturating_sub(pool.free_chunks + pool.full_chunks);
        for (state, chunks) in [
            ("full", pool.full_chunks),
            ("free", pool.free_chunks),
            ("filling", claimed),
            ("unmade", capacity.saturating_sub(pool.made_chunks)),
        ] {
            self.chunks.get_or_create(&label("state", state)).set(chunks as i64);
        }
        // The pool counts them itself.
        self.evictions.inner().fetch_max(pool.evictions, Ordering::Relaxed);
        self.under_way.set(now.loads as i64);
        self.open_handles.set(now.open_handles as i64);
        let mut text = String::new();
        encode(&mut text, &self.registry.lock().unwrap_or_else(|e| e.into_inner()))?;
        Ok(text)
    }
}

fn label(name: &'static str, value: &str) -> Labels {
    vec![(name, value.to_string())]
}
