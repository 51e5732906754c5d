//! Checkpoints whose files are cut, grown, swapped or removed, before and during a load. As `tests/faults.rs`, but
//! with real files and no wrapper.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use sllm_gds::checkpoint::Checkpoint;
use sllm_gds::load::IoChoice;
use sllm_gds::load::host::{HostEngine, PageIns};
use sllm_gds::load::plan::{Plan, Spacing};
use sllm_gds::load::source::Sources;
use sllm_gds::load::{Buffer, Destination, Loaded, Options, Settings, in_place, load, transfer};
use sllm_gds::os::cancel::Cancel;
use sllm_gds::os::memory::HostBuffer;

#[path = "faults/fixture.rs"]
mod fixture;
use fixture::Fixture;

fn options(io: IoChoice) -> Options {
    let settings = Settings { io, chunk_bytes: Some(4096), threads: Some(2), ..Settings::default() };
    Options::new(&settings, &Destination::Host, Err(None)).unwrap()
}

/// The three layouts with a file of weights in each.
fn layouts(fixture: &Fixture) -> [(PathBuf, PathBuf); 3] {
    [
        (fixture.safetensors(), fixture.safetensors().join("model-2-of-2.safetensors")),
        (fixture.ours(), fixture.ours().join("tensor.data_1")),
        (fixture.foreign(), fixture.foreign().join("tensor.data_1")),
    ]
}

/// Opens everything, lets `meddle` act on the files, then moves the bytes.
fn load_while(dir: &Path, io: IoChoice, meddle: impl FnOnce()) -> Result<Loaded, String> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let sources = Sources::open(&checkpoint, io).unwrap();
    let page_ins = PageIns::default();
    let engine = HostEngine::new(&sources, &page_ins);
    let plan = Plan::new(&checkpoint, 1, Spacing::AsInFile).unwrap();
    let mut buffers: Vec<Buffer> =
        plan.destination_bytes.iter().map(|b| Buffer::Host(HostBuffer::new(*b).unwrap())).collect();
    meddle();
    let moved = transfer(&checkpoint.files, in_place(&plan, &mut buffers, 4096), &engine, 2, &Cancel::new());
    moved.map(|()| Loaded::whole(checkpoint.into(), plan, buffers)).map_err(|e| format!("{e:#}"))
}

fn assert_right(loaded: &Loaded, fixture: &Fixture) {
    assert_eq!(loaded.checkpoint.tensors.len(), fixture.pristine.len());
    for (i, tensor) in loaded.checkpoint.tensors.iter().enumerate() {
        assert!(
            loaded.view(i, 0).host_bytes().unwrap() == fixture.pristine[&tensor.name],
            "'{}' is wrong",
            tensor.name
        );
    }
}

/// The error of opening and loading, however far that gets. A load that hangs fails the test.
fn error_of(dir: &Path) -> String {
    let (send, receive) = mpsc::channel();
    let at = dir.to_path_buf();
    std::thread::spawn(move || {
        let loaded = load(&at, &Destination::Host, &options(IoChoice::Auto), &Cancel::new());
        send.send(loaded.map(|_| ()).map_err(|e| format!("{e:#}")))
    });
    let result = receive.recv_timeout(Duration::from_secs(60)).expect("opening the checkpoint hangs");
    result.expect_err("it loaded")
}

fn set_len(path: &Path, bytes: u64) {
    File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn all_layouts_load_right_by_every_way() {
    let fixture = Fixture::new();
    for (dir, _) in layouts(&fixture) {
        for io in [IoChoice::Auto, IoChoice::Direct, IoChoice::Buffered] {
            assert_right(&load_while(&dir, io, || {}).unwrap(), &fixture);
        }
    }
}

#[test]
fn a_file_cut_during_the_load_is_named_with_the_byte_where_it_ends() {
    for io in [IoChoice::Direct, IoChoice::Buffered] {
        // From one page on both layouts need the rest of the file.
        for cut_bytes in [0, 1, 4095, 4096, 5000, 8192] {
            let fixture = Fixture::new();
            for (dir, file) in layouts(&fixture) {
                let text = load_while(&dir, io, || set_len(&file, cut_bytes)).err().unwrap();
                // Threads race; each chunk past the cut ends where it begins, or at the cut.
                let at = text.split("ends at byte ").nth(1).and_then(|t| t.split(',').next()).unwrap();
                let at: u64 = at.parse().unwrap();
                assert!(at == cut_bytes || at > cut_bytes && at.is_multiple_of(4096), "{text}");
                assert!(text.starts_with(file.to_str().unwrap()) && text.contains("cut short"), "{text}");
            }
        }
    }
}

#[test]
fn a_load_of_files_that_were_written_to_meanwhile_is_refused() {
    let fixture = Fixture::new();
    for (dir, file) in layouts(&fixture) {
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let sources = Sources::open(&checkpoint, IoChoice::Auto).unwrap();
        sources.check_unchanged(&checkpoint).unwrap();
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes).unwrap();
        let error = format!("{:#}", sources.check_unchanged(&checkpoint).unwrap_err());
        assert!(
            error.contains(file.to_str().unwrap()) && error.contains("changed while it was read"),
            "{error}"
        );
    }
}

