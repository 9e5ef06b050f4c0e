// SPDX-License-Identifier: Apache-2.0
//! A reader of Android.bp files: modules with their properties, no variables or operators.

use std::collections::BTreeMap;

/// A property's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Word(String),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// Every text in it.
    pub fn texts(&self) -> Vec<&str> {
        match self {
            Value::Text(text) => vec![text],
            Value::Word(_) => vec![],
            Value::List(values) => values.iter().flat_map(Value::texts).collect(),
            Value::Map(values) => values.values().flat_map(Value::texts).collect(),
        }
    }
}

/// A module: its type and properties.
#[derive(Debug, Clone)]
pub struct Module {
    pub kind: String,
    pub properties: BTreeMap<String, Value>,
}

impl Module {
    /// Texts of a property, none if it is absent.
    pub fn texts(&self, name: &str) -> Vec<&str> {
        self.properties
            .get(name)
            .map(Value::texts)
            .unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        self.texts("name").first().copied().unwrap_or_default()
    }

    pub fn is_true(&self, name: &str) -> bool {
        self.properties.get(name) == Some(&Value::Word("true".into()))
    }
}

/// Reads a whole file.
pub fn parse(text: &str) -> Result<Vec<Module>, String> {
    let mut reader = Reader { rest: text };
    let mut modules = Vec::new();
    while let Some(kind) = reader.word() {
        let Value::Map(properties) = reader.value()? else {
            return Err(format!("{kind} is not followed by its properties"));
        };
        modules.push(Module { kind, properties });
    }
    if reader.rest.is_empty() {
        Ok(modules)
    } else {
        Err(reader.unexpected("a module"))
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            let Some(comment) = self.rest.strip_prefix("//") else {
                return;
            };
            self.rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
        }
    }

    fn take(&mut self, sign: char) -> bool {
        self.skip();
        match self.rest.strip_prefix(sign) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> Option<String> {
        self.skip();
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then(|| word.to_owned())
    }

    fn value(&mut self) -> Result<Value, String> {
        if self.take('"') {
            let (text, rest) = self.rest.split_once('"').ok_or("a text is not closed")?;
            self.rest = rest;
            return Ok(Value::Text(text.into()));
        }
        if self.take('[') {
            let mut values = Vec::new();
            while !self.take(']') {
                values.push(self.value()?);
                if !self.take(',') && !self.rest.starts_with(']') {
                    return Err(self.unexpected(", or ]"));
                }
            }
            return Ok(Value::List(values));
        }
        if self.take('{') {
            let mut values = BTreeMap::new();
            while !self.take('}') {
                let name = self.word().ok_or_else(|| self.unexpected("a property"))?;
                if !self.take(':') {
                    return Err(self.unexpected(":"));
                }
                let value = self.value()?;
                if values.insert(name.clone(), value).is_some() {
                    return Err(format!("{name} twice"));
                }
                if !self.take(',') && !self.rest.starts_with('}') {
                    return Err(self.unexpected(", or }"));
                }
            }
            return Ok(Value::Map(values));
        }
        self.word()
            .map(Value::Word)
            .ok_or_else(|| self.unexpected("a value"))
    }

    fn unexpected(&self, wanted: &str) -> String {
        let seen: String = self.rest.chars().take(30).collect();
        format!("{wanted} expected at {seen:?}")
    }
}
