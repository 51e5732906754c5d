//! Which files of a listing go beside the weights: one rule for a directory and for the hub. Everything does but what
//! is another form of the weights, and that is named.

use anyhow::Result;
use serde::Deserialize;

use crate::checkpoint::names::{is_index, is_own, is_saved_index, is_weights};
use crate::checkpoint::under_way::under_way;

/// What becomes of the files of a listing that are not its weights.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Carried along: config, tokenizer, code, licence, folders of modules.
    pub carried: Vec<String>,
    /// Left where they are: other weights and other forms of them, remains. A folder ends with `/`.
    pub left_out: Vec<String>,
}

/// Weights in other formats, indices of those, remains of downloads, and films.
const LEFT_OUT_ENDS: [&str; 34] = [
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".gguf",
    ".sft",
    ".ggml",
    ".msgpack",
    ".h5",
    ".keras",
    ".onnx",
    ".onnx_data",
    ".onnx.data",
    ".ot",
    ".tflite",
    ".mlmodel",
    ".npz",
    ".nemo",
    ".llamafile",
    ".bin.index.json",
    ".incomplete",
    ".part",
    ".tmp",
    ".lock",
    ".crdownload",
    ".aria2",
    ".mp4",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
];

/// Folders that hold the same weights in another form, or states of a training.
const LEFT_OUT_FOLDERS: [&str; 13] = [
    "__pycache__",
    "original",
    "metal",
    "onnx",
    "openvino",
    "coreml",
    "tflite",
    "gguf",
    "ggml",
    "flax",
    "tf",
    "runs",
    "wandb",
];

/// The folders of a model's own modules, as sentence-transformers' `modules.json` names them.
pub fn modules(names: &[String], read: &dyn Fn(&str) -> Result<String>) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Module {
        path: String,
    }
    let Some(file) = names.iter().find(|name| *name == "modules.json") else { return Ok(Vec::new()) };
    let modules: Vec<Module> = serde_json::from_str(&read(file)?).unwrap_or_default();
    Ok(modules.into_iter().map(|module| module.path).filter(|path| !path.is_empty()).collect())
}

/// The folders that a listing says to hold more than a part of the weights at its top: modules, and the components
/// that diffusers' `model_index.json` names.
pub fn parts(names: &[String], read: &dyn Fn(&str) -> Result<String>) -> Result<Vec<String>> {
    let mut parts = modules(names, read)?;
    if let Some(file) = names.iter().find(|name| *name == "model_index.json") {
        let components: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&read(file)?).unwrap_or_default();
        parts.extend(components.into_iter().filter(|(_, of)| of.is_array()).map(|(folder, _)| folder));
    }
    Ok(parts)
}

/// Whether a path lies in one of these folders.
pub fn is_in(name: &str, folders: &[String]) -> bool {
    folders.iter().any(|folder| is_below(name, folder))
}

/// Sorts out the names of a listing (paths with `/`): `own` are the model's weights and index, `left_out` its other
/// weights, `modules` the folders of its modules. Hidden ones are passed over without a word.
pub fn beside(names: &[String], own: &[String], left_out: &[String], modules: &[String]) -> Beside {
    let mut found = Beside { carried: Vec::new(), left_out: left_out.to_vec() };
    let folder_of_index =
        |name: &'_ String| name.rsplit_once('/').is_some_and(|(_, file)| is_saved_index(file));
    let checkpoints_below: Vec<&str> = names
        .iter()
        .filter(|name| folder_of_index(name))
        .filter_map(|name| Some(name.rsplit_once('/')?.0))
        .collect();
    for name in names {
        if own.contains(name) || left_out.contains(name) || name.split('/').any(|part| part.starts_with('.'))
        {
            continue;
        }
        let below = checkpoints_below.iter().find(|dir| is_below(name, dir)).copied();
        match below.or_else(|| left_out_folder(name)) {
            Some(folder) => found.left_out.push(format!("{folder}/")),
            None if is_left_out(name) && !is_weights_of_module(name, names, modules) => {
                found.left_out.push(name.clone())
            }
            None => found.carried.push(name.clone()),
        }
    }
    for list in [&mut found.carried, &mut found.left_out] {
        list.sort();
        list.dedup();
    }
    found
}

