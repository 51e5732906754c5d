//! Directories that hold a part of a model and look whole: what the names, the index or a download beside tell of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::{Dtype, serialize_to_file, tensor::TensorView};
use serde_json::json;

use common::{names_in, partitioned_tensors, run, safetensors_in, temp_dir, tree, write_odd_model};

mod common;

/// A safetensors file with one tensor of 8 bytes.
fn shard(path: &Path, name: &str, fill: u8) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let bytes = [fill; 8];
    serialize_to_file([(name, TensorView::new(Dtype::U8, vec![2, 4], &bytes).unwrap())], None, path).unwrap();
}

/// A model of these files, each with a tensor of the file's name.
fn model(dir: &Path, files: &[&str]) {
    let _ = fs::remove_dir_all(dir);
    files.iter().for_each(|file| shard(&dir.join(file), file, 1));
}

/// An index of these files of such a model.
fn index(dir: &Path, name: &str, files: &[&str], total_bytes: Option<u64>) {
    let map: BTreeMap<&str, &str> = files.iter().map(|file| (*file, *file)).collect();
    let mut index = json!({ "weight_map": map });
    if let Some(total_bytes) = total_bytes {
        index["metadata"] = json!({ "total_size": total_bytes });
    }
    fs::write(dir.join(name), index.to_string()).unwrap();
}

const MAIN: &str = "model.safetensors.index.json";

#[test]
fn a_partition_that_is_short_or_long_is_refused_without_a_manifest() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    run(dir.path(), &["save", "--model", "odd", "--partitions", "2"]).expect(0);
    let saved = dir.path().join("models/odd");
    fs::write(saved.join("tensor.data_2"), "stale").unwrap();
    let load = ["load", "odd", "--gpus", "none"];
    run(dir.path(), &load).expect(2).one_error(&["tensor.data_2 is none of them", "remove it"]);
    fs::remove_file(saved.join("sllm_gds.json")).unwrap();
    run(dir.path(), &load).expect(2).one_error(&[
        "tensor.data_2",
        "none of the index's tensors",
        "remove it",
    ]);
    fs::remove_file(saved.join("tensor.data_2")).unwrap();
    run(dir.path(), &load).expect(0);
    let [first, second] = [0, 1].map(|i| saved.join(format!("tensor.data_{i}")));
    let whole = [&first, &second].map(|path| fs::read(path).unwrap());
    let resized = |lost: usize, won: usize| {
        fs::write(&first, &whole[0][..whole[0].len() - lost]).unwrap();
        fs::write(&second, [&whole[1][..], &vec![0; won]].concat()).unwrap();
    };
    for (lost, won) in [(8, 0), (256, 0), (512, 512), (1000, 1000)] {
        resized(lost, won);
        run(dir.path(), &load).expect(2).one_error(&["tensor.data_0", "cut short or grew"]);
    }
    resized(0, 0);
    // An index that lost a tensor leaves a hole, which is said.
    let mut tensors: serde_json::Map<String, serde_json::Value> =
        common::read_json(&saved.join("tensor_index.json")).as_object().cloned().unwrap();
    let large =
        tensors.iter().filter(|(_, entry)| entry[1].as_u64() > Some(256) && entry[0].as_u64() > Some(0));
    let first_of_second = whole[0].len() as u64;
    let lost =
        large.filter(|(_, e)| e[0].as_u64() != Some(first_of_second)).map(|(name, _)| name.clone()).next();
    tensors.remove(&lost.unwrap());
    fs::write(saved.join("tensor_index.json"), json!(tensors).to_string()).unwrap();
    let loaded = run(dir.path(), &load).expect(0);
    assert!(loaded.stderr.contains("bytes belong to no tensor"), "{loaded:?}");
}

