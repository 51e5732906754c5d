//! Index files, headers and manifests as an attacker would write them: nothing may panic, take memory out of
//! proportion or read outside the files, and whatever opens must be sound.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sllm_gds::checkpoint::Checkpoint;
use sllm_gds::checkpoint::reader::{TensorReader, TensorSource};
#[cfg(feature = "cli")]
use sllm_gds::cli::{CheckpointArg, InspectArgs, VerifyArgs, inspect, verify};
use sllm_gds::load::IoChoice;
use sllm_gds::load::plan::{Plan, Spacing};
use sllm_gds::load::{Destination, Options, Settings, load};
use sllm_gds::os::cancel::Cancel;
use sllm_gds::os::progress::Progress;
use sllm_gds::os::sys;
use sllm_gds::write::export;

#[path = "faults/fixture.rs"]
mod fixture;
#[path = "hostile/invariants.rs"]
mod invariants;
#[path = "hostile/mutate.rs"]
mod mutate;
use fixture::Fixture;
use mutate::{NUMBERS, entries, monsters, mutations, numbers, replaced};

/// In memory where that can be: thousands of exports would wait for a disk.
fn fixture() -> Fixture {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { Fixture::new_in(memory) } else { Fixture::new() }
}

/// A file of JSON that decides what a checkpoint is.
struct Victim {
    dir: PathBuf,
    file: PathBuf,
    json: Vec<u8>,
    /// Of a safetensors file: what follows the header.
    data: Option<Vec<u8>>,
}

impl Victim {
    fn all(fixture: &Fixture) -> Vec<Victim> {
        let plain = |dir: PathBuf, name: &str| {
            let file = dir.join(name);
            Victim { json: fs::read(&file).unwrap(), dir, file, data: None }
        };
        let shard = fixture.safetensors().join("model-2-of-2.safetensors");
        let bytes = fs::read(&shard).unwrap();
        let header_end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        vec![
            plain(fixture.foreign(), "tensor_index.json"),
            plain(fixture.ours(), "tensor_index.json"),
            plain(fixture.ours(), "sllm_gds.json"),
            plain(fixture.safetensors(), "model.safetensors.index.json"),
            Victim {
                dir: fixture.safetensors(),
                file: shard,
                json: bytes[8..header_end].to_vec(),
                data: Some(bytes[header_end..].to_vec()),
            },
        ]
    }

    /// Puts another text in the place of the JSON; a header gets its true length.
    fn write(&self, json: &[u8]) {
        match &self.data {
            None => fs::write(&self.file, json).unwrap(),
            Some(data) => {
                fs::write(&self.file, [&(json.len() as u64).to_le_bytes()[..], json, data].concat()).unwrap()
            }
        }
    }

    fn restore(&self) {
        self.write(&self.json);
    }
}

/// Opens and plans; what opens must be sound.
fn open(path: &Path) -> Option<Checkpoint> {
    match Checkpoint::open(path) {
        Ok(checkpoint) => {
            invariants::check_checkpoint(&checkpoint);
            for destinations in 1..=4 {
                for spacing in [Spacing::AsInFile, Spacing::Aligned] {
                    if let Ok(plan) = Plan::new(&checkpoint, destinations, spacing) {
                        invariants::check_plan(&checkpoint, &plan, spacing);
                    }
                }
            }
            Some(checkpoint)
        }
        Err(error) => {
            let text = format!("{error:#}");
            assert!(text.contains(path.to_str().unwrap()), "which one? {text}");
            None
        }
    }
}

#[cfg(feature = "cli")]
fn inspect_and_verify(path: &Path, cancel: &Cancel) {
    let arg = || CheckpointArg { name: path.to_str().unwrap().into(), storage_path: "/".into() };
    for json in [false, true] {
        inspect::run(&InspectArgs { checkpoint: arg(), json }).unwrap();
    }
    // Hostile digests make this fail, which is right.
    let _ = verify::run(&VerifyArgs { checkpoint: arg(), against: None, json: true }, cancel);
}

