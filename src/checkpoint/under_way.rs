//! What unfinished downloads and copies leave, told by its path from the model's directory.

use sha1::{Digest, Sha1};

use crate::checkpoint::names::{SUFFIX, is_index, is_weights};

/// What programs put behind the name of a file that they are still fetching, or have beside it until it is whole.
const ENDS: [&str; 26] = [
    ".aria2",
    ".incomplete",
    ".part",
    ".partial",
    ".crdownload",
    ".download",
    ".downloading",
    "-downloading",
    ".cosresumabletask",
    ".td",
    ".td.cfg",
    ".jc!",
    ".opdownload",
    ".filepart",
    ".!ut",
    ".!qb",
    ".!sync",
    ".bc!",
    ".xltd",
    ".fdmdownload",
    ".dtapart",
    ".part.minio",
    ".lftp-pget-status",
    ".st",
    ".tmp",
    ".temp",
];

/// What is put behind the name of a file that is there only packed, in pieces, or as a pointer to it.
const STAND_IN_ENDS: [&str; 14] = [
    ".gz", ".zst", ".zstd", ".xz", ".bz2", ".lz4", ".br", ".zip", ".7z", ".tar", ".tar.gz", ".tgz", ".dvc",
    ".icloud",
];

/// What is put before such a name, less azcopy's.
const HEADS: [&str; 3] = [".syncthing.", "~syncthing~", ".unison."];

/// Where `hf download --local-dir` keeps what it is fetching, below the model's directory; the second is that of 2024.
const HUB_FOLDERS: [&str; 2] = [".cache/huggingface/download/", ".huggingface/download/"];

/// All such folders: modelscope's and rsync's, too, in which files have the names that they will have.
pub const FOLDERS: [&str; 5] = [HUB_FOLDERS[0], HUB_FOLDERS[1], "._____temp/", ".rsync-partial/", ".~tmp~/"];

/// Where the hub's cache keeps content, seen from a snapshot.
pub const BLOBS: &str = "../../blobs/";

/// Of what an unfinished download is.
#[derive(Debug, PartialEq, Eq)]
pub enum UnderWay {
    /// Of this safetensors file, or this index of such.
    Of(String),
    /// Nothing is under way, but this file may be there only in another form.
    StandsFor(String),
    /// Its name does not say.
    Unknown,
}

/// Whether this is what an unfinished download or copy of weights or of their index leaves.
pub fn under_way(path: &str) -> Option<UnderWay> {
    if let Some(blob) = path.strip_prefix(BLOBS) {
        return blob.ends_with(".incomplete").then_some(UnderWay::Unknown);
    }
    let folder = FOLDERS.iter().find(|folder| path.starts_with(**folder));
    let below = folder.map_or(path, |folder| &path[folder.len()..]);
    let (dir, name) = below.split_at(below.rfind('/').map_or(0, |at| at + 1));
    if folder.is_some_and(|folder| !HUB_FOLDERS.contains(folder)) && (is_weights(name) || is_index(name)) {
        return Some(UnderWay::Of(below.to_string()));
    }
    let (plain, has_head) = without_head(name);
    let Some((file, rest)) = file_and_rest(plain) else {
        let lower = name.to_ascii_lowercase();
        let is_hashed = folder.is_some() && lower.ends_with(".incomplete") && name.contains("=.");
        let is_megas = lower.starts_with(".getxfer.") && lower.ends_with(".mega");
        let is_chromes = lower.starts_with("unconfirmed ") && lower.ends_with(".crdownload");
        return (is_hashed || is_chromes || is_megas).then_some(UnderWay::Unknown);
    };
    let (file, rest) = (format!("{dir}{file}"), rest.to_ascii_lowercase());
    let is_hidden = name.starts_with('.');
    if has_head && (rest.is_empty() || rest.starts_with('.')) {
        return Some(UnderWay::Of(file));
    }
    let is_piece = rest.starts_with(".part")
        || rest.strip_prefix('.').is_some_and(|n| n.len() == 3 && n.bytes().all(|b| b.is_ascii_digit()));
    if ENDS.iter().any(|end| rest.ends_with(end)) {
        Some(UnderWay::Of(file))
    } else if is_piece || STAND_IN_ENDS.contains(&rest.as_str()) {
        Some(UnderWay::StandsFor(file))
    } else {
        is_of_copy(&rest, is_hidden).then_some(UnderWay::Of(file))
    }
}

