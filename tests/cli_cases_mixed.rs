//! Directories that hold files of two saves, two revisions or two owners: told apart, and refused.

use std::fs;
use std::path::Path;
use std::process::Command;

use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};

use common::{names_in, read_json, run, run_command, temp_dir, tree, write_odd_model};

mod common;

/// A safetensors file with one tensor of 64 bytes.
fn shard(path: &Path, name: &str, dtype: Dtype) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let bytes: Vec<u8> = (0..64).collect();
    let shape = vec![4, 64 * 8 / dtype.bitsize() / 4];
    serialize_to_file([(name, TensorView::new(dtype, shape, &bytes).unwrap())], None, path).unwrap();
}

/// A model of these files, each with a tensor of the file's name.
fn model(dir: &Path, files: &[&str]) {
    let _ = fs::remove_dir_all(dir);
    files.iter().for_each(|file| shard(&dir.join(file), file, Dtype::U8));
}

fn put(path: &Path, text: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Changes a JSON file.
fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

#[test]
fn an_index_of_another_save_is_refused() {
    let dir = temp_dir();
    let saved = |name: &str| dir.path().join("models").join(name);
    for (name, dtype) in [("half", Dtype::F16), ("brain", Dtype::BF16)] {
        shard(&dir.path().join(name).join("model.safetensors"), "w", dtype);
        run(dir.path(), &["save", "--model", name]).expect(0);
    }
    // Saved from ServerlessLLM's layout, there are no headers.
    for name in ["half", "brain"] {
        put(&dir.path().join(name).join("x/tensor.data_0"), [1; 64]);
        let torch = if name == "half" { "torch.float16" } else { "torch.bfloat16" };
        let index = json!({"w": [0, 64, [4, 8], [8, 1], torch]}).to_string();
        put(&dir.path().join(name).join("x/tensor_index.json"), index);
        let from = format!("./{name}/x");
        run(dir.path(), &["save", "--model", &from, "--name", &format!("{name}-theirs")]).expect(0);
    }
    let index_of = |name: &str| saved(name).join("tensor_index.json");
    let own = fs::read(index_of("brain")).unwrap();
    let reshaped = |shape: [u64; 2], stride: [u64; 2]| {
        json!({"w": [0, 64, shape, stride, "torch.bfloat16"]}).to_string().into_bytes()
    };
    let others = [fs::read(index_of("half")).unwrap(), reshaped([2, 16], [16, 1]), reshaped([4, 8], [1, 4])];
    let commands: [&[&str]; 5] = [
        &["load", "brain", "--gpus", "none"],
        &["load", "brain", "--gpus", "none", "--verify"],
        &["verify", "brain"],
        &["save", "--model", "models/brain", "--name", "again"],
        &["export", "brain", "--max-shard-size", "1GB", "--to", "back"],
    ];
    let manifest = saved("brain").join("sllm_gds.json");
    for has_digest in [true, false] {
        if !has_digest {
            // As version 0.1 wrote it.
            edit(&manifest, |manifest| {
                manifest.as_object_mut().unwrap().remove("index_digest").unwrap();
            });
        }
        for other in &others {
            fs::write(index_of("brain"), other).unwrap();
            for command in commands {
                run(dir.path(), command).expect(2).one_error(&[
                    "tensor_index.json",
                    "another save's",
                    "save the model again",
                ]);
            }
        }
        fs::write(index_of("brain"), &own).unwrap();
        run(dir.path(), commands[1]).expect(0);
    }
    fs::copy(index_of("half-theirs"), index_of("brain-theirs")).unwrap();
    run(dir.path(), &["verify", "brain-theirs"]).expect(2).one_error(&["another save's"]);
}

#[test]
fn an_interrupted_update_of_a_shard_is_told_by_the_hubs_hashed_name() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    let load = ["load", "m", "--gpus", "none"];
    let set = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    // As huggingface_hub 2.4 names it, of the second.
    let hashed = "Dr_lZJDwE1cnGAQMwA77jJEQIk8=.0a1b.incomplete";
    for (folder, below) in [
        (".cache/huggingface/download", ""),
        (".huggingface/download", ""),
        (".cache/huggingface/download", "l/"),
    ] {
        let files = set.map(|file| format!("{below}{file}"));
        model(&m, &[&files[0], &files[1]]);
        let map = json!({ "weight_map": { &files[0]: &files[0], &files[1]: &files[1] } });
        put(&m.join("model.safetensors.index.json"), map.to_string());
        run(dir.path(), &load).expect(0);
        let remains = format!("{folder}/{below}{hashed}");
        put(&m.join(&remains), "half");
        run(dir.path(), &load).expect(2).one_error(&[&remains, &files[1], "has not ended", "or remove"]);
        run(dir.path(), &["save", "--model", "m"]).expect(2).one_error(&[&remains]);
    }
    // Of another file of the hub's, such as a tokenizer.
    fs::remove_dir_all(m.join(".cache")).unwrap();
    put(&m.join(".cache/huggingface/download/AAAAZJDwE1cnGAQMwA77jJEQIk8=.0a1b.incomplete"), "half");
    run(dir.path(), &load).expect(0);
    model(&m, &set);
    put(&m.join(".cache/huggingface/download").join(hashed), "half");
    let named = format!("m/{}", set[1]);
    run(dir.path(), &["load", &named, "--gpus", "none"]).expect(2).one_error(&["has not ended"]);
}

