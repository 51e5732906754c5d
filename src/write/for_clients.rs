//! What ServerlessLLM's clients need of a model beside its weights and its config: the sizes of its modules, from which they
//! make a map to devices before the model is built, and entries for tied weights that safetensors files leave out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::{Map, Value, json};

use crate::checkpoint::DType;
use crate::checkpoint::beside;
use crate::checkpoint::modules::{module_of, order};
use crate::write::known_models::{Known, is_of_head, known, weight};

/// Bytes of each module, as they are defined; layers are whole.
pub const MODULES_FILE: &str = "no_split_modules.json";
/// Modules that share a weight, and its bytes.
pub const TIED_FILE: &str = "tied_no_split_modules.json";

/// The types that their client makes tensors of; at any other it fails.
const CLIENTS_DTYPES: [DType; 9] = [
    DType::F16,
    DType::BF16,
    DType::F32,
    DType::F64,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::U8,
];

/// A tensor of the model.
pub struct Named<'a> {
    /// As the checkpoint calls it.
    pub name: &'a str,
    /// The type of its elements.
    pub dtype: DType,
    /// Bytes of its storage.
    pub bytes: u64,
    /// The tensor whose bytes it shares.
    pub tied_to: Option<usize>,
}

/// An entry of the index for a tensor that is not stored under this name.
#[derive(Debug, PartialEq, Eq)]
pub struct Alias {
    /// What clients ask for.
    pub name: String,
    /// The tensor that it is.
    pub of: usize,
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct ForClients {
    /// Names and texts of files.
    pub files: Vec<(String, String)>,
    /// Entries beside the model's own.
    pub aliases: Vec<Alias>,
    /// What a user should hear of it.
    pub notes: Vec<String>,
}

/// What clients need of these tensors. `config` is the text of the model's config.json, where it has one; files that the
/// model brings itself (`brought`) are not made anew.
pub fn for_clients(tensors: &[Named], config: Option<&str>, brought: &dyn Fn(&str) -> bool) -> ForClients {
    let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name).collect();
    let known = known(&names);
    let mut made = ForClients::default();
    made.notes.extend(note_of_types(tensors));
    match alias(tensors, &names, known, config) {
        Ok(alias) => made.aliases.extend(alias),
        Err(note) => made.notes.push(note),
    }
    // With the aliases: name, bytes, and the tensor whose bytes it has.
    let mut all: Vec<(&str, u64, usize)> =
        tensors.iter().enumerate().map(|(i, t)| (t.name, t.bytes, t.tied_to.unwrap_or(i))).collect();
    all.extend(made.aliases.iter().map(|alias| {
        let of = &tensors[alias.of];
        (alias.name.as_str(), of.bytes, of.tied_to.unwrap_or(alias.of))
    }));
    let files = [(MODULES_FILE, modules(&all, known)), (TIED_FILE, tied(&all))];
    made.files = files
        .into_iter()
        .filter(|(name, _)| !brought(name))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    made
}

/// Says which types their client fails at.
fn note_of_types(tensors: &[Named]) -> Option<String> {
    let mut unknown: BTreeMap<DType, Vec<String>> = BTreeMap::new();
    for tensor in tensors.iter().filter(|tensor| !CLIENTS_DTYPES.contains(&tensor.dtype)) {
        unknown.entry(tensor.dtype).or_default().push(tensor.name.to_string());
    }
    if unknown.is_empty() {
        return None;
    }
    let of_type = |(dtype, names): (&DType, &Vec<String>)| match names.len() {
        1 => format!("{} ('{}')", dtype.safetensors_name(), names[0]),
        more => format!("{} ({more} tensors, such as '{}')", dtype.safetensors_name(), names[0]),
    };
    let types: Vec<String> = unknown.iter().map(of_type).collect();
    Some(format!(
        "ServerlessLLM's client knows no tensors of {}, and fails at them; this program's loader takes them",
        beside::summary(&types)
    ))
}

