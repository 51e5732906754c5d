//! Texts that stand often, each kept once: descriptions of many machines repeat the same few.

use std::collections::HashMap;

/// Texts by number.
#[derive(Debug, Default)]
pub struct Interner {
    texts: Vec<String>,
    indices: HashMap<String, u32>,
    /// Those that were JSON numbers.
    numbers: HashMap<u32, f64>,
}

impl Interner {
    pub fn index(&mut self, text: &str) -> u32 {
        if let Some(index) = self.indices.get(text) {
            return *index;
        }
        let index = self.texts.len() as u32;
        self.texts.push(text.to_string());
        self.indices.insert(text.to_string(), index);
        index
    }

    pub fn get(&self, index: u32) -> &str {
        self.texts.get(index as usize).map_or("", String::as_str)
    }

    pub fn set_number(&mut self, index: u32, number: f64) {
        self.numbers.insert(index, number);
    }

    pub fn number(&self, index: u32) -> Option<f64> {
        self.numbers.get(&index).copied()
    }
}