/// Whether an unfinished download is of this file of the model.
pub fn is_under_way(path: &str, file: &str) -> bool {
    match under_way(path) {
        Some(UnderWay::Of(of)) => of == file,
        Some(UnderWay::Unknown) => is_hubs(path, file),
        _ => false,
    }
}

/// Whether this is what `hf download --local-dir` has of a file: `<hash>.<etag>.incomplete` in the file's own folder,
/// where the hash is the SHA-1 of `<file's name>.metadata` in base64.
fn is_hubs(path: &str, file: &str) -> bool {
    let Some(below) = HUB_FOLDERS.iter().find_map(|folder| path.strip_prefix(folder)) else { return false };
    let (dir, name) = file.split_at(file.rfind('/').map_or(0, |at| at + 1));
    let Some(found) = below.strip_prefix(dir) else { return false };
    let hash = base64(&Sha1::digest(format!("{name}.metadata")));
    found.strip_prefix(&hash).is_some_and(|rest| rest.starts_with('.'))
}

/// Base64 for names of files, padded.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits =
            three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= three.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// A name without what is put before it, and whether that says that it is under way.
fn without_head(name: &str) -> (&str, bool) {
    if let Some(plain) = HEADS.iter().find_map(|head| name.strip_prefix(head)) {
        return (plain, true);
    }
    // `.azDownload-<UUID>-<name>`
    const UUID_CHARS: usize = 36;
    if let Some(rest) = name.strip_prefix(".azDownload-") {
        let is_uuid = |id: &str| id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        let by_uuid = rest
            .split_at_checked(UUID_CHARS)
            .filter(|(id, _)| is_uuid(id))
            .and_then(|(_, n)| n.strip_prefix('-'));
        return (by_uuid.or(rest.split_once('-').map(|(_, n)| n)).unwrap_or(rest), true);
    }
    (name.strip_prefix('.').unwrap_or(name), false)
}

/// The safetensors file or the index that a name begins with, and what follows.
fn file_and_rest(name: &str) -> Option<(&str, &str)> {
    let end = name.to_ascii_lowercase().rfind(SUFFIX)? + SUFFIX.len();
    let index_ends = name[end..].match_indices(".json").map(|(at, json)| end + at + json.len());
    let end = index_ends.into_iter().find(|end| is_index(&name[..*end])).unwrap_or(end);
    Some(name.split_at(end))
}