/// The head where it is tied to the embedding and so not stored. Only the config can say that: a head that is missing may
/// have been in a shard that is lost. An error is a note.
fn alias(
    tensors: &[Named],
    names: &[&str],
    known: Option<&Known>,
    config: Option<&str>,
) -> Result<Option<Alias>, String> {
    let Some(config) = config else { return Ok(None) };
    let config: Map<String, Value> = serde_json::from_str(config).map_err(|error| {
        format!(
            "config.json is not the JSON that it should be ({error}): whether weights are tied is not known"
        )
    })?;
    let is_tied = config.get("tie_word_embeddings") == Some(&Value::Bool(true));
    let Some(known) = known else {
        let is_open = is_tied
            && !names.iter().any(|name| is_of_head(name))
            && tensors.iter().all(|t| t.tied_to.is_none());
        return match is_open {
            true => Err(
                "config.json says tie_word_embeddings: true, and by these names it is not known which weights are tied: \
                 ServerlessLLM's load_model fails where one that it looks for is stored under another name only"
                    .to_string(),
            ),
            false => Ok(None),
        };
    };
    let (head, embedding) = (weight(known.head), weight(known.embedding));
    let of = names.iter().position(|name| *name == embedding);
    if names.contains(&head.as_str()) {
        return Ok(None);
    }
    match of {
        Some(of) if is_tied => Ok(Some(Alias { name: head, of })),
        _ => Err(format!(
            "there is no {head}, and config.json does not say tie_word_embeddings: true. If it is {embedding}, add that \
             there, for ServerlessLLM's load_model; if not, the file that holds it is missing"
        )),
    }
}

/// Bytes of each module, in the order of their definition as far as that is known. A weight that two names of one module
/// share counts once.
fn modules(all: &[(&str, u64, usize)], known: Option<&Known>) -> Value {
    let names: Vec<&str> = all.iter().map(|(name, ..)| *name).collect();
    let mut sizes: Vec<(&str, u64)> = Vec::new();
    let mut place_of: HashMap<&str, usize> = HashMap::new();
    let mut counted: HashSet<(&str, usize)> = HashSet::new();
    for i in order(&names) {
        let (name, bytes, root) = all[i];
        let module = module_of(name);
        let place = *place_of.entry(module).or_insert_with(|| {
            sizes.push((module, 0));
            sizes.len() - 1
        });
        if counted.insert((module, root)) {
            sizes[place].1 += bytes;
        }
    }
    if let Some(known) = known {
        sizes.extend(
            known.empty.iter().filter(|module| !place_of.contains_key(**module)).map(|module| (*module, 0)),
        );
        sizes.sort_by_key(|(module, _)| known.rank(module));
    }
    sizes
        .into_iter()
        .map(|(module, bytes)| (module.to_string(), Value::from(bytes)))
        .collect::<Map<_, _>>()
        .into()
}

