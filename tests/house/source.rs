//! The crate's files, parsed: which paths each names, what it imports, re-exports and defines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::Visit;
use syn::{Attribute, Item, UseTree};

/// Segments of a path, from the crate's root or as they are written.
pub type Segments = Vec<String>;

/// One file of the crate.
#[derive(Default)]
pub struct File {
    /// `["load", "plan"]`; empty for lib.rs.
    pub module: Segments,
    /// What `use` brings in: the name here, and the path as written.
    pub imports: BTreeMap<String, Segments>,
    /// Paths with at least two segments, as written.
    pub paths: BTreeSet<Segments>,
    /// Globs that it re-exports.
    pub globs: Vec<Segments>,
    /// Names of the items that it defines.
    pub names: BTreeSet<String>,
    /// How many items it has that are neither `mod` nor `use`.
    pub items: usize,
}

/// All files below `src` but main.rs, which is a crate of its own.
pub fn read_all(src: &Path) -> Vec<File> {
    let mut files = Vec::new();
    let mut left = vec![src.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("main.rs") {
                files.push(read(src, &path));
            }
        }
    }
    files
}

fn read(src: &Path, path: &Path) -> File {
    let text = std::fs::read_to_string(path).unwrap();
    let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let module = path.strip_prefix(src).unwrap().with_extension("");
    let mut module: Segments = module.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module == ["lib"] {
        module.clear();
    }
    let mut file = File { module, ..File::default() };
    parsed.items.iter().for_each(|item| file.add(item));
    file
}

impl File {
    fn add(&mut self, item: &Item) {
        if is_for_tests(attributes(item)) {
            return;
        }
        match item {
            Item::Use(item) => self.add_use(&item.tree, Vec::new()),
            Item::Mod(item) => {
                item.content.iter().flat_map(|(_, items)| items).for_each(|item| self.add(item))
            }
            _ => {
                self.items += 1;
                self.names.extend(name_of(item));
                Paths(self).visit_item(item);
            }
        }
    }

    fn add_use(&mut self, tree: &UseTree, mut before: Segments) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_use(&path.tree, before);
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_use(tree, before.clone())),
            UseTree::Glob(_) => self.globs.push(before),
            UseTree::Name(name) if name.ident == "self" => {
                if let Some(last) = before.last().cloned() {
                    self.import(last, before);
                }
            }
            UseTree::Name(name) => {
                before.push(name.ident.to_string());
                self.import(name.ident.to_string(), before);
            }
            UseTree::Rename(rename) => {
                before.push(rename.ident.to_string());
                self.import(rename.rename.to_string(), before);
            }
        }
    }

    fn import(&mut self, name: String, path: Segments) {
        self.paths.insert(path.clone());
        self.imports.insert(name, path);
    }

    /// Paths in a macro's words, where no grammar tells them apart from others.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path = Segments::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end_path(&mut path);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    self.end_path(&mut path);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.add_tokens(group.stream());
                    }
                }
            }
        }
        self.end_path(&mut path);
    }

    fn end_path(&mut self, path: &mut Segments) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.paths.insert(path);
        }
    }
}

struct Paths<'a>(&'a mut File);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Segments = path.segments.iter().map(|s| s.ident.to_string()).collect();
        if segments.len() > 1 {
            self.0.paths.insert(segments);
        }
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, made: &'ast syn::Macro) {
        self.0.add_tokens(made.tokens.clone());
        syn::visit::visit_macro(self, made);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.0.add_tokens(list.tokens.clone());
        }
        syn::visit::visit_attribute(self, attribute);
    }

    fn visit_item(&mut self, item: &'ast Item) {
        if is_for_tests(attributes(item)) {
            return;
        }
        // `use` within a function counts for the file.
        if let Item::Use(item) = item {
            self.0.add_use(&item.tree, Vec::new());
        }
        syn::visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    let is_test = |a: &Attribute| match &a.meta {
        syn::Meta::List(list) if a.path().is_ident("cfg") => list.tokens.to_string() == "test",
        _ => false,
    };
    attributes.iter().any(is_test)
}