#[test]
fn files_that_grow_or_lose_their_names_during_the_load_do_no_harm() {
    let fixture = Fixture::new();
    for (dir, file) in layouts(&fixture) {
        let bytes = file.metadata().unwrap().len();
        assert_right(&load_while(&dir, IoChoice::Auto, || set_len(&file, bytes + 10_000)).unwrap(), &fixture);
        set_len(&file, bytes);
        let removed = load_while(&dir, IoChoice::Auto, || fs::remove_file(&file).unwrap());
        assert_right(&removed.unwrap(), &fixture);
    }
}

#[test]
fn sizes_that_the_index_does_not_know_are_refused() {
    let fixture = Fixture::new();
    for (i, (dir, file)) in layouts(&fixture).into_iter().enumerate() {
        let bytes = file.metadata().unwrap().len();
        set_len(&file, bytes - 1);
        let text = error_of(&dir);
        assert!(text.contains("cut short") && text.contains(dir.to_str().unwrap()), "{text}");
        set_len(&file, bytes);
        set_len(&file, bytes + 1);
        // A foreign index knows no sizes: one byte more moves all that follows, and nothing can tell.
        if i < 2 {
            let text = error_of(&dir);
            assert!(text.contains("grew") && text.contains(file.to_str().unwrap()), "{text}");
        }
    }
}

#[test]
fn what_changes_between_opening_and_reading_is_noticed() {
    let fixture = Fixture::new();
    for (dir, file) in layouts(&fixture) {
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let reopened = || format!("{:#}", Sources::open(&checkpoint, IoChoice::Auto).err().unwrap());
        set_len(&file, 4096);
        assert!(reopened().contains("4096 bytes long, and was"), "{}", reopened());
        fs::remove_file(&file).unwrap();
        assert!(reopened().contains("No such file"), "{}", reopened());
        fs::create_dir(&file).unwrap();
        assert!(reopened().contains("not a regular file"), "{}", reopened());
        fs::remove_dir(&file).unwrap();
        make_fifo(&file);
        assert!(reopened().contains("not a regular file"), "{}", reopened());
        assert!(reopened().contains(file.to_str().unwrap()), "{}", reopened());
    }
}

#[test]
fn neither_a_fifo_nor_a_directory_passes_for_a_file() {
    let names = [
        ("safetensors", "model-1-of-2.safetensors"),
        ("safetensors", "model.safetensors.index.json"),
        ("ours", "tensor.data_1"),
        ("ours", "sllm_gds.json"),
        ("ours", "tensor_index.json"),
        ("foreign", "tensor.data_0"),
    ];
    for (layout, name) in names {
        for make in [|p: &Path| make_fifo(p), |p: &Path| fs::create_dir(p).unwrap()] {
            let fixture = Fixture::new();
            let dir = fixture.root.path().join(layout);
            fs::remove_file(dir.join(name)).unwrap();
            make(&dir.join(name));
            let text = error_of(&dir);
            assert!(text.contains(dir.to_str().unwrap()), "{layout}/{name}: {text}");
        }
    }
    // Without an index the names tell.
    let fixture = Fixture::new();
    let shard = fixture.safetensors().join("model-2-of-2.safetensors");
    fs::remove_file(fixture.safetensors().join("model.safetensors.index.json")).unwrap();
    fs::remove_file(&shard).unwrap();
    make_fifo(&shard);
    assert!(error_of(&fixture.safetensors()).contains("model-2-of-2.safetensors: not a regular file"));
    make_fifo(&fixture.root.path().join("alone.safetensors"));
    error_of(&fixture.root.path().join("alone.safetensors"));
}

#[test]
fn missing_and_unreadable_files_are_named() {
    let fixture = Fixture::new();
    for (dir, file) in layouts(&fixture) {
        fs::set_permissions(&file, Permissions::from_mode(0o000)).unwrap();
        // Root may read everything.
        if File::open(&file).is_err() {
            let text = error_of(&dir);
            assert!(text.contains("Permission denied") && text.contains(file.to_str().unwrap()), "{text}");
        }
        fs::remove_file(&file).unwrap();
        let text = error_of(&dir);
        assert!(text.contains(dir.to_str().unwrap()), "{text}");
    }
}

#[test]
fn symlinked_files_and_directories_load() {
    let fixture = Fixture::new();
    for (dir, file) in layouts(&fixture) {
        let elsewhere = fixture.root.path().join("elsewhere");
        fs::rename(&file, &elsewhere).unwrap();
        symlink(&elsewhere, &file).unwrap();
        let link = fixture.root.path().join("link");
        symlink(&dir, &link).unwrap();
        let (loaded, _) = load(&link, &Destination::Host, &options(IoChoice::Auto), &Cancel::new()).unwrap();
        assert_right(&loaded, &fixture);
        fs::remove_file(&link).unwrap();
        fs::rename(&elsewhere, &file).unwrap();
    }
}

#[test]
fn what_a_manifest_requires_must_be_known() {
    let fixture = Fixture::new();
    let path = fixture.ours().join("sllm_gds.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["more"] = "what a later version may add".into();
    manifest["requires"] = serde_json::json!([]);
    fs::write(&path, manifest.to_string()).unwrap();
    Checkpoint::open(fixture.ours()).unwrap();
    for partitions in [manifest["partitions"].clone(), "in another form".into()] {
        manifest["partitions"] = partitions;
        manifest["requires"] = serde_json::json!(["weights folded twice"]);
        fs::write(&path, manifest.to_string()).unwrap();
        let error = format!("{:#}", Checkpoint::open(fixture.ours()).unwrap_err());
        assert!(error.contains("requires weights folded twice, which this version does not know"), "{error}");
    }
}