/// The modules that share a weight, and its bytes.
fn tied(all: &[(&str, u64, usize)]) -> Value {
    let mut sharing: BTreeMap<usize, (BTreeSet<&str>, u64)> = BTreeMap::new();
    for (name, bytes, root) in all {
        let (modules, shared_bytes) = sharing.entry(*root).or_default();
        modules.insert(module_of(name));
        *shared_bytes = *bytes;
    }
    sharing
        .values()
        .filter(|(modules, _)| modules.len() > 1)
        .map(|(modules, bytes)| json!([modules, bytes]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<'a>(tensors: &[(&'a str, u64, Option<usize>)]) -> Vec<Named<'a>> {
        let of = |&(name, bytes, tied_to): &(&'a str, u64, Option<usize>)| Named {
            name,
            dtype: DType::BF16,
            bytes,
            tied_to,
        };
        tensors.iter().map(of).collect()
    }

    const LLAMA: [(&str, u64, Option<usize>); 6] = [
        ("model.embed_tokens.weight", 1000, None),
        ("model.layers.0.a.weight", 10, None),
        ("model.layers.0.b.weight", 1, None),
        ("model.layers.1.a.weight", 20, None),
        ("model.layers.10.a.weight", 30, None),
        ("model.layers.2.a.weight", 40, None),
    ];
    const TIED: &str = r#"{"tie_word_embeddings": true}"#;

    fn text(made: &ForClients, name: &str) -> String {
        made.files.iter().find(|file| file.0 == name).map(|file| file.1.clone()).unwrap_or_default()
    }

    #[test]
    fn a_tied_llama_gets_an_alias_and_modules_as_they_are_defined() {
        let tensors = named(&[&LLAMA[..], &[("model.norm.weight", 5, None)]].concat());
        let made = for_clients(&tensors, Some(TIED), &|_| false);
        assert_eq!(made.aliases, [Alias { name: "lm_head.weight".into(), of: 0 }]);
        assert_eq!(made.notes, [""; 0]);
        assert_eq!(
            text(&made, MODULES_FILE),
            "{\"model.embed_tokens\":1000,\"model.layers.0\":11,\"model.layers.1\":20,\"model.layers.2\":40,\
             \"model.layers.10\":30,\"model.norm\":5,\"model.rotary_emb\":0,\"lm_head\":1000}"
        );
        assert_eq!(text(&made, TIED_FILE), r#"[[["lm_head","model.embed_tokens"],1000]]"#);
    }

    #[test]
    fn a_head_of_its_own_comes_last_and_is_not_tied() {
        let tensors = named(&[&[("lm_head.weight", 999, None)], &LLAMA[..]].concat());
        for config in [None, Some(TIED), Some("{}")] {
            let made = for_clients(&tensors, config, &|_| false);
            assert!(made.aliases.is_empty() && made.notes.is_empty(), "{config:?}");
            assert!(text(&made, MODULES_FILE).ends_with(r#""model.rotary_emb":0,"lm_head":999}"#));
            assert_eq!(text(&made, TIED_FILE), "[]");
        }
    }

    #[test]
    fn no_alias_without_the_configs_word_or_a_known_name() {
        let tensors = named(&LLAMA);
        for config in ["{}", r#"{"tie_word_embeddings": false}"#, r#"{"tie_word_embeddings": "true"}"#] {
            let made = for_clients(&tensors, Some(config), &|_| false);
            assert!(
                made.aliases.is_empty() && made.notes[0].contains("there is no lm_head.weight"),
                "{config}"
            );
        }
        let made = for_clients(&tensors, Some("no JSON"), &|_| false);
        assert!(made.aliases.is_empty() && made.notes[0].contains("not the JSON"));
        let made = for_clients(&named(&[("thing.weight", 1, None)]), Some(TIED), &|_| false);
        assert!(
            made.aliases.is_empty() && made.notes[0].contains("not known which weights"),
            "{:?}",
            made.notes
        );
        assert!(for_clients(&tensors, None, &|_| false).notes.is_empty());
    }

    #[test]
    fn stored_ties_are_told_and_count_once_in_a_module() {
        let tensors = named(&[("a.x", 8, None), ("a.y", 8, Some(0)), ("b.x", 8, Some(0)), ("c", 3, None)]);
        let made = for_clients(&tensors, Some(TIED), &|name| name == MODULES_FILE);
        assert_eq!(made.files.len(), 1, "what the model brings is not made anew");
        assert_eq!(text(&made, TIED_FILE), r#"[[["a","b"],8]]"#);
        let made = for_clients(&tensors, None, &|_| false);
        assert_eq!(text(&made, MODULES_FILE), r#"{"a":8,"b":8,"c":3}"#);
    }

    #[test]
    fn types_that_their_client_lacks_are_named() {
        let mut tensors = named(&LLAMA);
        assert!(for_clients(&tensors, None, &|_| false).notes.is_empty());
        tensors[1].dtype = DType::BOOL;
        tensors[2].dtype = DType::F8E4M3;
        tensors[3].dtype = DType::F8E4M3;
        let notes = for_clients(&tensors, None, &|_| false).notes;
        let named =
            "BOOL ('model.layers.0.a.weight'), F8_E4M3 (2 tensors, such as 'model.layers.0.b.weight')";
        assert!(notes.len() == 1 && notes[0].contains(named), "{notes:?}");
    }
}