#[test]
fn one_file_of_several_is_refused_and_loads_where_it_is_named() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    for stem in [
        "consolidated.01",
        "model-00003",
        "model-rank-3-part-0",
        "mp_rank_02",
        "model3-mp8",
        "model-00002-of-XXXXX",
    ] {
        let file = format!("{stem}.safetensors");
        model(&m, &[&file]);
        let alone = ["load", &format!("m/{file}"), "--gpus", "none"];
        run(dir.path(), &["load", "m", "--gpus", "none"]).expect(2).one_error(&[
            &file,
            "missing",
            "name the file itself",
        ]);
        run(dir.path(), &["save", "--model", "m"]).expect(2).one_error(&[&file]);
        run(dir.path(), &alone).expect(0);
    }
    for stem in ["consolidated.00", "model-00001", "model-2", "model-rank-0-part-0", "lora_epoch-000010"] {
        model(&m, &[&format!("{stem}.safetensors")]);
        run(dir.path(), &["load", "m", "--gpus", "none"]).expect(0);
    }
    // One shard of a set, saved by itself, comes back under a name that loads.
    for (set, back) in [
        (["m-part2of3.safetensors", "m-part3of3.safetensors"], "m-part-2.safetensors"),
        (["rank2_of_3.safetensors", "rank1_of_3.safetensors"], "rank-2.safetensors"),
    ] {
        model(&m, &set);
        let one = format!("m/{}", set[0]);
        run(dir.path(), &["save", "--model", &one, "--name", "one", "--overwrite"]).expect(0);
        run(dir.path(), &["export", "one", "--to", "back", "--overwrite"]).expect(0);
        assert_eq!(names_in(&dir.path().join("back")), [back]);
        run(dir.path(), &["load", "./back", "--gpus", "none"]).expect(0);
    }
}

#[test]
fn an_unfinished_copy_is_not_taken_for_a_model() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    let load = ["load", "m", "--gpus", "none"];
    for remains in [
        ".consolidated.01.safetensors.Xa12bC",
        ".rsync-partial/consolidated.01.safetensors",
        ".~tmp~/consolidated.01.safetensors",
        "consolidated.01.safetensors.6eF5d2Ab",
        "consolidated.01.safetensors_.gstmp",
        ".azDownload-1234-consolidated.01.safetensors",
        "consolidated.01.safetensors.lftp-pget-status",
        "Unconfirmed 1234.crdownload",
        ".consolidated.01.safetensors.icloud",
        "consolidated.01.safetensors.gz",
        "consolidated.01.safetensors.zst",
        "consolidated.01.safetensors.dvc",
    ] {
        model(&m, &["consolidated.00.safetensors"]);
        put(&m.join(remains), "half");
        run(dir.path(), &load).expect(2).one_error(&[remains, "may be missing", "or remove"]);
    }
    for remains in
        [".model.safetensors.Xa12bC", "model.safetensors.6eF5d2Ab", ".rsync-partial/model.safetensors"]
    {
        model(&m, &["model.safetensors"]);
        put(&m.join(remains), "half");
        run(dir.path(), &load).expect(2).one_error(&[remains, "has not ended"]);
    }
    // The file itself is there, too; a copy of it in another form stays behind.
    for remains in ["x.safetensors.dvc", "x.safetensors.gz", "x.safetensors.20240101"] {
        model(&m, &["x.safetensors"]);
        put(&m.join(remains), "x");
        run(dir.path(), &load).expect(0);
    }
    model(&m, &["x.safetensors"]);
    put(&m.join("x.safetensors.gz"), "x");
    let saved = run(dir.path(), &["save", "--model", "m"]).expect(0);
    assert!(saved.stderr.contains("x.safetensors.gz"), "{saved:?}");
    assert!(!dir.path().join("models/m/x.safetensors.gz").exists());
}

