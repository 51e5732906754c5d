//! Over which links a load's bytes come: that of each destination, or others' too, which pass them on by NVLink.

use std::sync::Arc;

use anyhow::{Result, bail};

use crate::gpu::link::Link;
use crate::gpu::peers::{self, Reach};
use crate::gpu::{self, Gpu};
use crate::load::loaded::Destination;
use crate::load::prepare::each_once;
use crate::load::report::LinkReport;
use crate::load::settings::Links;
use crate::node::gpu_links::root_port;
use crate::node::source::Source;
use crate::os::error::Error;

/// One link's part in a load.
#[derive(Debug, Clone)]
pub struct Carrier {
    /// Those that it copies to straight from host memory; its threads and memory are near the first.
    pub direct: Vec<Arc<Gpu>>,
    /// Whether it passes bytes on to others.
    pub passes_on: bool,
    /// Lanes of the plan whose work it takes first.
    pub own: Vec<usize>,
    /// And those that it helps when its own have none left.
    pub helps: Vec<usize>,
}

impl Carrier {
    /// What went over its link since this was last asked.
    pub(super) fn report(&self, link: &Link, transfer_s: f64) -> LinkReport {
        let gpus = self.direct.iter().map(|gpu| gpu.label.clone()).collect();
        LinkReport::new(gpus, link.take_counts(), transfer_s)
    }
}

impl PartialEq for Carrier {
    fn eq(&self, other: &Carrier) -> bool {
        let indices = |carrier: &Carrier| carrier.direct.iter().map(|gpu| gpu.index).collect::<Vec<_>>();
        indices(self) == indices(other)
            && self.passes_on == other.passes_on
            && (&self.own, &self.helps) == (&other.own, &other.helps)
    }
}

/// All of a load's, and what should be said of them.
#[derive(Default)]
pub struct Carriers {
    /// One for each lane of the ring.
    pub all: Vec<Carrier>,
    /// Why it is not the links that were asked for.
    pub why_not: Option<String>,
}

impl Carriers {
    /// How many links there are: two lanes to one GPU share its own.
    pub fn links(&self) -> usize {
        each_once(self.all.iter().flat_map(|carrier| &carrier.direct)).len()
    }
}

/// The GPUs that are no destinations and may help, opened. `open` gives those with these labels.
pub fn helpers(
    links: &Links,
    to: &Destination,
    open: impl Fn(&[String]) -> Result<Vec<Arc<Gpu>>, Error>,
) -> Result<Vec<Arc<Gpu>>, Error> {
    let Destination::Gpus(destinations, _) = to else { return Ok(Vec::new()) };
    let labels: Vec<String> = match links {
        Links::Auto | Links::Own => return Ok(Vec::new()),
        Links::All => {
            let all = gpu::devices().map_err(Error::NotFound)?;
            let is_new = |index: usize| destinations.iter().all(|gpu| gpu.index != index);
            all.iter().filter(|device| is_new(device.index)).map(|device| device.index.to_string()).collect()
        }
        Links::Gpus(labels) if labels.is_empty() => {
            return Err(Error::Refused("no link is named to load over".into()));
        }
        Links::Gpus(labels) => labels.clone(),
    };
    open(&labels)
}

/// Whose links are used, before it is known which can help.
fn candidates(links: &Links, destinations: &[Arc<Gpu>], helpers: &[Arc<Gpu>]) -> Vec<Arc<Gpu>> {
    match links {
        Links::Auto | Links::Own => destinations.to_vec(),
        Links::All => each_once(destinations.iter().chain(helpers)),
        Links::Gpus(_) => each_once(helpers),
    }
}

/// Shares the lanes of a plan out to links. `lanes` are the GPUs that each lane's bytes may go to.
pub fn carriers(lanes: &[Vec<Arc<Gpu>>], links: &Links, helpers: &[Arc<Gpu>]) -> Result<Carriers> {
    let destinations = each_once(lanes.iter().flatten());
    let candidates = candidates(links, &destinations, helpers);
    let is_own =
        candidates.len() == 1 && destinations.len() == 1 && candidates[0].index == destinations[0].index;
    if *links == Links::Own || is_own {
        let why_not =
            (*links == Links::All).then(|| "there is no other GPU whose link could help".to_string());
        return Ok(Carriers { all: own(lanes), why_not });
    }
    let root_ports: Vec<Option<String>> =
        candidates.iter().map(|gpu| root_port(&Source::live(false), gpu.pci_address.as_deref()?)).collect();
    let choice = Choice::new(candidates.len(), destinations.len(), |candidate, destination| {
        peers::reach(&candidates[candidate], &destinations[destination])
    })?;
    let named = matches!(links, Links::Gpus(_));
    let mut chosen = choice.choose(&root_ports);
    let label = |gpu: &Arc<Gpu>| gpu.label.clone();
    if !named && chosen.iter().filter(|i| choice.is_destination(**i)).count() < destinations.len() {
        let why = "no NVLink joins all these GPUs, so each is fed over its own link";
        return Ok(Carriers { all: own(lanes), why_not: Some(why.into()) });
    }
    let mut why_not = Vec::new();
    let left_out: Vec<String> =
        (0..candidates.len()).filter(|i| !chosen.contains(i)).map(|i| label(&candidates[i])).collect();
    if !left_out.is_empty() {
        let why = "no NVLink to every destination, or the PCIe root port of another";
        why_not.push(format!("{} can't help: {why}", list(left_out)));
    }
    let mut short = Vec::new();
    for i in &chosen {
        let (free_bytes, _) = candidates[*i].memory_info()?;
        if !choice.is_destination(*i) && free_bytes < HELPER_BYTES {
            short.push(*i);
            let free_mib = free_bytes >> 20;
            why_not.push(format!(
                "GPU {} can't help: {free_mib} MiB of its memory are free",
                candidates[*i].label
            ));
        }
    }
    chosen.retain(|i| !short.contains(i));
    if chosen.is_empty() {
        bail!(
            "the links of {} can't feed {} ({}): leave it at the GPUs' own links",
            list(candidates.iter().map(label)),
            list(destinations.iter().map(label)),
            why_not.join("; "),
        );
    }
    if destinations.len() == 1 && chosen.iter().all(|i| choice.is_destination(*i)) {
        return Ok(Carriers { all: own(lanes), why_not: Some(why_not.join("; ")) });
    }
    for i in &chosen {
        for destination in &destinations {
            if let Err(error) = peers::open(&candidates[*i], destination) {
                if named {
                    return Err(error.into());
                }
                let why = format!("each GPU is fed over its own link: {error}");
                return Ok(Carriers { all: own(lanes), why_not: Some(why) });
            }
        }
    }
    let all = chosen.iter().map(|i| through(&candidates[*i], lanes)).collect();
    Ok(Carriers { all, why_not: (!why_not.is_empty()).then(|| why_not.join("; ")) })
}

