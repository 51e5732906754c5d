//! Model directories as users reported them, made anew: what is right, or a refusal that says what to do.
#![cfg(feature = "cli")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::json;

use common::{
    names_in, partitioned_tensors, read_json, run, safetensors_in, temp_dir, tree, write_odd_model,
};

mod common;

/// A safetensors file with one tensor of 8 bytes for each name.
fn shard(path: &Path, names: &[&str], fill: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let bytes = [fill; 8];
    let views = names.iter().map(|name| (*name, TensorView::new(Dtype::U8, vec![2, 4], &bytes).unwrap()));
    serialize_to_file(views, None, path).unwrap();
}

/// A header as given, and data.
fn raw(path: &Path, header: &str, data: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()).unwrap();
}

fn index(dir: &Path, map: &[(&str, &str)]) {
    let map: BTreeMap<&str, &str> = map.iter().copied().collect();
    fs::write(dir.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
}

#[test]
fn what_is_given_as_weights_is_told_by_its_first_bytes() {
    let dir = temp_dir();
    let model = dir.path().join("m");
    fs::create_dir(&model).unwrap();
    for (text, words) in [
        (
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 4976698672\n"[..],
            "Git LFS pointer",
        ),
        (b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0", "GGUF"),
        (b"PK\x03\x04\x14\0\0\0\x08\0", "zip archive"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        (b"{\"metadata\": {}, \"weight_map\": {}}", "JSON text"),
        (b"", "too few"),
    ] {
        fs::write(model.join("model.safetensors"), text).unwrap();
        for command in [&["save", "--model", "m"][..], &["load", "m", "--gpus", "none"], &["inspect", "m"]] {
            run(dir.path(), command).expect(2).one_error(&["m/model.safetensors", words]);
        }
    }
    write_odd_model(&dir.path().join("odd"));
    let given = "odd/model.safetensors.index.json";
    run(dir.path(), &["save", "--model", given]).expect(2).one_error(&[given, "holds the weights"]);
}

#[test]
fn folders_that_hold_weights_below_are_named() {
    let dir = temp_dir();
    for name in ["p/unet/x.safetensors", "p/vae/x.safetensors", "r/rank_0/model.safetensors"] {
        shard(&dir.path().join(name), &["w"], 1);
    }
    shard(&dir.path().join("hub/models--a--b/snapshots/0123/model.safetensors"), &["w"], 1);
    run(dir.path(), &["load", "p", "--gpus", "none"]).expect(2).one_error(&["unet, vae", "point at one"]);
    run(dir.path(), &["save", "--model", "r"]).expect(2).one_error(&["rank_0"]);
    run(dir.path(), &["inspect", "hub"]).expect(2).one_error(&["models--a--b/snapshots/0123"]);
}

#[test]
fn a_missing_partition_is_named() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    run(dir.path(), &["save", "--model", "odd", "--partitions", "2"]).expect(0);
    fs::remove_file(dir.path().join("models/odd/tensor.data_1")).unwrap();
    run(dir.path(), &["load", "odd", "--gpus", "none"]).expect(2).one_error(&["tensor.data_1 is missing"]);
    // Without the manifest, what remains can't be told from a file that was cut short.
    fs::remove_file(dir.path().join("models/odd/sllm_gds.json")).unwrap();
    let load = run(dir.path(), &["load", "odd", "--gpus", "none"]).expect(2);
    load.one_error(&["tensor.data_0 ends at", "tensor.data_1", "are lost"]);
}

#[test]
fn a_checkpoint_that_lost_its_end_is_named_and_its_whole_tensors_can_be_taken_out() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    run(dir.path(), &["save", "--model", "odd"]).expect(0);
    let theirs = dir.path().join("models/odd");
    fs::remove_file(theirs.join("sllm_gds.json")).unwrap();
    let whole = partitioned_tensors(&theirs);
    let data = fs::File::options().write(true).open(theirs.join("tensor.data_0")).unwrap();
    data.set_len(60_000).unwrap();
    let lost = ["tensors are lost", "tensor.data_0 ends at byte 60000"];
    run(dir.path(), &["load", "odd", "--gpus", "none"]).expect(2).one_error(&lost);
    run(dir.path(), &["save", "--model", "models/odd", "--name", "x"]).expect(2).one_error(&lost);
    run(dir.path(), &["export", "odd", "--to", "x"]).expect(2).one_error(&lost);
    run(dir.path(), &["verify", "odd"]).expect(1).one_error(&lost);
    run(dir.path(), &["inspect", "odd"]).expect(1).one_error(&lost);
    let shown = run(dir.path(), &["inspect", "odd", "--json"]).expect(1).json();
    let export = ["export", "odd", "--to", "x", "--whole-tensors", "--json"];
    let report = run(dir.path(), &export).expect(1).json();
    assert_eq!(report["lost"], shown["lost"]);
    let taken = safetensors_in(&dir.path().join("x"));
    assert_eq!(taken.len() + shown["lost"].as_array().unwrap().len(), whole.len());
    assert!(!taken.is_empty() && taken.iter().all(|(name, tensor)| tensor.2 == whole[name]));
}

#[test]
fn a_target_that_is_holds_or_lies_in_the_source_is_refused() {
    let dir = temp_dir();
    let source = dir.path().join("models/foo");
    write_odd_model(&source);
    symlink("models", dir.path().join("link")).unwrap();
    let before = tree(&dir.path().join("models"));
    for save in [
        &["save", "--model", "models/foo"][..],
        &["save", "--model", "models/foo", "--overwrite"],
        &["save", "--model", "link/foo", "--overwrite"],
        &["save", "--model", "models/foo", "--storage-path", "link", "--overwrite"],
        &["save", "--model", "models/foo", "--storage-path", ".", "--name", "models", "--overwrite"],
        &["save", "--model", "models/foo", "--storage-path", "models/foo", "--name", "new"],
        &["save", "--model", "models/foo/model-00001-of-00002.safetensors", "--name", "foo", "--overwrite"],
        &["export", "models/foo", "--to", "models/foo", "--overwrite"],
        &["export", "models/foo", "--to", "models/foo/new"],
    ] {
        run(dir.path(), save).expect(2).one_error(&["from which is read"]);
    }
    assert_eq!(tree(&dir.path().join("models")), before);
    // Linked weights are the source, too, wherever they lie.
    fs::create_dir(dir.path().join("linked")).unwrap();
    for name in names_in(&source).iter().filter(|name| name.contains("safetensors")) {
        symlink(source.join(name), dir.path().join("linked").join(name)).unwrap();
    }
    let save = ["save", "--model", "linked", "--name", "foo", "--overwrite"];
    run(dir.path(), &save).expect(2).one_error(&["holds linked/model", "from which is read"]);
    assert_eq!(tree(&dir.path().join("models")), before);
}

#[test]
fn overwriting_deletes_nothing_that_no_save_wrote() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let save = ["save", "--model", "odd", "--name", "x", "--overwrite"];
    run(dir.path(), &save).expect(0);
    run(dir.path(), &save).expect(0);
    let saved = dir.path().join("models/x");
    for other in ["notes.txt", "x-Q4.gguf", ".hidden", "work/thesis.tex"] {
        let path = saved.join(other);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        run(dir.path(), &save).expect(2).one_error(&[other, "does not delete"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_file(&path).unwrap();
        let _ = fs::remove_dir(saved.join("work"));
    }
    run(dir.path(), &save).expect(0);
    // A download: a checkpoint's files may be replaced, another form of the weights is not.
    write_odd_model(&dir.path().join("models/y"));
    fs::write(dir.path().join("models/y/pytorch_model.bin"), "PK").unwrap();
    let over = ["save", "--model", "odd", "--name", "y", "--overwrite"];
    run(dir.path(), &over).expect(2).one_error(&["pytorch_model.bin"]);
    fs::remove_file(dir.path().join("models/y/pytorch_model.bin")).unwrap();
    run(dir.path(), &over).expect(0);
}

#[test]
fn what_is_not_surely_one_model_is_not_overwritten() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let at = |name: &str| dir.path().join("models").join(name);
    let save = |name: &str| run(dir.path(), &["save", "--model", "odd", "--name", name, "--overwrite"]);
    for lora in ["one", "two"] {
        shard(&at(&format!("loras/{lora}.safetensors")), &[lora], 1);
    }
    shard(&at("extra/model.safetensors"), &["w"], 1);
    shard(&at("extra/my-only-finetune.safetensors"), &["v"], 1);
    shard(&at("half/model-00001-of-00002.safetensors"), &["w"], 1);
    shard(&dir.path().join("elsewhere/model.safetensors"), &["w"], 1);
    symlink(dir.path().join("elsewhere"), at("link")).unwrap();
    let before = (tree(&dir.path().join("models")), tree(&dir.path().join("elsewhere")));
    for (name, words) in [
        ("loras", "no index joins"),
        ("extra", "my-only-finetune.safetensors"),
        ("half", "number 2 is missing"),
        ("link", "is a link"),
    ] {
        save(name).expect(2).one_error(&[name, words, "does not delete"]);
    }
    assert_eq!((tree(&dir.path().join("models")), tree(&dir.path().join("elsewhere"))), before);
    save("extra/inner").expect(0);
    save("extra/inner/most").expect(2).one_error(&["would lie in the checkpoint"]);
    for name in ["a/tensor.data_1", "x.safetensors", " "] {
        run(dir.path(), &["save", "--model", "odd", "--name", name]).expect(2).one_error(&["can't name"]);
    }
}

#[test]
fn a_source_that_changes_meanwhile_is_not_saved() {
    use sllm_gds::origin::input;
    use sllm_gds::os::cancel::Cancel;
    use sllm_gds::os::progress::Progress;
    use sllm_gds::write::save;

    let dir = temp_dir();
    let file = dir.path().join("m/model.safetensors");
    let rewrite: fn(&Path) = |file| shard(file, &["w"], 2);
    let grow: fn(&Path) = |file| drop(fs::File::options().append(true).open(file).map(|f| f.set_len(9999)));
    let configure: fn(&Path) = |file| fs::write(file.with_file_name("config.json"), b"[]").unwrap();
    for (change, name) in
        [(rewrite, "model.safetensors"), (grow, "model.safetensors"), (configure, "config.json")]
    {
        shard(&file, &["w"], 1);
        fs::write(file.with_file_name("config.json"), b"{}").unwrap();
        let input =
            input::open(dir.path().join("m").to_str().unwrap(), 0, None, &Cancel::new(), &Progress::silent())
                .unwrap();
        let layout = save::Layout::new(&input, 1, 1 << 30).unwrap();
        change(&file);
        let saved =
            save::save(&input, &layout, &dir.path().join("x"), false, &Cancel::new(), &Progress::silent());
        let error = format!("{:#}", saved.unwrap_err());
        assert!(error.contains(&format!("{name}: changed while it was read")), "{error}");
        assert!(!dir.path().join("x").exists());
    }
}

#[test]
fn partitions_that_hold_more_than_the_index_are_refused() {
    let dir = temp_dir();
    let theirs = dir.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    let entry = |i: u64| (format!("t{i}"), json!([i * 4096, 4096, [4096], [1], "torch.uint8"]));
    let index: serde_json::Map<String, serde_json::Value> = (0..4).map(entry).collect();
    fs::write(theirs.join("tensor_index.json"), json!(index).to_string()).unwrap();
    for (first, last, good) in [(8192, 8192, true), (12288, 12288, false), (8192, 16384, false)] {
        fs::write(theirs.join("tensor.data_0"), vec![0; first]).unwrap();
        fs::write(theirs.join("tensor.data_1"), vec![1; last]).unwrap();
        let load = run(dir.path(), &["load", "theirs", "--gpus", "none"]);
        match good {
            true => drop(load.expect(0)),
            false => drop(load.expect(2).one_error(&["2 partitions", "grew"])),
        }
    }
}

#[test]
fn one_shard_of_several_says_so_and_files_that_went_missing_are_told() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let shard = "odd/model-00002-of-00002.safetensors";
    let saved = run(dir.path(), &["save", "--model", shard, "--name", "half"]).expect(0);
    assert!(saved.stderr.contains("one of several shards"), "{saved:?}");
    run(dir.path(), &["export", "half", "--to", "back"]).expect(0);
    assert!(names_in(&dir.path().join("back")).contains(&"model-2.safetensors".to_string()));
    fs::write(dir.path().join("odd").join(std::ffi::OsStr::from_bytes(b"tok\xff.model")), "x").unwrap();
    let whole = run(dir.path(), &["save", "--model", "odd", "--name", "whole"]).expect(0);
    assert!(whole.stderr.contains("left out") && whole.stderr.contains("tok\u{fffd}.model"), "{whole:?}");
    fs::remove_file(dir.path().join("models/whole/tokenizer.json")).unwrap();
    run(dir.path(), &["verify", "whole"]).expect(1).one_error(&["tokenizer.json", "missing"]);
}