#[test]
fn overwriting_keeps_what_was_edited_since_it_was_saved() {
    let dir = temp_dir();
    let source = dir.path().join("m");
    model(&source, &["model.safetensors"]);
    put(&source.join("NOTES.md"), "original");
    put(&source.join("1_Pooling/config.json"), vec![b' '; 5 << 20]);
    put(&source.join("config.json"), "{}");
    let save = ["save", "--model", "m", "--overwrite"];
    let export = ["export", "./m", "--to", "models/m", "--overwrite"];
    let saved = dir.path().join("models/m");
    run(dir.path(), &save).expect(0);
    run(dir.path(), &save).expect(0);
    for name in ["NOTES.md", "1_Pooling/config.json", "config.json"] {
        put(&saved.join(name), "two weeks of measurements");
        let before = tree(&saved);
        for command in [&save[..], &export] {
            run(dir.path(), command).expect(2).one_error(&[
                name,
                "changed since they were saved",
                "move them away",
            ]);
        }
        assert_eq!(tree(&saved), before);
        // Moved away, nothing is lost.
        fs::remove_file(saved.join(name)).unwrap();
        run(dir.path(), &save).expect(0);
    }
    // Version 0.1 recorded no digests.
    edit(&saved.join("sllm_gds.json"), |manifest| {
        manifest.as_object_mut().unwrap().remove("beside_digests").unwrap();
    });
    put(&saved.join("NOTES.md"), "edited");
    run(dir.path(), &save).expect(0);
}

#[test]
fn a_load_says_whether_it_verified() {
    let dir = temp_dir();
    model(&dir.path().join("m"), &["model.safetensors"]);
    let load = ["load", "./m", "--gpus", "none", "--verify"];
    assert!(
        run(dir.path(), &load[..4])
            .expect(0)
            .stdout
            .contains("verified  no: the bytes were not checked; --verify")
    );
    assert!(run(dir.path(), &load).expect(0).stdout.contains("verified  every tensor"));
}

#[test]
fn an_index_with_plain_paths_is_followed_and_an_unfinished_merge_is_said() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    let load = ["load", "m", "--gpus", "none"];
    let set = ["model-00001-of-00002.safetensors", "l/b.safetensors"];
    model(&m, &set);
    let index = m.join("model.safetensors.index.json");
    let map = |one: &str, two: &str| json!({ "weight_map": { set[0]: one, set[1]: two } }).to_string();
    put(&index, map("./model-00001-of-00002.safetensors", "./l/./b.safetensors"));
    // Of a set of two, the index says that the other is none.
    let text = fs::read_to_string(&index).unwrap();
    put(&index, text.replacen('{', "{\"metadata\": {\"total_size\": 128},", 1));
    run(dir.path(), &load).expect(0);
    run(dir.path(), &["save", "--model", "m", "--name", "s"]).expect(0);
    run(dir.path(), &["export", "s", "--to", "back"]).expect(0);
    for bad in ["./../b.safetensors", ".", "./"] {
        put(&index, map(set[0], bad));
        run(dir.path(), &load).expect(2).one_error(&["model.safetensors.index.json"]);
    }
    let conflict = "{\"metadata\": {},\n<<<<<<< HEAD\n\"weight_map\": {}\n=======\n>>>>>>> Other\n}";
    put(&index, conflict);
    run(dir.path(), &load).expect(2).one_error(&["<<<<<<< HEAD", "resolve the conflict"]);
    put(&dir.path().join("models/s/tensor_index.json"), conflict);
    run(dir.path(), &["load", "s", "--gpus", "none"])
        .expect(2)
        .one_error(&["<<<<<<< HEAD", "resolve the conflict"]);
    model(&m, &["model.safetensors"]);
    put(&m.join("model.safetensors"), "<<<<<<< HEAD\nversion https://git-lfs.github.com/spec/v1\n");
    run(dir.path(), &load).expect(2).one_error(&["<<<<<<< HEAD", "resolve the conflict"]);
}

