//! Directories as people have them, made up by the hundred: a load, a save and an export each give the very tensors
//! that the model has, or refuse. Nothing in between.
//!
//! `SLLM_GDS_CASES` says how many, `SLLM_GDS_SEED` which; the seed is printed, and each case has its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use safetensors::SafeTensors;
use serde_json::Value;
use sllm_gds::checkpoint::Checkpoint;
use sllm_gds::load::IoChoice;
use sllm_gds::load::{Destination, Options, Settings, load};
use sllm_gds::origin::input;
use sllm_gds::os::cancel::Cancel;
use sllm_gds::os::progress::Progress;
use sllm_gds::write::export;
use sllm_gds::write::save::{Layout, save};

#[path = "right_or_none/world.rs"]
mod world;
use world::{Expect, Tensor, World};

/// What CI runs.
const CASES: u64 = 500;

type Tensors = BTreeMap<String, (String, Vec<u64>, Vec<u8>)>;

#[test]
fn right_tensors_or_a_refusal() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (cases, seed) =
        (number("SLLM_GDS_CASES").unwrap_or(CASES), number("SLLM_GDS_SEED").unwrap_or_else(fresh));
    println!("{cases} cases from SLLM_GDS_SEED={seed}");
    let mut right = 0;
    for case in seed..seed.wrapping_add(cases) {
        // In memory where that can be: thousands of saves would wait for a disk.
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let world = World::new(root.path(), case);
        right += u64::from(check(&world, case));
    }
    println!("{right} right, {} refused, none between", cases - right);
    assert!(right * 4 > cases, "too few cases are whole models to say anything: {right} of {cases}");
    assert!(right * 20 < cases * 19, "too few cases are damaged: {right} of {cases} are right");
}

/// Without a manifest, as ServerlessLLM's own checkpoints are: partitions that lost or won bytes.
#[test]
fn resized_partitions_are_right_or_refused() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("SLLM_GDS_SEED").unwrap_or_else(fresh);
    let cases = number("SLLM_GDS_CASES").unwrap_or(CASES) / 5;
    println!("{cases} resized cases from SLLM_GDS_SEED={seed}");
    let (mut right, mut refused) = (0, 0);
    for case in seed..seed.wrapping_add(cases) {
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let partitions = world::Partitions::new(root.path(), case);
        let wanted = reference(&partitions.tensors);
        match loaded(&partitions.dir) {
            Ok(found) => {
                assert!(
                    found == wanted,
                    "SLLM_GDS_SEED={case} SLLM_GDS_CASES=5: {}: {}",
                    partitions.what,
                    difference(&found, &wanted)
                );
                right += 1;
            }
            Err(error) => {
                assert!(partitions.is_resized, "SLLM_GDS_SEED={case}: {}: {error}", partitions.what);
                refused += 1;
            }
        }
    }
    println!("{right} right, {refused} refused, none between");
    assert!(right * 20 > cases && refused * 20 > cases, "{right} right and {refused} refused say too little");
}

/// Whether it loaded. Panics, with the case's seed and what it is, on anything between right and refused.
fn check(world: &World, case: u64) -> bool {
    let wanted = reference(&world.tensors);
    let verdict = |way: &str, found: Result<Tensors, String>, expect: Expect| -> bool {
        let at = format!("SLLM_GDS_SEED={case} SLLM_GDS_CASES=1: {way} of {}", world.what);
        match (found, expect) {
            (Ok(found), Expect::Right | Expect::Either) => {
                assert!(found == wanted, "{at}: {}", difference(&found, &wanted));
                true
            }
            (Ok(_), Expect::Refused) => panic!("{at} went on"),
            (Err(error), Expect::Right) => panic!("{at} was refused: {error}"),
            (Err(error), _) => {
                assert!(error.len() > 20 && !error.contains("please report"), "{at}: {error}");
                false
            }
        }
    };
    let right = verdict("load", loaded(&world.path()), world.load);
    let saved = world.root.join("saved");
    if verdict("save", save_and_read(&world.path(), &saved), world.save) {
        assert_eq!(loaded(&saved).as_ref(), Ok(&wanted), "SLLM_GDS_SEED={case}: load of what was saved");
        let back = world.root.join("back");
        verdict("export of what was saved", exported(&saved, &back), Expect::Right);
    } else {
        assert!(!saved.exists(), "SLLM_GDS_SEED={case}: a refused save of {} left something", world.what);
    }
    verdict("export", exported(&world.path(), &world.root.join("export")), world.save.or_f6(world.has_f6));
    right
}