#[test]
fn what_an_earlier_conversion_left_is_not_taken_for_the_new_one() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let wanted = safetensors_in(&dir.path().join("odd"));
    run(dir.path(), &["save", "--model", "odd", "--name", "clean"]).expect(0);
    // As long as what will be written, and of other bytes.
    let bytes = fs::metadata(dir.path().join("models/clean/tensor.data_0")).unwrap().len();
    for stale in ["tensor.data_0", "tensor.data_1", "tensor.data_7", "sllm_gds.json"] {
        fs::write(dir.path().join("odd").join(stale), vec![b'S'; bytes as usize]).unwrap();
    }
    let save = run(dir.path(), &["save", "--model", "odd"]).expect(0);
    assert!(save.stderr.contains("left out") && save.stderr.contains("tensor.data_0"), "{save:?}");
    assert_eq!(tree(&dir.path().join("models/odd")).len(), tree(&dir.path().join("models/clean")).len());
    let saved = partitioned_tensors(&dir.path().join("models/odd"));
    assert!(wanted.iter().all(|(name, tensor)| saved[name] == tensor.2));
    run(dir.path(), &["load", "odd", "--gpus", "none", "--verify"]).expect(0);
}

#[test]
fn folders_of_modules_go_along_and_come_back() {
    let dir = temp_dir();
    let model = dir.path().join("st");
    shard(&model.join("model.safetensors"), &["embeddings.weight"], 1);
    shard(&model.join("2_Dense/model.safetensors"), &["linear.weight"], 2);
    for name in ["config.json", "modules.json", "1_Pooling/config.json", "2_Dense/config.json", "tokens.spm"]
    {
        fs::create_dir_all(model.join(name).parent().unwrap()).unwrap();
        fs::write(model.join(name), name).unwrap();
    }
    let modules = r#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}]"#;
    fs::write(model.join("modules.json"), modules).unwrap();
    let before = tree(&model);
    fs::write(model.join("pytorch_model.bin"), "PK").unwrap();
    fs::create_dir(model.join("onnx")).unwrap();
    fs::write(model.join("onnx/model.onnx"), "x").unwrap();
    assert!(Command::new("mkfifo").arg(model.join("pipe")).status().unwrap().success());
    let report = run(dir.path(), &["save", "--model", "st", "--json"]).expect(0);
    assert_eq!(report.json()["left_out"], json!(["onnx/", "pytorch_model.bin", "pipe"]));
    run(dir.path(), &["export", "st", "--to", "back"]).expect(0);
    assert_eq!(tree(&dir.path().join("back")), before);
    run(dir.path(), &["export", "st", "--to", "back", "--overwrite"]).expect(0);
    assert_eq!(tree(&dir.path().join("back")), before);
}