#[test]
fn what_is_written_as_a_path_is_one_and_of_two_checkpoints_of_a_name_the_taken_one_is_said() {
    let dir = temp_dir();
    shard(&dir.path().join("m/model.safetensors"), "here", 1);
    shard(&dir.path().join("other/model.safetensors"), "stored", 2);
    run(dir.path(), &["save", "--model", "./other", "--name", "m"]).expect(0);
    for (name, tensor) in [("./m", "here"), ("m/", "here"), ("m", "stored"), ("models/m", "stored")] {
        let export = run(dir.path(), &["export", name, "--to", "back"]).expect(0);
        assert_eq!(safetensors_in(&dir.path().join("back")).keys().collect::<Vec<_>>(), [tensor], "{name}");
        assert_eq!(export.stderr.contains("was not taken"), name == "m", "{export:?}");
        fs::remove_dir_all(dir.path().join("back")).unwrap();
    }
    for command in [&["load", "m", "--gpus", "none"][..], &["inspect", "m"], &["verify", "m"]] {
        let said = run(dir.path(), command).expect(0).stderr;
        assert!(said.contains("models/m; m has that name, too"), "{command:?}: {said}");
    }
    run(dir.path(), &["save", "--model", "./none"]).expect(2).one_error(&["./none does not exist"]);
    run(dir.path(), &["load", "acme/none", "--gpus", "none"])
        .expect(2)
        .one_error(&["only `save` and `bench`"]);
}

#[test]
fn a_download_under_way_is_not_taken_for_a_model() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    let load = ["load", "m", "--gpus", "none"];
    for remains in [
        "model.safetensors.aria2",
        "model.safetensors.part",
        "model.safetensors.crdownload",
        ".cache/huggingface/download/model.safetensors.0a1b.incomplete",
    ] {
        model(&m, &["model.safetensors"]);
        fs::create_dir_all(m.join(remains).parent().unwrap()).unwrap();
        fs::write(m.join(remains), "x").unwrap();
        run(dir.path(), &load).expect(2).one_error(&[remains, "has not ended", "let it end, or remove"]);
        run(dir.path(), &["save", "--model", "m"]).expect(2).one_error(&[remains]);
        if !remains.contains('/') {
            let file = ["load", "m/model.safetensors", "--gpus", "none"];
            run(dir.path(), &file).expect(2).one_error(&[remains, "has not ended"]);
        }
    }
    for remains in [
        "part_b.safetensors.part",
        "part_b.safetensors.aria2",
        ".cache/huggingface/download/part_b.safetensors.0a1b.incomplete",
        ".cache/huggingface/download/Xyz=.0a1b.incomplete",
        "._____temp/part_b.safetensors",
    ] {
        model(&m, &["part_a.safetensors"]);
        fs::create_dir_all(m.join(remains).parent().unwrap()).unwrap();
        fs::write(m.join(remains), "x").unwrap();
        run(dir.path(), &load).expect(2).one_error(&[remains, "may be missing"]);
        // Where something tells that nothing is missing, it is of another model.
        index(&m, MAIN, &["part_a.safetensors"], None);
        run(dir.path(), &load).expect(0);
    }
    model(&m, &["model.safetensors"]);
    fs::write(m.join("model.safetensors.index.json.part"), "x").unwrap();
    fs::write(m.join("pytorch_model.bin.part"), "x").unwrap();
    run(dir.path(), &load).expect(0);
}

#[test]
fn a_cut_index_is_told_by_files_of_its_set_and_by_its_total() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    let load = ["load", "m", "--gpus", "none"];
    // As gpt-oss counts.
    let set = [
        "model-00000-of-00002.safetensors",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    for (named, total_bytes, good) in [
        (&set[..], None, true),
        (&set[..2], Some(24), false),
        (&set[1..], Some(24), false),
        (&set[..2], None, false),
        (&set[1..], None, false),
        (&set[..2], Some(16), true),
    ] {
        model(&m, &set);
        index(&m, MAIN, named, total_bytes);
        let loaded = run(dir.path(), &load);
        match good {
            true => drop(loaded.expect(0)),
            false => drop(loaded.expect(2).one_error(&[MAIN, "does not name", "may be cut"])),
        }
    }
    // The last one is gone, and only the total knows of it.
    model(&m, &set[..2]);
    index(&m, MAIN, &set[..2], Some(24));
    run(dir.path(), &load).expect(2).one_error(&[MAIN, "number 2", "may be cut"]);
    for (files, unnamed) in [
        (["a.safetensors", "mtp.safetensors"], "mtp.safetensors"),
        (["norm.safetensors", "layers/0.safetensors"], "layers/0.safetensors"),
    ] {
        model(&m, &files);
        index(&m, MAIN, &files[..1], Some(16));
        run(dir.path(), &load).expect(2).one_error(&[MAIN, unnamed, "8 bytes more", "was cut"]);
        // Tied tensors counted twice, as many have it: the file beside does not explain that.
        index(&m, MAIN, &files[..1], Some(12));
        let loaded = run(dir.path(), &load).expect(0);
        assert!(loaded.stderr.contains(unnamed), "named: {loaded:?}");
    }
}