/// Whether what follows a name (in lower case) is what a program that copies puts there: rsync and Nextcloud, to hidden
/// names, `.XXXXXX` and `.~1a2b`; aws `.6eF5d2Ab`, which no date is; gsutil `_.gstmp`.
fn is_of_copy(rest: &str, is_hidden: bool) -> bool {
    const NO_COPIES: [&str; 3] = ["sha256", "sha512", "backup"];
    let Some(word) = rest.strip_prefix('.') else { return rest.starts_with("_.gstmp") };
    let is_rsyncs = word.len() == 6 && word.bytes().all(|b| b.is_ascii_alphanumeric());
    let is_hex = word.len() == 8 && word.bytes().all(|b| b.is_ascii_hexdigit());
    (is_hidden && (word.starts_with('~') || (is_rsyncs && !NO_COPIES.contains(&word))))
        || (is_hex && !word.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_downloads_and_copies_are_told_by_their_names() {
        for (path, of) in [
            ("model.safetensors.aria2", "model.safetensors"),
            ("b.safetensors.part", "b.safetensors"),
            ("B.SAFETENSORS.crdownload", "B.SAFETENSORS"),
            ("model.safetensors.index.json.part", "model.safetensors.index.json"),
            (".cache/huggingface/download/b.safetensors.0a1b.incomplete", "b.safetensors"),
            (".cache/huggingface/download/l/b.safetensors.0a1b.incomplete", "l/b.safetensors"),
            (".huggingface/download/b.safetensors.0a1b.incomplete", "b.safetensors"),
            ("._____temp/b.safetensors", "b.safetensors"),
            (".rsync-partial/b.safetensors", "b.safetensors"),
            (".~tmp~/b.safetensors", "b.safetensors"),
            (".b.safetensors.Xa12bC", "b.safetensors"),
            ("l/.b.safetensors.Xa12bC", "l/b.safetensors"),
            (".model.safetensors.index.json.Xa12bC", "model.safetensors.index.json"),
            ("b.safetensors.6eF5d2Ab", "b.safetensors"),
            ("b.safetensors_.gstmp", "b.safetensors"),
            (".azDownload-6f9619ff-8b86-d011-b42d-00cf4fc964ff-b-1.safetensors", "b-1.safetensors"),
            (".azDownload-1234-b-1.safetensors", "b-1.safetensors"),
            ("b.safetensors.lftp-pget-status", "b.safetensors"),
            (".syncthing.b.safetensors.tmp", "b.safetensors"),
            ("~syncthing~b.safetensors.tmp", "b.safetensors"),
            (".unison.b.safetensors.0a1b.unison.tmp", "b.safetensors"),
            ("b.safetensors.8a1b2c3d.partial", "b.safetensors"),
            (".b.safetensors.~1a2b", "b.safetensors"),
        ] {
            assert_eq!(under_way(path), Some(UnderWay::Of(of.into())), "{path}");
            assert!(is_under_way(path, of) && !is_under_way(path, "x.safetensors"), "{path}");
        }
        for path in [
            ".cache/huggingface/download/Xyz123=.0a1b.incomplete",
            "../../blobs/0a1b.incomplete",
            "Unconfirmed 1234.crdownload",
        ] {
            assert_eq!(under_way(path), Some(UnderWay::Unknown), "{path}");
        }
        for path in [
            "b.safetensors.gz",
            "b.safetensors.zst",
            "b.safetensors.dvc",
            ".b.safetensors.icloud",
            "b.safetensors.001",
            "b.safetensors.partaa",
        ] {
            assert_eq!(under_way(path), Some(UnderWay::StandsFor("b.safetensors".into())), "{path}");
        }
        for path in [
            "model.safetensors",
            ".model.safetensors",
            "._model.safetensors",
            "pytorch_model.bin.part",
            "notes.tmp",
            ".cache/huggingface/download/b.safetensors.metadata",
            ".cache/huggingface/download/b.safetensors.lock",
            ".cache/huggingface/download/b.safetensors",
            "x.safetensors/readme.tmp",
            "../../blobs/0a1b",
            "b.safetensors.20240101",
            "b.safetensors.sha256",
            ".b.safetensors.sha256",
            "b.safetensors.Xa12bC",
            "b.safetensors.index.json",
            "b.safetensors.bak",
        ] {
            assert_eq!(under_way(path), None, "{path}");
        }
    }

    #[test]
    fn the_hubs_hashed_names_are_known_for_the_files_of_the_model() {
        // As huggingface_hub 2.4 makes it.
        let of = "model-00002-of-00002.safetensors";
        let hash = "Dr_lZJDwE1cnGAQMwA77jJEQIk8=";
        for (path, file, is) in [
            (format!(".cache/huggingface/download/{hash}.0a1b.incomplete"), of.to_string(), true),
            (format!(".huggingface/download/{hash}.0a1b.incomplete"), of.to_string(), true),
            (format!(".cache/huggingface/download/l/{hash}.0a1b.incomplete"), format!("l/{of}"), true),
            (format!(".cache/huggingface/download/l/{hash}.0a1b.incomplete"), of.to_string(), false),
            (format!(".cache/huggingface/download/{hash}.0a1b.incomplete"), format!("l/{of}"), false),
            (
                format!(".cache/huggingface/download/{hash}.0a1b.incomplete"),
                "model.safetensors".into(),
                false,
            ),
        ] {
            assert_eq!(is_under_way(&path, &file), is, "{path} {file}");
        }
        assert_eq!([&b""[..], b"f", b"fo", b"foo"].map(base64), ["", "Zg==", "Zm8=", "Zm9v"]);
    }
}