#[test]
fn partitions_that_do_not_fit_are_not_to_be_removed() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    let index = json!({
        "a": [0, 4096, [4096], [1], "torch.uint8"], "b": [4096, 4096, [4096], [1], "torch.uint8"],
    });
    put(&m.join("tensor_index.json"), index.to_string());
    for (one, two, words) in [
        (6144, 2048, "do not fit the index: tensor 'b'"),
        (8192, 4096, "one before it grew"),
        (2048, 6144, "cut short or grew"),
    ] {
        put(&m.join("tensor.data_0"), vec![1; one]);
        put(&m.join("tensor.data_1"), vec![1; two]);
        let load = run(dir.path(), &["load", "m", "--gpus", "none"]).expect(2).one_error(&[words]);
        assert!(!load.stderr.contains("remove it") || one == 8192, "{load:?}");
    }
}

#[test]
fn what_is_no_checkpoint_and_no_directory_is_said() {
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name);
    model(&at("m"), &["model.safetensors"]);
    put(&at("file"), "x");
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    for (args, words) in [
        (&["load", "./fifo", "--gpus", "none"][..], "neither a directory nor a regular file"),
        (&["load", "m", "--gpus", "none", "--storage-path", "file"], "file is no directory"),
        (&["save", "--model", "./m", "--storage-path", "file"], "file is no directory"),
        (&["export", "./m", "--to", "file", "--overwrite"], "remove it yourself, or name another place"),
        (&["export", "./m", "--to", "file/x"], "file is no directory"),
    ] {
        run(dir.path(), args).expect(2).one_error(&[words, "name"]);
    }
    // Past what the format allows, and sparse.
    let length = 100_000_001u64;
    put(&at("m/model.safetensors"), [&length.to_le_bytes()[..], b"{"].concat());
    fs::File::options().write(true).open(at("m/model.safetensors")).unwrap().set_len(length + 20).unwrap();
    run(dir.path(), &["load", "./m", "--gpus", "none"])
        .expect(2)
        .one_error(&["100000001 bytes long", "safetensors allows 100000000"]);
}

#[test]
fn limits_of_disk_and_of_files_are_errors() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    // In blocks of 512 bytes.
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 64; exec \"$0\" save --model odd", env!("CARGO_BIN_EXE_sllm-gds")]);
    run_command({
        limited.current_dir(dir.path());
        limited
    })
    .expect(2)
    .one_error(&["ulimit -f", "raise the limit"]);
    assert_eq!(names_in(&dir.path().join("models")), [""; 0]);
    // Sparse, beside the weights.
    put(&dir.path().join("odd/notes.txt"), "x");
    let notes = fs::File::options().write(true).open(dir.path().join("odd/notes.txt")).unwrap();
    // The largest that common file systems hold.
    notes.set_len(15 << 40).unwrap();
    run(dir.path(), &["save", "--model", "odd"]).expect(2).one_error(&["B free"]);
    run(dir.path(), &["export", "./odd", "--to", "back"]).expect(2).one_error(&["B free"]);
    assert!(!dir.path().join("back").exists());
}