fn is_below(name: &str, dir: &str) -> bool {
    name.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// A module has weights of its own, in whatever form where there are no safetensors.
fn is_weights_of_module(name: &str, names: &[String], modules: &[String]) -> bool {
    modules.iter().any(|module| {
        let in_other_form = [".bin", ".pt", ".pth"].iter().any(|end| name.ends_with(end));
        let has_own = || names.iter().any(|other| is_below(other, module) && is_weights(other));
        is_below(name, module) && in_other_form && !has_own()
    })
}

/// Whether a path lies in a folder that is left out as a whole.
pub fn is_in_left_out_folder(name: &str) -> bool {
    left_out_folder(name).is_some()
}

/// The folder of this name that is left out as a whole.
fn left_out_folder(name: &str) -> Option<&str> {
    let (folder, _) = name.split_once('/')?;
    let numbered = |head: &str| {
        folder.strip_prefix(head).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let training = numbered("checkpoint-") || numbered("global_step");
    (training || LEFT_OUT_FOLDERS.contains(&folder) || is_own(folder)).then_some(folder)
}

fn is_left_out(name: &str) -> bool {
    let lower = name.to_lowercase();
    let at_top = !name.contains('/');
    // In folders, arrays are what a model works with, such as voices.
    let is_form = |end: &str| lower.ends_with(end) && (at_top || end != ".npz");
    LEFT_OUT_ENDS.iter().any(|end| is_form(end))
        || under_way(name).is_some()
        || (at_top && (is_index(name) || is_weights(name) || is_own(name)))
}

/// Config and tokenizer: what a single file takes along, for its folder may hold anything.
pub fn is_config_or_tokenizer(name: &str) -> bool {
    const NAMES: [&str; 12] = [
        "config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "merges.txt",
        "spiece.model",
        "params.json",
        "tekken.json",
        "quantize_config.json",
        "hf_quant_config.json",
        "recipe.yaml",
        "no_split_modules.json",
    ];
    const HEADS: [&str; 9] = [
        "tokenizer",
        "vocab",
        "sentencepiece",
        "preprocessor_config",
        "processor_config",
        "video_preprocessor_config",
        "chat_template",
        "tied_no_split_modules",
        "adapter_config",
    ];
    let texts = [".json", ".txt", ".model", ".tiktoken", ".jinja", ".bpe", ".spm", ".vocab"];
    !name.contains('/')
        && (NAMES.contains(&name)
            || [".tiktoken", ".spm", ".bpe"].iter().any(|end| name.ends_with(end))
            || (HEADS.iter().any(|head| name.starts_with(head))
                && texts.iter().any(|end| name.ends_with(end))))
}

/// Names that tools give to what describes a model. Others that look alike may be somebody's own work.
const DESCRIBES: [&str; 30] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "params.json",
    "tekken.json",
    "quantize_config.json",
    "hf_quant_config.json",
    "recipe.yaml",
    "no_split_modules.json",
    "tied_no_split_modules.json",
    "adapter_config.json",
    "modules.json",
    "model_index.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer.tiktoken",
];

/// Whether a file may be replaced with the checkpoint that it lies in, where nothing records what belongs to that: `own`
/// are the weights and indices that the checkpoint was opened by, `modules` its modules' folders. Code is never: it may
/// be somebody's own work.
pub fn is_a_checkpoints(name: &str, own: &[String], modules: &[String]) -> bool {
    if own.iter().any(|file| file == name) {
        return true;
    }
    if let Some((_, file)) = name.rsplit_once('/') {
        return is_in(name, modules) && (is_weights(file) || DESCRIBES.contains(&file));
    }
    let describes = ["README", "LICENSE", "NOTICE", "USE_POLICY"]
        .iter()
        .any(|head| name.strip_prefix(head).is_some_and(|rest| ["", ".md", ".txt"].contains(&rest)));
    // Endings that only tokenizers have.
    let is_tokenizer = [".tiktoken", ".spm", ".bpe"].iter().any(|end| name.ends_with(end));
    DESCRIBES.contains(&name) || is_tokenizer || describes
}

/// A few of these names, and how many more there are.
pub fn summary(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match (names.len(), names.len().saturating_sub(SHOWN)) {
        (0, _) => "nothing at all".to_string(),
        (_, 0) => shown,
        (_, more) => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted_out(names: &[&str], weights: &[&str]) -> (Vec<String>, Vec<String>) {
        let own = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<String>>();
        let found = beside(&own(names), &own(weights), &[], &[]);
        (found.carried, found.left_out)
    }

    #[test]
    fn everything_but_other_weights_is_carried() {
        let carried = [
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "LICENSE",
            "README.md",
            "config.json",
            "modeling_x.py",
            "source.spm",
            "tokenizer.model",
            "vocab.bpe",
        ];
        let left_out = [
            "checkpoint-500/",
            "consolidated.safetensors.index.json",
            "demo.mp4",
            "foo-Q4_K_M.gguf",
            "model-00002-of-00002.safetensors.incomplete",
            "mtp.safetensors",
            "original/",
            "pytorch_model.bin",
            "pytorch_model.bin.index.json",
            "rank_0/",
            "tensor.data_0",
            "tensor_index.json",
        ];
        let mut names: Vec<&str> =
            carried.iter().chain(&left_out).copied().filter(|n| !n.ends_with('/')).collect();
        names.extend(["original/model.safetensors", "original/params.json", "checkpoint-500/optimizer.pt"]);
        names.extend(["rank_0/tensor_index.json", "rank_0/tensor.data_0", "model.safetensors"]);
        names.extend([".gitattributes", ".cache/x.json", "1_Pooling/.hidden"]);
        let found = sorted_out(&names, &["model.safetensors"]);
        assert_eq!(found.0, carried);
        assert_eq!(found.1, left_out);
    }

    #[test]
    fn a_single_file_takes_config_and_tokenizer() {
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "qwen.tiktoken"]
        {
            assert!(is_config_or_tokenizer(name), "{name}");
        }
        for name in ["x.ckpt", "film.mp4", "notes.txt", "other.safetensors", "vocab.pt", "a/config.json"] {
            assert!(!is_config_or_tokenizer(name), "{name}");
        }
    }

    #[test]
    fn modules_keep_their_weights_in_whatever_form() {
        let names: Vec<String> = [
            "2_Dense/pytorch_model.bin",
            "3_Dense/model.safetensors",
            "3_Dense/pytorch_model.bin",
            "voices/a.npz",
        ]
        .map(str::to_string)
        .to_vec();
        let modules = ["2_Dense", "3_Dense"].map(str::to_string);
        let found = beside(&names, &[], &[], &modules);
        assert_eq!(found.carried, ["2_Dense/pytorch_model.bin", "3_Dense/model.safetensors", "voices/a.npz"]);
        assert_eq!(found.left_out, ["3_Dense/pytorch_model.bin"]);
        let listed = ["modules.json", "model_index.json"].map(str::to_string);
        let read = |name: &str| {
            Ok(match name {
                "modules.json" => r#"[{"path": ""}, {"path": "1_Pooling"}]"#,
                _ => r#"{"_class_name": "X", "unet": ["diffusers", "Y"]}"#,
            }
            .to_string())
        };
        assert_eq!(
            modules_of(&listed, &read),
            (vec!["1_Pooling".into()], vec!["1_Pooling".into(), "unet".into()])
        );
        assert_eq!(modules_of(&listed, &|_| Ok("no JSON".into())), (vec![], vec![]));
    }

    fn modules_of(names: &[String], read: &dyn Fn(&str) -> Result<String>) -> (Vec<String>, Vec<String>) {
        (modules(names, read).unwrap(), parts(names, read).unwrap())
    }

    #[test]
    fn what_no_checkpoint_has_is_told_from_what_it_has() {
        let own = ["tensor.data_12", "model.safetensors"].map(str::to_string);
        let modules = ["1_Pooling"].map(str::to_string);
        for name in ["tensor.data_12", "model.safetensors", "README.md", "LICENSE", "1_Pooling/config.json"] {
            assert!(is_a_checkpoints(name, &own, &modules), "{name}");
        }
        for name in [
            "notes.txt",
            "x.gguf",
            "pytorch_model.bin",
            "src/main.py",
            "modeling_x.py",
            "tensor.data_x",
            "1_x/notes",
            "1_backup/model.safetensors",
            "tensor.data_7",
            "other.safetensors",
            "zz.safetensors.index.json",
            "tokenizer_experiments.txt",
            "vocab_my_notes.txt",
            "1_Pooling/notes.txt",
        ] {
            assert!(!is_a_checkpoints(name, &own, &modules), "{name}");
        }
    }
}
