//! `export`, as a user runs it.
#![cfg(feature = "cli")]

use std::fs;

use common::{names_in, run, safetensors_in, temp_dir, tree, upstream, write_odd_model};

mod common;

#[test]
fn what_was_saved_from_safetensors_comes_back_byte_for_byte() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    fs::create_dir(dir.path().join("one")).unwrap();
    let shard = dir.path().join("odd/model-00001-of-00002.safetensors");
    fs::copy(shard, dir.path().join("one/weights.safetensors")).unwrap();
    let mut models = vec![dir.path().join("odd"), dir.path().join("one")];
    models.extend(upstream().map(|dir| dir.join("safetensors")));
    for (i, model) in models.iter().enumerate() {
        let (name, to) = (format!("m{i}"), format!("back{i}"));
        let save = ["save", "--model", model.to_str().unwrap(), "--name", &name, "--partitions", "2"];
        run(dir.path(), &save).expect(0);
        let report = run(dir.path(), &["export", &name, "--to", &to, "--json"]).expect(0).json();
        assert_eq!(tree(&dir.path().join(&to)), tree(model));
        assert_eq!(report["path"], to.as_str());
        let files = report["files"].as_array().unwrap();
        let sizes = files.iter().map(|f| fs::metadata(dir.path().join(f.as_str().unwrap())).unwrap().len());
        assert_eq!(report["bytes"], sizes.sum::<u64>());
    }
}

#[test]
fn a_checkpoint_saved_twice_still_comes_back() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    run(dir.path(), &["save", "--model", "odd", "--name", "first"]).expect(0);
    let again = ["save", "--model", "models/first", "--name", "second", "--max-partition-size", "16KB"];
    run(dir.path(), &again).expect(0);
    run(dir.path(), &["export", "second", "--to", "back"]).expect(0);
    assert_eq!(tree(&dir.path().join("back")), tree(&dir.path().join("odd")));
}

#[test]
fn one_shard_of_many_comes_back_as_a_model_of_its_own() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let shard = "odd/model-00001-of-00002.safetensors";
    run(dir.path(), &["save", "--model", shard, "--name", "half"]).expect(0);
    run(dir.path(), &["export", "half", "--to", "back"]).expect(0);
    run(dir.path(), &["verify", "half", "--against", "back"]).expect(0);
}

#[test]
fn new_shards_hold_the_same_tensors_and_no_more_than_asked() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    run(dir.path(), &["save", "--model", "odd"]).expect(0);
    run(dir.path(), &["export", "odd", "--to", "back", "--max-shard-size", "20KB"]).expect(0);
    let back = dir.path().join("back");
    assert_eq!(safetensors_in(&back), safetensors_in(&dir.path().join("odd")));
    let shards: Vec<String> = names_in(&back).into_iter().filter(|n| n.ends_with(".safetensors")).collect();
    assert!(shards.len() > 2);
    for (i, shard) in shards.iter().enumerate() {
        assert_eq!(*shard, format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len()));
        let bytes = fs::read(back.join(shard)).unwrap();
        let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap()) + 8;
        assert!(bytes.len() as u64 - header_bytes <= 20 << 10, "{shard} is too large");
    }
    assert!(back.join("tokenizer.json").is_file() && back.join("model.safetensors.index.json").is_file());
    run(dir.path(), &["verify", "odd", "--against", "back"]).expect(0);

    run(dir.path(), &["export", "odd", "--to", "one", "--max-shard-size", "1GB"]).expect(0);
    let one = dir.path().join("one");
    assert_eq!(names_in(&one), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(safetensors_in(&one), safetensors_in(&dir.path().join("odd")));
}

#[test]
fn serverlessllms_own_checkpoint_becomes_safetensors() {
    let Some(upstream) = upstream() else { return };
    let dir = temp_dir();
    let theirs = upstream.join("sllm");
    run(dir.path(), &["export", theirs.to_str().unwrap(), "--to", "back"]).expect(0);
    let back = safetensors_in(&dir.path().join("back"));
    for (name, tensor) in safetensors_in(&upstream.join("safetensors")) {
        assert!(back[&name] == tensor, "{name}");
    }
    assert!(back["lm_head.weight"] == back["model.embed_tokens.weight"]);
    assert!(dir.path().join("back/config.json").is_file());
    run(dir.path(), &["verify", theirs.to_str().unwrap(), "--against", "back"]).expect(0);
}

#[test]
fn what_exists_stays_without_overwrite_and_goes_with_it() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    let export = ["export", "odd", "--to", "back", "--max-shard-size", "1GB"];
    run(dir.path(), &export).expect(0);
    let before = tree(&dir.path().join("back"));
    let again = ["export", "odd", "--to", "back", "--max-shard-size", "20KB"];
    run(dir.path(), &again).expect(2).one_error(&["back exists", "--overwrite"]);
    assert_eq!(tree(&dir.path().join("back")), before);
    run(dir.path(), &[&again[..], &["--overwrite"]].concat()).expect(0);
    assert!(!dir.path().join("back/model.safetensors").exists());
    assert_eq!(names_in(dir.path()), ["back", "odd"]);
    run(dir.path(), &["export", "nowhere", "--to", "x"]).expect(2).one_error(&["nowhere does not exist"]);
}

#[test]
fn overwrite_replaces_a_checkpoint_and_nothing_else() {
    let dir = temp_dir();
    write_odd_model(&dir.path().join("odd"));
    fs::create_dir(dir.path().join("work")).unwrap();
    fs::write(dir.path().join("work/notes"), "not a checkpoint").unwrap();
    run(dir.path(), &["export", "odd", "--to", "work", "--overwrite"]).expect(2).one_error(&["work"]);
    assert_eq!(names_in(&dir.path().join("work")), ["notes"]);
}