#[test]
fn a_missing_file_is_told_by_numbers_in_whatever_spelling() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    for pattern in [
        "#-of-00003",
        "model#-of-00003",
        "model-#-of-00003-bf16",
        "model-#-of-00003_q4",
        "model-#-of-00003 (1)",
        "model-# of 00003",
        "model-#of3",
        "model-part#of3",
        "model-#-of-0000000003",
        "rank#_of_3",
        "model_#_00003",
        "shard_#.fp16",
        "layer_#_a",
        "model-#",
        "consolidated.0#",
        "x-#-a-0",
    ] {
        let files: Vec<String> =
            (0..4).map(|i| format!("{}.safetensors", pattern.replace('#', &i.to_string()))).collect();
        // Meta's files and ranks begin with 0.
        let base = usize::from(!pattern.starts_with("consolidated") && !pattern.starts_with("rank"));
        let whole: Vec<&str> = files[base..base + 3].iter().map(String::as_str).collect();
        model(&m, &whole);
        run(dir.path(), &["load", "m", "--gpus", "none"]).expect(0);
        let says_total = pattern.contains("of");
        for (gone, name) in whole.iter().enumerate() {
            // Without a total nobody knows of the last, nor of a first one that may have been number 0.
            if !says_total && (gone == 2 || (gone == 0 && base == 0 && !pattern.starts_with("consolidated")))
            {
                continue;
            }
            fs::rename(m.join(name), dir.path().join("aside")).unwrap();
            let load = run(dir.path(), &["load", "m", "--gpus", "none"]).expect(2);
            assert!(load.stderr.contains("missing"), "{pattern} without {name}: {load:?}");
            fs::rename(dir.path().join("aside"), m.join(name)).unwrap();
        }
        if says_total {
            let alone = run(dir.path(), &["load", &format!("m/{}", whole[0]), "--gpus", "none"]).expect(0);
            assert!(alone.stderr.contains("one of several"), "{pattern}: {alone:?}");
        }
    }
    for (files, words) in [
        (&["e-0-1.safetensors", "e-5-7.safetensors"][..], "more than one number"),
        (&["foo.safetensors", "foo-1-of-2.safetensors", "foo-2-of-2.safetensors"], "two forms"),
        (&["model_vision.safetensors", "l-1-of-2.safetensors", "l-2-of-2.safetensors"], "no index says so"),
    ] {
        model(&m, files);
        run(dir.path(), &["load", "m", "--gpus", "none"]).expect(2).one_error(&[words]);
    }
    for files in [
        &["part_a.safetensors", "part_b.SAFETENSORS"][..],
        &["x-0-0.safetensors", "x-0-1.safetensors", "x-1-0.safetensors", "x-1-1.safetensors"],
        &["layers-0-3.safetensors", "layers-4-7.safetensors"],
        &["4f3a9.safetensors", "b07c1.safetensors"],
        &["text_encoder.safetensors", "text_encoder_2.safetensors"],
        &["sd_xl_base_1.0.safetensors"],
    ] {
        model(&m, files);
        let saved = run(dir.path(), &["save", "--model", "m", "--name", "saved", "--overwrite"]).expect(0);
        assert_eq!(partitioned_tensors(&dir.path().join("models/saved")).len(), files.len(), "{saved:?}");
    }
}