/// What a GPU that is no destination must have free: staging, and room for the driver's own.
const HELPER_BYTES: u64 = 128 << 20;

/// Each lane over the links of its own GPUs.
fn own(lanes: &[Vec<Arc<Gpu>>]) -> Vec<Carrier> {
    let carrier = |(lane, gpus): (usize, &Vec<Arc<Gpu>>)| Carrier {
        direct: each_once(gpus),
        passes_on: false,
        own: vec![lane],
        helps: Vec::new(),
    };
    lanes.iter().enumerate().map(carrier).collect()
}

/// One GPU's link, for all lanes: its own are those whose first GPU it is.
fn through(gpu: &Arc<Gpu>, lanes: &[Vec<Arc<Gpu>>]) -> Carrier {
    let is_own = |lane: &usize| lanes[*lane].first().is_some_and(|first| first.index == gpu.index);
    let (own, helps) = (0..lanes.len()).partition(is_own);
    Carrier { direct: vec![gpu.clone()], passes_on: true, own, helps }
}

/// How each candidate reaches each destination.
struct Choice {
    reach: Vec<Vec<Reach>>,
}

impl Choice {
    fn new<E>(
        candidates: usize,
        destinations: usize,
        reach: impl Fn(usize, usize) -> Result<Reach, E>,
    ) -> Result<Choice, E> {
        let row = |candidate| (0..destinations).map(|destination| reach(candidate, destination)).collect();
        Ok(Choice { reach: (0..candidates).map(row).collect::<Result<_, E>>()? })
    }

    fn is_destination(&self, candidate: usize) -> bool {
        self.reach[candidate].contains(&Reach::Itself)
    }

    /// The candidates that can feed every destination by a link of their own: itself or by NVLink, since passing on over PCIe
    /// takes the room of what comes from the host. Of several below one root port the first, a destination if there is one.
    fn choose(&self, root_ports: &[Option<String>]) -> Vec<usize> {
        let feeds =
            |i: &usize| self.reach[*i].iter().all(|reach| matches!(reach, Reach::Itself | Reach::NvLink));
        let mut chosen: Vec<usize> = Vec::new();
        for i in (0..self.reach.len()).filter(feeds) {
            let shares = |other: &usize| root_ports[i].is_some() && root_ports[i] == root_ports[*other];
            if self.is_destination(i) || !chosen.iter().any(shares) {
                chosen.push(i);
            }
        }
        chosen
    }
}

fn list(labels: impl IntoIterator<Item = String>) -> String {
    let labels: Vec<String> = labels.into_iter().map(|label| format!("GPU {label}")).collect();
    labels.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(reach: &[&[Reach]], root_ports: &[&str]) -> Vec<usize> {
        let choice = Choice::new(reach.len(), reach[0].len(), |c, d| Ok::<_, ()>(reach[c][d])).unwrap();
        let named = |port: &&str| (!port.is_empty()).then(|| port.to_string());
        choice.choose(&root_ports.iter().map(named).collect::<Vec<_>>())
    }

    use Reach::{Itself as I, None as No, NvLink as N, Pcie as P};

    #[test]
    fn links_help_by_nvlink_and_from_root_ports_of_their_own() {
        // One destination, three others: by NVLink, over PCIe, and not at all.
        assert_eq!(chosen(&[&[I], &[N], &[P], &[No]], &["a", "b", "c", "d"]), [0, 1]);
        // Eight below four switches, two each.
        let eight: Vec<&[Reach]> = vec![&[I], &[N], &[N], &[N], &[N], &[N], &[N], &[N]];
        assert_eq!(chosen(&eight, &["a", "a", "b", "b", "c", "c", "d", "d"]), [0, 2, 4, 6]);
        // In a virtual machine nobody tells: all are taken.
        assert_eq!(chosen(&eight[..4], &["", "", "", ""]), [0, 1, 2, 3]);
    }

    #[test]
    fn several_destinations_are_fed_together_or_each_alone() {
        assert_eq!(chosen(&[&[I, N], &[N, I]], &["a", "b"]), [0, 1]);
        assert_eq!(chosen(&[&[I, N], &[N, I]], &["a", "a"]), [0, 1], "both are destinations");
        assert_eq!(chosen(&[&[I, P], &[P, I]], &["a", "b"]), [] as [usize; 0]);
        assert_eq!(chosen(&[&[I, N], &[N, I], &[N, P]], &["a", "b", "c"]), [0, 1]);
    }
}
