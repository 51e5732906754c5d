//! The generated code of the server's interfaces is that of the files that describe them. `SLLM_GDS_WRITE_PROTO=1` writes it
//! anew; with `--no-default-features`, since what does not fit yet does not build.

use std::fs;
use std::path::Path;

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/wire");

#[test]
fn generated_code_is_that_of_the_proto_files() {
    let dir = tempfile::tempdir().unwrap();
    let described = protox::compile(["storage.proto", "sllm_gds.proto"], [format!("{DIR}/proto")]).unwrap();
    // Who builds the client alone does without a server's libraries.
    let built = tonic_prost_build::configure().server_mod_attribute(".", "#[cfg(feature = \"serve\")]");
    built.out_dir(dir.path()).compile_fds(described).unwrap();
    for name in ["storage.rs", "sllm_gds.v1.rs"] {
        let made = fs::read_to_string(dir.path().join(name)).unwrap();
        let here = Path::new(DIR).join("generated").join(name);
        if std::env::var_os("SLLM_GDS_WRITE_PROTO").is_some() {
            fs::write(&here, &made).unwrap();
        }
        let known = fs::read_to_string(&here).unwrap_or_default();
        assert!(
            known == made,
            "{} is not what its .proto says: run `SLLM_GDS_WRITE_PROTO=1 cargo test --no-default-features --test proto`",
            here.display()
        );
    }
}