#[test]
fn a_single_file_takes_config_and_tokenizer_along_and_nothing_else() {
    let dir = temp_dir();
    let downloads = dir.path().join("downloads");
    shard(&downloads.join("lora.safetensors"), &["w"], 1);
    for name in ["config.json", "tokenizer_config.json", "film.mp4", "old.ckpt", "letter.txt", "sub/x"] {
        fs::create_dir_all(downloads.join(name).parent().unwrap()).unwrap();
        fs::write(downloads.join(name), name).unwrap();
    }
    run(dir.path(), &["save", "--model", "downloads/lora.safetensors"]).expect(0);
    let own = [
        "config.json",
        "no_split_modules.json",
        "sllm_gds.json",
        "tensor.data_0",
        "tensor_index.json",
        "tied_no_split_modules.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names_in(&dir.path().join("models/lora")), own);
}

#[test]
fn metadata_comes_back_byte_for_byte_and_stays_where_shards_are_made_anew() {
    let dir = temp_dir();
    let model = dir.path().join("lora");
    let header = r#"{"__metadata__":{"format":"mlx","ss_network_alpha":"8"},"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}   "#;
    raw(&model.join("lora.safetensors"), header, &[1, 2]);
    let before = tree(&model);
    run(dir.path(), &["export", "lora", "--to", "direct"]).expect(0);
    run(dir.path(), &["save", "--model", "lora", "--name", "saved"]).expect(0);
    run(dir.path(), &["export", "saved", "--to", "by-save"]).expect(0);
    assert_eq!(tree(&dir.path().join("direct")), before);
    assert_eq!(tree(&dir.path().join("by-save")), before);
    for (name, to) in [("lora", "new-1"), ("saved", "new-2")] {
        run(dir.path(), &["export", name, "--to", to, "--max-shard-size", "1GB"]).expect(0);
        let text = fs::read(dir.path().join(to).join("model.safetensors")).unwrap();
        assert!(
            String::from_utf8_lossy(&text).contains(r#"{"format":"mlx","ss_network_alpha":"8"}"#),
            "{to}"
        );
    }
}

#[test]
fn small_types_are_read_and_what_torch_cannot_name_is_not_saved() {
    let dir = temp_dir();
    let entry = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{dtype}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let (f4, f6) = (entry("F4", "[2,4]", 0, 4), entry("F6_E2M3", "[4]", 4, 7));
    raw(&dir.path().join("f4/model.safetensors"), &format!(r#"{{"__metadata__":null,{f4}}}"#), &[1, 2, 3, 4]);
    raw(&dir.path().join("f6/model.safetensors"), &format!("{{{f4},{f6}}}"), &[1, 2, 3, 4, 5, 6, 7]);
    run(dir.path(), &["save", "--model", "f4"]).expect(0);
    let index = read_json(&dir.path().join("models/f4/tensor_index.json"));
    assert_eq!(index["F4"], json!([0, 4, [2, 2], [2, 1], "torch.float4_e2m1fn_x2"]));
    run(dir.path(), &["verify", "f4", "--against", "f4"]).expect(0);
    run(dir.path(), &["export", "models/f4", "--to", "back"]).expect(0);
    assert_eq!(tree(&dir.path().join("back")), tree(&dir.path().join("f4")));
    run(dir.path(), &["load", "f6", "--gpus", "none", "--verify"]).expect(0);
    run(dir.path(), &["export", "f6", "--to", "back6"]).expect(0);
    assert_eq!(tree(&dir.path().join("back6")), tree(&dir.path().join("f6")));
    run(dir.path(), &["save", "--model", "f6"]).expect(2).one_error(&["F6_E2M3", "torch"]);
    assert_eq!(names_in(&dir.path().join("models")), ["f4"]);
}

#[test]
fn of_two_tensors_of_one_name_the_index_decides() {
    let dir = temp_dir();
    let model = dir.path().join("m");
    let [one, two] = [1, 2].map(|i| format!("model-0000{i}-of-00002.safetensors"));
    shard(&model.join(&one), &["a", "dup"], 1);
    shard(&model.join(&two), &["dup", "b"], 2);
    index(&model, &[("a", &one), ("dup", &two), ("b", &two)]);
    let save = run(dir.path(), &["save", "--model", "m", "--name", "saved"]).expect(0);
    assert!(save.stderr.contains("'dup' of model-00001-of-00002"), "{save:?}");
    let saved = partitioned_tensors(&dir.path().join("models/saved"));
    assert_eq!((saved["a"][0], saved["dup"][0], saved["b"][0]), (1, 2, 2));
    run(dir.path(), &["export", "models/saved", "--to", "back"]).expect(0);
    assert_eq!(safetensors_in(&dir.path().join("back"))["dup"].2, [2; 8]);
    fs::remove_file(model.join("model.safetensors.index.json")).unwrap();
    run(dir.path(), &["load", "m", "--gpus", "none"]).expect(2).one_error(&["'dup'", "another shard"]);
}

#[test]
fn what_holds_no_tensors_is_not_loaded_and_a_shard_without_any_comes_back() {
    let dir = temp_dir();
    let model = dir.path().join("m");
    shard(&model.join("model-00001-of-00002.safetensors"), &["a"], 1);
    raw(&model.join("model-00002-of-00002.safetensors"), "{}", &[]);
    let before = tree(&model);
    run(dir.path(), &["save", "--model", "m", "--name", "saved"]).expect(0);
    run(dir.path(), &["export", "models/saved", "--to", "back"]).expect(0);
    assert_eq!(tree(&dir.path().join("back")), before);
    index(&model, &[]);
    run(dir.path(), &["load", "m", "--gpus", "none"]).expect(2).one_error(&["names no tensor"]);
    raw(&dir.path().join("empty/model.safetensors"), "{}", &[]);
    run(dir.path(), &["load", "empty", "--gpus", "none"]).expect(2).one_error(&["holds no tensors"]);
}

#[test]
fn a_tensor_in_a_larger_storage_is_exported_without_the_rest() {
    let dir = temp_dir();
    let theirs = dir.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    let data: Vec<u8> = (0..128).collect();
    fs::write(theirs.join("tensor.data_0"), &data).unwrap();
    let index =
        json!({"a": [0, 64, [2, 4], [4, 1], "torch.float32"], "b": [64, 64, [16], [1], "torch.float32"]});
    fs::write(theirs.join("tensor_index.json"), index.to_string()).unwrap();
    run(dir.path(), &["save", "--model", "theirs", "--name", "ours"]).expect(0);
    for name in ["theirs", "ours"] {
        let to = format!("back-{name}");
        run(dir.path(), &["export", name, "--to", &to]).expect(0);
        let back = safetensors_in(&dir.path().join(&to));
        assert_eq!((&back["a"].2[..], &back["b"].2[..]), (&data[..32], &data[64..]));
        run(dir.path(), &["verify", name, "--against", &to]).expect(0);
    }
    // The storage's rest is under the digest, too.
    let file = dir.path().join("models/ours/tensor.data_0");
    common::flip_bit(&file, 40);
    run(dir.path(), &["export", "ours", "--to", "x"]).expect(2).one_error(&["'a'", "damaged"]);
}

#[test]
fn links_that_lead_nowhere_or_out_are_refused() {
    let dir = temp_dir();
    let model = dir.path().join("a/m");
    write_odd_model(&model);
    fs::remove_file(model.join("tokenizer.json")).unwrap();
    symlink("../gone.json", model.join("tokenizer.json")).unwrap();
    let save = ["save", "--model", "a/m"];
    run(dir.path(), &save).expect(2).one_error(&["tokenizer.json", "../gone.json", "not there"]);
    fs::remove_file(model.join("tokenizer.json")).unwrap();
    let shard = model.join("model-00001-of-00002.safetensors");
    fs::create_dir(dir.path().join("b")).unwrap();
    fs::rename(&shard, dir.path().join("b/x")).unwrap();
    symlink(dir.path().join("b/x"), &shard).unwrap();
    run(dir.path(), &save).expect(2).one_error(&["model-00001-of-00002", "outside the storage path"]);
    let load = ["load", "a/m", "--gpus", "none", "--storage-path", "."];
    run(dir.path(), &load).expect(0);
    // The operator's own link to the whole model is followed.
    symlink(dir.path().join("a/m"), dir.path().join("b/m")).unwrap();
    run(dir.path(), &["load", "b/m", "--gpus", "none"]).expect(0);
}

#[test]
fn an_earlier_copy_serves_again_only_for_the_same_bytes() {
    let dir = temp_dir();
    let model = dir.path().join("m");
    shard(&model.join("model.safetensors"), &["w"], 1);
    let bench = ["bench", "--model", "m", "--replicas", "1", "--gpus", "none"];
    run(dir.path(), &bench).expect(0);
    run(dir.path(), &bench).expect(0);
    // The same bytes elsewhere are the same model.
    let times = |path: &Path| fs::FileTimes::new().set_modified(path.metadata().unwrap().modified().unwrap());
    let file = model.join("model.safetensors");
    let before = times(&file);
    shard(&file, &["w"], 1);
    run(dir.path(), &bench).expect(0);
    // Other bytes under the old time are not.
    shard(&file, &["w"], 2);
    fs::File::options().write(true).open(&file).unwrap().set_times(before).unwrap();
    run(dir.path(), &bench).expect(2).one_error(&["models/m_0", "tensor 'w' differs", "remove it"]);
}