#[test]
fn a_file_that_may_be_one_of_several_is_loaded_with_a_word_and_comes_back() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    for stem in ["style-000010", "weights.01", "shard_2", "pytorch_model_fsdp_1"] {
        let file = format!("{stem}.safetensors");
        model(&m, &[&file]);
        let ran = run(dir.path(), &["load", "m", "--gpus", "none"]);
        assert!(ran.expect(0).stderr.contains("may be one of several"), "{stem}");
    }
    for (stem, back) in
        [("consolidated.01", "model"), ("model-rank-1-part-0", "model"), ("style-000010", "style-000010")]
    {
        model(&m, &[&format!("{stem}.safetensors")]);
        let one = format!("m/{stem}.safetensors");
        run(dir.path(), &["save", "--model", &one, "--name", "one", "--overwrite"]).expect(0);
        run(dir.path(), &["export", "one", "--to", "back", "--overwrite"]).expect(0);
        assert_eq!(names_in(&dir.path().join("back")), [format!("{back}.safetensors")]);
        run(dir.path(), &["load", "./back", "--gpus", "none"]).expect(0);
    }
}

#[test]
fn a_part_of_a_distributed_checkpoint_is_refused() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    fs::create_dir(&m).unwrap();
    for (offset, code) in [(4, 2), (0, 0)] {
        let note = format!(r#"{{\"w\":{{\"saved_offsets\":[{offset},0]}}}}"#);
        let header = format!(
            r#"{{"__metadata__":{{"DCP_SHARDING_INFO":"{note}"}},"w":{{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}}}"#
        );
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend([1, 2]);
        fs::write(m.join("model.safetensors"), file).unwrap();
        let ran = run(dir.path(), &["load", "m", "--gpus", "none"]);
        let said = if code == 2 { "consolidate_safetensors_files" } else { "may be one of several" };
        assert!(ran.expect(code).stderr.contains(said), "{offset}");
    }
}

#[test]
fn shards_of_two_commits_are_refused_and_a_config_of_another_is_not() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    let set = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    model(&m, &set);
    let notes = m.join(".cache/huggingface/download");
    fs::create_dir_all(&notes).unwrap();
    let note = |file: &str, commit: &str| {
        fs::write(notes.join(format!("{file}.metadata")), format!("{commit}\netag\n1.0\n")).unwrap();
    };
    note(set[0], "bbbb");
    note("config.json", "cccc");
    run(dir.path(), &["load", "m", "--gpus", "none"]).expect(0);
    note(set[1], "bbbb");
    run(dir.path(), &["load", "m", "--gpus", "none"]).expect(0);
    note(set[1], "aaaa");
    let both = [set[0], set[1], "an update was cut short"];
    run(dir.path(), &["load", "m", "--gpus", "none"]).expect(2).one_error(&both);
}

#[test]
fn what_a_file_system_keeps_at_its_top_is_not_of_the_model() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    model(&m, &["model.safetensors"]);
    fs::create_dir(m.join("lost+found")).unwrap();
    fs::write(m.join("lost+found/#12"), "left").unwrap();
    run(dir.path(), &["save", "--model", "m", "--name", "saved"]).expect(0);
    assert!(!dir.path().join("models/saved/lost+found").exists());
    for name in ["model.safetensors.BaiduPCS-Go-downloading", "model.safetensors.cosresumabletask"] {
        fs::write(m.join(name), "{}").unwrap();
        run(dir.path(), &["load", "m", "--gpus", "none"]).expect(2).one_error(&["has not ended"]);
        fs::remove_file(m.join(name)).unwrap();
    }
    // What names no file may be of one that is missing.
    fs::rename(m.join("model.safetensors"), m.join("weights.safetensors")).unwrap();
    run(dir.path(), &["load", "m", "--gpus", "none"]).expect(0);
    fs::write(m.join(".getxfer.4242.3.mega"), "half").unwrap();
    run(dir.path(), &["load", "m", "--gpus", "none"]).expect(2).one_error(&["has not ended"]);
}