#[test]
fn weights_in_folders_are_named_and_refused_where_they_may_be_the_rest() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    let load = ["load", "m", "--gpus", "none"];
    let layer = "model.layers.0/layer.safetensors";
    model(&m, &["model.norm.safetensors", layer]);
    run(dir.path(), &load).expect(2).one_error(&[layer, "no index says"]);
    index(&m, MAIN, &["model.norm.safetensors", layer], None);
    run(dir.path(), &load).expect(0);
    for (file, folder, list, text) in [
        ("x.safetensors", "2_Dense", "modules.json", r#"[{"path": "2_Dense"}]"#),
        ("x.safetensors", "unet", "model_index.json", r#"{"unet": ["diffusers", "X"]}"#),
        ("x.safetensors", "original", "config.json", "{}"),
        ("model.safetensors", "fp32", "config.json", "{}"),
    ] {
        let below = format!("{folder}/model.safetensors");
        model(&m, &[file, &below]);
        fs::write(m.join(list), text).unwrap();
        let loaded = run(dir.path(), &load).expect(0);
        assert!(
            loaded.stderr.contains(&format!("weights in folders that are not part of the model: {below}"))
        );
    }
}

#[test]
fn an_index_of_another_name_decides_only_where_nothing_speaks_against_it() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    let load = ["load", "m", "--gpus", "none"];
    model(&m, &["model-a.safetensors", "model-b.safetensors"]);
    index(&m, "x.safetensors.index.json", &["model-a.safetensors"], None);
    run(dir.path(), &load).expect(2).one_error(&["x.safetensors.index.json", "model-b.safetensors"]);
    let variants = ["m-00001-of-00002.fp16.safetensors", "m-00002-of-00002.fp16.safetensors"];
    model(&m, &variants);
    index(&m, "m.safetensors.index.fp16.json", &variants, None);
    run(dir.path(), &load).expect(0);
    fs::remove_file(m.join(variants[1])).unwrap();
    run(dir.path(), &load).expect(2).one_error(&["index.fp16.json", variants[1], "not there"]);
    let texts: [(&[u8], &str); 3] = [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 5\n", "Git LFS pointer"),
        (b"\xff\xfe{\0\"\0", "UTF-16"),
        (b"{\"weight_map\": {\"a\": \"mod", "fetch it anew"),
    ];
    for (text, words) in texts {
        model(&m, &["model.safetensors"]);
        fs::write(m.join(MAIN), text).unwrap();
        run(dir.path(), &load).expect(2).one_error(&[MAIN, words]);
    }
}

#[test]
fn overwriting_takes_only_what_was_opened_and_what_tools_name_so() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let x = dir.path().join("models/x");
    let save = ["save", "--model", "odd", "--name", "x", "--overwrite"];
    for other in [
        "1_backup/model.safetensors",
        "tokenizer_experiments.txt",
        "vocab_my_notes.txt",
        "tensor.data_7",
        "zz.safetensors.index.json",
    ] {
        model(&x, &["model.safetensors"]);
        shard(&x.join(other), "mine", 3);
        let before = tree(&x);
        run(dir.path(), &save).expect(2).one_error(&["models/x", "does not delete"]);
        assert_eq!(tree(&x), before, "{other}");
    }
    model(&x, &["model.safetensors", "2_Dense/model.safetensors"]);
    fs::write(x.join("modules.json"), r#"[{"path": "2_Dense"}]"#).unwrap();
    fs::write(x.join("tokenizer.json"), "{}").unwrap();
    run(dir.path(), &save).expect(0);
}

#[test]
fn a_modules_pickle_goes_along() {
    let dir = temp_dir();
    let m = dir.path().join("m");
    model(&m, &["model.safetensors"]);
    for (name, text) in [
        ("modules.json", r#"[{"path": ""}, {"path": "2_Dense"}]"#),
        ("2_Dense/pytorch_model.bin", "PK"),
        ("3_Other/pytorch_model.bin", "PK"),
        ("voices/a.npz", "PK"),
    ] {
        fs::create_dir_all(m.join(name).parent().unwrap()).unwrap();
        fs::write(m.join(name), text).unwrap();
    }
    run(dir.path(), &["save", "--model", "m", "--name", "saved"]).expect(0);
    let saved = dir.path().join("models/saved");
    assert_eq!(names_in(&saved.join("2_Dense")), ["pytorch_model.bin"]);
    assert_eq!(names_in(&saved.join("voices")), ["a.npz"]);
    assert!(!saved.join("3_Other").exists());
}
