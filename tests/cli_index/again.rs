//! `index` over a directory that has an index, and where an index goes.

use std::fs;

use serde_json::json;

use crate::common::{flip_bit, run, served_tensors, temp_dir};
use crate::{LLAMA, wanted_bytes, write_llama, write_shards};

#[test]
fn digests_tell_damage() {
    let dir = temp_dir();
    let model = dir.path().join("hf");
    write_llama(&model, &json!({}));
    run(dir.path(), &["index", "hf"]).expect(0);
    let ran = run(dir.path(), &["verify", "hf"]).expect(2);
    ran.one_error(&["an index without digests", "`sllm-gds index ./hf --digests`", "--against"]);
    run(dir.path(), &["index", "hf", "--digests"]).expect(0);
    let verified = run(dir.path(), &["verify", "hf"]).expect(0);
    assert!(verified.stdout.contains("5 tensors against the digests of its index"), "{}", verified.stdout);
    // Without a word of digests those that are there stay, and are said to.
    fs::write(model.join("config.json"), r#"{"tie_word_embeddings": true}"#).unwrap();
    for wrote in ["indexed 5 tensors", "nothing was changed"] {
        let again = run(dir.path(), &["index", "hf"]).expect(0);
        assert!(again.stdout.contains(wrote) && again.stderr.contains("those of the last time"), "{again:?}");
    }
    run(dir.path(), &["verify", "hf"]).expect(0);
    let path = model.join("model-00002-of-00002.safetensors");
    flip_bit(&path, fs::metadata(&path).unwrap().len() - 1);
    let damaged = run(dir.path(), &["verify", "hf"]).expect(1);
    assert!(damaged.stderr.contains("model.norm.weight"), "{}", damaged.stderr);
    assert!(damaged.stderr.contains("on purpose, `sllm-gds index ./hf --digests`"), "{}", damaged.stderr);
    run(dir.path(), &["index", "hf", "--digests"]).expect(0);
    run(dir.path(), &["verify", "hf"]).expect(0);
    // Of files that are others they are of no use.
    write_shards(&model, &[LLAMA[0], ("model-00002-of-00002.safetensors", &[("model.norm.weight", 11)])]);
    let again = run(dir.path(), &["index", "hf"]).expect(0);
    assert!(again.stderr.contains("were of other files and are gone"), "{}", again.stderr);
    run(dir.path(), &["verify", "hf"]).expect(2).one_error(&["an index without digests"]);
}

#[test]
fn an_index_elsewhere_keeps_its_digests_too_and_lies_where_its_name_says() {
    let dir = temp_dir();
    write_llama(&dir.path().join("models/hf"), &json!({}));
    let first = run(dir.path(), &["index", "hf", "--to", "other", "--digests"]).expect(0);
    assert!(first.stdout.contains("to ./models/other"), "{}", first.stdout);
    assert!(!first.stderr.contains("does not lie below"), "{}", first.stderr);
    let again = run(dir.path(), &["index", "hf", "--to", "other"]).expect(0);
    assert!(again.stderr.contains("those of the last time"), "{}", again.stderr);
    run(dir.path(), &["verify", "other"]).expect(0);
    // As a path it is one from here, where a server would not look.
    let outside = run(dir.path(), &["index", "hf", "--to", "./other"]).expect(0);
    assert!(outside.stderr.contains("./other does not lie below ./models"), "{}", outside.stderr);
    assert_eq!(served_tensors(&dir.path().join("other")), wanted_bytes(&dir.path().join("models/hf")));
    for (args, words) in [
        (&["index", ""][..], &["a value is required", "DIR"][..]),
        (&["verify", ""], &["a value is required", "NAME"]),
        (&["index", "hf", "--to", ""], &["--to", "can't name a checkpoint"]),
        (&["index", "hf", "--to", "hf"], &["--to", "./models/hf is that from which is read"]),
    ] {
        let ran = run(dir.path(), args).expect(2);
        assert!(
            words.iter().all(|word| ran.stderr.contains(word)) && !ran.stderr.contains("--name"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn runs_at_the_same_time_find_each_others_index() {
    let dir = temp_dir();
    let model = dir.path().join("hf");
    write_llama(&model, &json!({}));
    let model = &model;
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| run(dir.path(), &["index", "hf"]))).collect();
        let wrote =
            runs.into_iter().map(|run| run.join().unwrap().expect(0).stdout.contains("indexed 5 tensors"));
        assert_eq!(wrote.filter(|wrote| *wrote).count(), 1, "one writes, and the others find it");
    });
    assert_eq!(served_tensors(model), wanted_bytes(model));
}