#[test]
fn weights_that_another_program_saved_over_ours_are_not_replaced() {
    let dir = temp_dir();
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    model(&one, &["model.safetensors"]);
    model(&other, &["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
    run(dir.path(), &["save", "--model", "one", "--name", "m"]).expect(0);
    run(dir.path(), &["save", "--model", "other", "--name", "o"]).expect(0);
    for file in ["tensor.data_0", "tensor_index.json"] {
        fs::copy(dir.path().join("models/o").join(file), dir.path().join("models/m").join(file)).unwrap();
    }
    let again = ["save", "--model", "one", "--name", "m", "--overwrite"];
    run(dir.path(), &again).expect(2).one_error(&["tensor_index.json", "changed since they were saved"]);
    assert!(dir.path().join("models/m/tensor.data_0").exists());
}

#[test]
fn weights_by_another_name_are_named_and_one_that_is_named_comes_back() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    model(&m, &["ae.safetensors"]);
    fs::copy(m.join("ae.safetensors"), m.join("flux1-dev.sft")).unwrap();
    let ran = run(dir.path(), &["load", "m", "--gpus", "none"]);
    assert!(ran.expect(0).stderr.contains("not part of the model: flux1-dev.sft"));
    run(dir.path(), &["save", "--model", "m/flux1-dev.sft", "--name", "one"]).expect(0);
    run(dir.path(), &["export", "one", "--to", "back"]).expect(0);
    assert_eq!(names_in(&dir.path().join("back")), ["model.safetensors"]);
}

#[test]
fn a_total_below_what_the_index_names_is_said() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    let set = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    model(&m, &set);
    let map: Value = set
        .iter()
        .map(|file| (file.to_string(), Value::from(*file)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let index = |total: u64| {
        serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map }).to_string()
    };
    let path = m.join("model.safetensors.index.json");
    for (total, words) in [(1, true), (1 << 40, false)] {
        fs::write(&path, index(total)).unwrap();
        let ran = run(dir.path(), &["load", "m", "--gpus", "none"]);
        assert_eq!(ran.expect(0).stderr.contains("older or newer than it"), words, "{total}");
    }
}

#[test]
fn a_tensor_that_the_index_does_not_name_does_not_stand_in_for_a_shard_that_was_cut_from_it() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    let set = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    model(&m, &set);
    // The first holds what the second does, too, with other bytes.
    let bytes = [0u8; 8];
    let tensor = || TensorView::new(Dtype::U8, vec![8], &bytes).unwrap();
    let both = safetensors::serialize(set.map(|file| (file, tensor())), None).unwrap();
    put(&m.join(set[0]), both);
    let index = json!({ "metadata": { "total_size": 16 }, "weight_map": { set[0]: set[0] } });
    put(&m.join("model.safetensors.index.json"), index.to_string());
    let refused = run(dir.path(), &["load", "m", "--gpus", "none"]);
    refused.expect(2).one_error(&["does not name number 2", "\"total_size\": 8"]);
}

#[test]
fn files_that_nothing_joins_are_taken_together_with_a_word() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    for files in [&["clip_l", "t5xxl_fp16"][..], &["layer_1", "layer_2"], &["pytorch_model", "optimizer"]] {
        let files: Vec<String> = files.iter().map(|stem| format!("{stem}.safetensors")).collect();
        model(&m, &files.iter().map(String::as_str).collect::<Vec<_>>());
        let ran = run(dir.path(), &["load", "m", "--gpus", "none"]);
        assert!(ran.expect(0).stderr.contains("taken together"), "{files:?}");
    }
    for files in [&["model.safetensors"][..], &["model-1-of-2.safetensors", "model-2-of-2.safetensors"]] {
        model(&m, files);
        let ran = run(dir.path(), &["load", "m", "--gpus", "none"]);
        assert!(!ran.expect(0).stderr.contains("taken together"), "{files:?}");
    }
    model(&m, &["adapters.safetensors", "0000100_adapters.safetensors", "0000200_adapters.safetensors"]);
    let ran = run(dir.path(), &["load", "m", "--gpus", "none"]);
    assert!(ran.expect(0).stderr.contains("not part of the model: 0000100_adapters.safetensors"));
}

#[test]
fn a_model_in_another_form_beside_a_stray_file_is_said() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    for other in ["pytorch_model.bin", "model.gguf", "__0_0.distcp"] {
        model(&m, &["value_head.safetensors"]);
        put(&m.join(other), "other bytes");
        let ran = run(dir.path(), &["load", "m", "--gpus", "none"]);
        assert!(ran.expect(0).stderr.contains(&format!("not part of the model: {other}")), "{other}");
    }
    model(&m, &["model.safetensors"]);
    put(&m.join("pytorch_model.bin"), "other bytes");
    let ran = run(dir.path(), &["load", "m", "--gpus", "none"]);
    assert!(!ran.expect(0).stderr.contains("not part"), "the single file of that name is the model");
}