/// Opens, and does with it all that the command line can.
fn open_and_use(path: &Path) -> bool {
    let Some(checkpoint) = open(path) else { return false };
    let cancel = Cancel::new();
    #[cfg(feature = "cli")]
    inspect_and_verify(path, &cancel);
    let settings =
        Settings { io: IoChoice::Buffered, chunk_bytes: Some(8192), threads: Some(2), ..Settings::default() };
    let options = Options::new(&settings, &Destination::Host, Err(None)).unwrap();
    let (loaded, _) = load(path, &Destination::Host, &options, &cancel).unwrap();
    let reader = TensorReader::new(checkpoint.clone()).unwrap();
    for (i, tensor) in checkpoint.tensors.iter().enumerate() {
        let mut plain = vec![0u8; tensor.bytes as usize];
        reader.fill(i, 0, &mut plain).unwrap();
        assert!(
            loaded.view(i, 0).host_bytes().unwrap() == plain,
            "'{}' loaded other bytes than a plain read",
            tensor.name
        );
    }
    // Views that safetensors can't hold make these fail, which is right.
    for max_shard_bytes in [None, Some(10_000)] {
        let to = tempfile::tempdir_in(path.parent().unwrap()).unwrap();
        let to = to.path().join("exported");
        if export::export(checkpoint.clone(), &to, max_shard_bytes, false, &cancel, &Progress::silent())
            .is_ok()
        {
            let exported = open(&to).expect("what was exported opens");
            assert_eq!(exported.tensors.len(), checkpoint.tensors.len());
        }
    }
    true
}

#[test]
fn every_number_swapped_for_every_hostile_one() {
    let fixture = fixture();
    let mut opened = 0;
    for victim in Victim::all(&fixture) {
        assert!(open_and_use(&victim.dir));
        assert_eq!(open(&victim.dir).unwrap().tensors.len(), fixture.pristine.len());
        for place in numbers(&victim.json) {
            for number in NUMBERS {
                victim.write(&replaced(&victim.json, place.clone(), number.as_bytes()));
                opened += usize::from(open(&victim.dir).is_some());
            }
        }
        victim.restore();
    }
    assert!(opened > 50, "some numbers happen to fit: {opened}");
}

#[test]
fn a_name_that_stands_twice_is_refused_wherever_it_stands() {
    let fixture = fixture();
    for victim in Victim::all(&fixture) {
        // These two mean nothing here.
        let named = entries(&victim.json).into_iter().filter(|e| e.key != "format" && e.key != "metadata");
        for entry in named {
            let text = &victim.json[entry.whole.clone()];
            victim.write(&replaced(&victim.json, entry.whole.clone(), &[text, b",", text].concat()));
            assert!(open(&victim.dir).is_none(), "{} twice in {}", entry.key, victim.file.display());
        }
        victim.restore();
    }
}