fn reference(tensors: &[Tensor]) -> Tensors {
    tensors.iter().map(|t| (t.name.clone(), (t.dtype.into(), t.shape.clone(), t.bytes.clone()))).collect()
}

fn difference(found: &Tensors, wanted: &Tensors) -> String {
    let missing: Vec<&String> = wanted.keys().filter(|name| !found.contains_key(*name)).collect();
    let extra: Vec<&String> = found.keys().filter(|name| !wanted.contains_key(*name)).collect();
    let wrong: Vec<&String> =
        wanted.iter().filter(|(n, t)| found.get(*n).is_some_and(|f| f != *t)).map(|(n, _)| n).collect();
    format!("missing {missing:?}, extra {extra:?}, wrong {wrong:?}")
}

fn loaded(path: &Path) -> Result<Tensors, String> {
    let settings =
        Settings { io: IoChoice::Auto, chunk_bytes: Some(4096), threads: Some(1), ..Settings::default() };
    let options = Options::new(&settings, &Destination::Host, Err(None)).unwrap();
    let (loaded, _) =
        load(path, &Destination::Host, &options, &Cancel::new()).map_err(|e| format!("{e:#}"))?;
    let tensors = loaded.checkpoint.tensors.iter().enumerate().map(|(i, t)| {
        let bytes = loaded.view(i, 0).host_bytes().unwrap().to_vec();
        (t.name.clone(), (t.dtype.safetensors_name().to_string(), t.shape.clone(), bytes))
    });
    Ok(tensors.collect())
}

/// Saves, and reads what was written by its index alone, as ServerlessLLM would.
fn save_and_read(path: &Path, to: &Path) -> Result<Tensors, String> {
    let run = || -> anyhow::Result<()> {
        let input = input::open(path.to_str().unwrap(), 0, None, &Cancel::new(), &Progress::silent())?;
        let layout = Layout::new(&input, 1, 5000)?;
        save(&input, &layout, to, false, &Cancel::new(), &Progress::silent()).map(|_| ())
    };
    run().map_err(|e| format!("{e:#}"))?;
    let mut data = Vec::new();
    for i in 0.. {
        let Ok(bytes) = fs::read(to.join(format!("tensor.data_{i}"))) else { break };
        data.extend(bytes);
    }
    let index: Value = serde_json::from_slice(&fs::read(to.join("tensor_index.json")).unwrap()).unwrap();
    let tensors = index.as_object().unwrap().iter().map(|(name, entry)| {
        let numbers = |i: usize| -> Vec<u64> { serde_json::from_value(entry[i].clone()).unwrap() };
        let (offset, bytes) = (entry[0].as_u64().unwrap() as usize, entry[1].as_u64().unwrap() as usize);
        let (dtype, mut shape) = (world::safetensors_name(entry[4].as_str().unwrap()), numbers(2));
        if dtype == "F4" {
            *shape.last_mut().unwrap() *= 2;
        }
        (name.clone(), (dtype.to_string(), shape, data[offset..offset + bytes].to_vec()))
    });
    Ok(tensors.collect())
}

/// Exports, and reads what was written by the safetensors library.
fn exported(path: &Path, to: &Path) -> Result<Tensors, String> {
    let run = || -> anyhow::Result<()> {
        export::export(Checkpoint::open_whole(path)?, to, None, false, &Cancel::new(), &Progress::silent())
            .map(|_| ())
    };
    run().map_err(|e| format!("{e:#}"))?;
    // The files of the model are those that the checkpoint has; what they hold, the library says.
    let mut tensors = Tensors::new();
    for file in Checkpoint::open(to).unwrap().files {
        let bytes = fs::read(&file.path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let shape = view.shape().iter().map(|extent| *extent as u64).collect();
            tensors.insert(name.into(), (view.dtype().to_string(), shape, view.data().to_vec()));
        }
    }
    Ok(tensors)
}
