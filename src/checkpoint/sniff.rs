//! What a file is, told by its first bytes, for the error about one that is no safetensors file.

/// Bytes enough to tell.
pub const BYTES: usize = 512;

/// What begins like this and what to do about it; `None` where nothing is known.
pub fn tell(first: &[u8], file_bytes: u64) -> Option<String> {
    // A length below 2^48 and then a header's first brace: safetensors, if a damaged one.
    if first.get(6..9) == Some(b"\0\0{") {
        return None;
    }
    let shown = String::from_utf8_lossy(first);
    let shown = shown.trim_start_matches('\u{feff}').trim_start();
    let text = shown.to_lowercase();
    let begins = |with: &[u8]| first.starts_with(with);
    if let Some(told) = merge_conflict(shown) {
        return Some(told);
    }
    let what = if text.starts_with("version https://git-lfs") {
        "a Git LFS pointer, not the weights themselves: run `git lfs pull` where it was cloned, or fetch it anew"
    } else if begins(b"GGUF") {
        "a GGUF file, which llama.cpp reads: take the model's safetensors files"
    } else if begins(b"PK\x03\x04") {
        "a zip archive (PyTorch's own format is one): unpickling runs code, so it is not read; convert it once with \
         transformers: AutoModelForCausalLM.from_pretrained(dir).save_pretrained(new_dir)"
    } else if begins(b"\x80\x02") || begins(b"\x80\x04") {
        "a Python pickle: unpickling runs code, so it is not read; take the model's safetensors files"
    } else if begins(b"\x89HDF") {
        "an HDF5 file (Keras or TensorFlow): take the model's safetensors files"
    } else if begins(b"\x1f\x8b") {
        "compressed by gzip: unpack it first"
    } else if begins(b"\x28\xb5\x2f\xfd") {
        "compressed by zstd: unpack it first"
    } else if begins(b"\x00\x05\x16\x07") {
        "an AppleDouble file, which macOS writes beside others (their names begin with ._): remove it"
    } else if text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml") {
        "a web page (an error or a login page, saved by a download that failed): fetch it anew"
    } else if text.starts_with('{') || text.starts_with('[') {
        "JSON text, such as an index of shards or a config: point at the directory that holds the weights"
    } else if first.iter().all(|byte| *byte == 0) && !first.is_empty() {
        "zeros where its header should be: a download that was not finished; fetch it anew"
    } else if first.get(257..262) == Some(b"ustar") {
        "a tar archive: unpack it first"
    } else if begins(b"\xff\xfe") || begins(b"\xfe\xff") {
        "text in UTF-16: save it as UTF-8"
    } else if is_text(first) {
        let line = shown.lines().next().unwrap_or_default();
        let shown: String = line.chars().take(SHOWN_CHARS).collect();
        return Some(format!(
            "text that begins '{shown}' (an answer of a server, saved by a download that failed): fetch it anew \
             ({file_bytes} bytes)"
        ));
    } else {
        return None;
    };
    Some(format!("{what} ({file_bytes} bytes)"))
}

/// What to say of a text with a merge conflict of git's; `None` where it has none.
pub fn merge_conflict(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("<<<<<<< "))?;
    let shown: String = line.chars().take(SHOWN_CHARS).collect();
    Some(format!(
        "a merge that git could not finish (it has the line '{shown}'): resolve the conflict, or fetch the file anew"
    ))
}

/// How much of a text is shown.
const SHOWN_CHARS: usize = 60;

fn is_text(first: &[u8]) -> bool {
    let is_plain = |byte: &u8| matches!(byte, b'\n' | b'\r' | b'\t' | b' '..=b'~');
    !first.is_empty() && first.iter().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_given_as_weights_are_told() {
        for (first, words) in [
            (&b"version https://git-lfs.github.com/spec/v1\noid"[..], "Git LFS pointer"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"PK\x03\x04\0\0", "zip"),
            (b"\x80\x02}q", "pickle"),
            (b"<!DOCTYPE html><html>", "web page"),
            (b"\n <html>", "web page"),
            (b"{\"metadata\": {}", "JSON"),
            (b"\x89HDF\r\n", "HDF5"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\x28\xb5\x2f\xfd", "zstd"),
            (b"\0\0\0\0\0\0\0\0", "zeros"),
        ] {
            let told = tell(first, 12).unwrap_or_default();
            assert!(told.contains(words) && told.contains("12 bytes"), "{first:?}: {told}");
        }
        let tar = [&b"model/"[..], &[0; 251], b"ustar\x0000"].concat();
        for (first, words) in [
            (&b"Access to model is restricted."[..], "text that begins 'Access to model is restricted.'"),
            (b"\xff\xfe{\0", "UTF-16"),
            (&tar, "tar archive"),
        ] {
            let told = tell(first, 12).unwrap_or_default();
            assert!(told.contains(words) && told.contains("12 bytes"), "{first:?}: {told}");
        }
        assert_eq!(tell(b"{\0\0\0\0\0\0\0{\"a\":", 100), None, "a header of 123 bytes");
    }
}