#[test]
fn entries_may_be_missing_and_monsters_take_no_stack_and_little_memory() {
    let fixture = fixture();
    let monsters = monsters();
    for victim in Victim::all(&fixture) {
        for (i, entry) in entries(&victim.json).iter().enumerate() {
            victim.write(&replaced(&victim.json, entry.whole.clone(), br#""x":0"#));
            open(&victim.dir);
            // Every kind of entry meets every monster; each tensor meets one.
            let few = if i < 6 { &monsters[..] } else { &monsters[i % monsters.len()..][..1] };
            for monster in few {
                victim.write(&replaced(&victim.json, entry.value.clone(), monster.as_bytes()));
                open(&victim.dir);
            }
        }
        victim.restore();
    }
    let peak_bytes = sys::peak_resident_bytes().unwrap();
    assert!(peak_bytes < 1 << 30, "{peak_bytes} bytes for texts of a few hundred KB");
}

#[test]
fn header_lengths() {
    let fixture = fixture();
    let file = fixture.safetensors().join("model-1-of-2.safetensors");
    let good = fs::read(&file).unwrap();
    let length = u64::from_le_bytes(good[..8].try_into().unwrap());
    let around =
        [0, 1, 2, 7, 8, length - 1, length + 1, good.len() as u64 - 8, good.len() as u64, 100_000_000];
    let hostile = NUMBERS.iter().filter_map(|n| n.parse::<u64>().ok());
    for claimed in around.into_iter().chain(hostile).filter(|c| *c != length) {
        fs::write(&file, [&claimed.to_le_bytes(), &good[8..]].concat()).unwrap();
        assert!(open(&fixture.safetensors()).is_none(), "a header of {claimed} bytes");
    }
    for bytes in 0..8 {
        fs::write(&file, &good[..bytes]).unwrap();
        assert!(open(&fixture.safetensors()).is_none(), "a file of {bytes} bytes");
    }
}

#[test]
fn very_many_names_for_the_same_bytes() {
    let fixture = fixture();
    let pair = |i| format!(r#""layers.{i}.w":[0,9113,[9113],[1],"torch.uint8"]"#);
    let all: Vec<String> = (0..20_000).map(pair).collect();
    fs::write(fixture.foreign().join("tensor_index.json"), format!("{{{}}}", all.join(","))).unwrap();
    // Partitions that an index says nothing of would be refused.
    for i in 1.. {
        if fs::remove_file(fixture.foreign().join(format!("tensor.data_{i}"))).is_err() {
            break;
        }
    }
    let checkpoint = open(&fixture.foreign()).unwrap();
    assert_eq!((checkpoint.tensors.len(), checkpoint.tensor_bytes()), (20_000, 9113));
    #[cfg(feature = "cli")]
    inspect_and_verify(&fixture.foreign(), &Cancel::new());
}

/// Where sparse files can be so large (tmpfs, XFS), sizes alone overflow sums.
#[test]
fn files_that_claim_exabytes() {
    let fixture = fixture();
    let dir = fixture.root.path().join("vast");
    fs::create_dir(&dir).unwrap();
    let claim = |name: &str, head: &[u8], bytes: u64| {
        fs::write(dir.join(name), head).unwrap();
        fs::File::options().write(true).open(dir.join(name)).and_then(|f| f.set_len(bytes)).is_ok()
    };
    let shard = |name: &str, tensor: &str, bytes: u64| {
        let make =
            |n: u64| format!(r#"{{"{tensor}":{{"dtype":"U8","shape":[{n}],"data_offsets":[0,{n}]}}}}"#);
        let header = format!("{:<200}", make(bytes - 208));
        claim(name, &[&200u64.to_le_bytes(), header.as_bytes()].concat(), bytes)
    };
    let most = i64::MAX as u64;
    if !shard("a.safetensors", "a", most) {
        return;
    }
    assert!(open(&dir).is_none(), "8 EiB");
    assert!(shard("b.safetensors", "b", most) && shard("c.safetensors", "c", 10_000));
    assert!(open(&dir).is_none(), "16 EiB and more");
    fs::remove_file(dir.join("b.safetensors")).unwrap();
    assert!(shard("a.safetensors", "a", 1 << 61));
    let checkpoint = open(&dir).expect("2 EiB can be");
    let settings =
        Settings { io: IoChoice::Buffered, chunk_bytes: Some(4096), threads: Some(1), ..Settings::default() };
    let options = Options::new(&settings, &Destination::Host, Err(None)).unwrap();
    let refused = |e: anyhow::Error| format!("{e:#}");
    let text =
        load(&dir, &Destination::Host, &options, &Cancel::new()).map(|_| ()).map_err(refused).unwrap_err();
    assert!(text.contains("available"), "{text}");
    let to = fixture.root.path().join("exported");
    let text = export::export(checkpoint, &to, None, false, &Cancel::new(), &Progress::silent())
        .map_err(refused)
        .unwrap_err();
    assert!(text.contains(" free, and "), "{text}");
    // Eight names for 2 EiB come to 2^64 when each is written out.
    assert!(claim("tensor.data_0", b"", 1 << 61));
    let size = 1u64 << 61;
    let names = (0..8).map(|i| format!(r#""t.{i}":[0,{size},[{size}],[1],"torch.uint8"]"#));
    let index = format!("{{{}}}", names.collect::<Vec<_>>().join(","));
    fs::write(dir.join("tensor_index.json"), index).unwrap();
    let tied = open(&dir).unwrap();
    for max_shard_bytes in [None, Some(u64::MAX)] {
        let result =
            export::export(tied.clone(), &to, max_shard_bytes, false, &Cancel::new(), &Progress::silent());
        assert!(result.map_err(refused).unwrap_err().contains("more than any file system holds"));
    }
}

#[test]
fn mutated_texts_never_panic_and_what_opens_is_sound() {
    let fixture = fixture();
    let victims = Victim::all(&fixture);
    let opened = std::cell::Cell::new(0);
    let config = ProptestConfig { cases: 2500, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(which in 0..victims.len(), mutations in mutations())| {
        let victim = &victims[which];
        let text = mutations.iter().fold(victim.json.clone(), |text, mutation| mutation.apply(&text));
        victim.write(&text);
        let sound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| open_and_use(&victim.dir)));
        victim.restore();
        let sound = sound.map_err(|_| TestCaseError::fail(format!("panicked on {}", String::from_utf8_lossy(&text))));
        opened.set(opened.get() + usize::from(sound?));
    });
    assert!(opened.get() > 100, "too few open to say anything: {}", opened.get());
}
