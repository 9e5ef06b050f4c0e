// SPDX-License-Identifier: Apache-2.0
//! The types that have values inside: lists and sections.

use std::marker::PhantomData;

use serde_json::{json, Value as Json};

use super::json::{Node, Value};
use super::keys::{Keys, TWICE};
use super::report::Report;
use super::table::{Absent, Section, Sections};
use super::types::{described, mismatch, outside, Description, Type};

/// A list.
pub(super) struct List<T> {
    most: usize,
    item: T,
}

/// A list of at most `most` items.
pub(super) fn list<T: Type>(most: usize, item: T) -> List<T> {
    List { most, item }
}

impl<T: Type> List<T> {
    /// Every wrong item is reported.
    fn items(&self, items: &[Node], key: &str, report: &mut Report) -> Option<Vec<T::Value>> {
        if items.len() > self.most {
            let (found, most) = (items.len(), self.most);
            let what = format!("has {found} items; at most {most} are possible");
            report.add(key, outside(what));
            return None;
        }
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let key = item_key(key, index);
            report.found(key.clone(), item.position);
            values.push(self.item.read(item, &key, report));
        }
        values.into_iter().collect()
    }
}

impl<T: Type> Type for List<T> {
    type Value = Vec<T::Value>;

    fn read(&self, node: &Node, key: &str, report: &mut Report) -> Option<Self::Value> {
        let Value::List(items) = &node.value else {
            report.add(key, mismatch("a list […]", node));
            return None;
        };
        self.items(items, key, report)
    }

    fn write(&self, value: &Self::Value) -> Json {
        value.iter().map(|value| self.item.write(value)).collect()
    }

    fn describe(&self) -> Description {
        let item = self.item.describe();
        let limits = match (item.limits.as_str(), item.rows.is_empty()) {
            ("", _) | (_, false) => format!("at most {}", self.most),
            (limits, true) => format!("at most {}; {limits}", self.most),
        };
        Description {
            name: match item.name.contains(' ') {
                true => "list".to_owned(),
                false => format!("list of {}s", item.name),
            },
            limits,
            schema: json!({ "type": "array", "maxItems": self.most, "items": item.schema }),
            rows: item.rows,
        }
    }

    fn sections(&self, path: &str, found: &mut Sections) {
        self.item.sections(&format!("{path}[]"), found);
    }
}

/// The path of a list's item.
pub(super) fn item_key(key: &str, index: usize) -> String {
    format!("{key}[{index}]")
}

/// One item, or a list of at least one.
pub(super) struct OneOrList<T> {
    list: List<T>,
    /// No item twice.
    distinct: bool,
}

/// An item or a list of 1 to `most`.
pub(super) fn one_or_list<T: Type>(most: usize, item: T) -> OneOrList<T> {
    OneOrList { list: list(most, item), distinct: false }
}

impl<T> OneOrList<T> {
    pub fn distinct(mut self) -> Self {
        self.distinct = true;
        self
    }
}

impl<T: Type> Type for OneOrList<T>
where
    T::Value: PartialEq,
{
    type Value = Vec<T::Value>;

    fn read(&self, node: &Node, key: &str, report: &mut Report) -> Option<Self::Value> {
        let Value::List(items) = &node.value else {
            return Some(vec![self.list.item.read(node, key, report)?]);
        };
        let values = self.list.items(items, key, report)?;
        if values.is_empty() {
            report.add(key, outside("expected at least one item, found an empty list"));
            return None;
        }
        for (index, value) in values.iter().enumerate() {
            if self.distinct && values[..index].contains(value) {
                let what = format!("names {} twice", self.list.item.write(value));
                report.add(&item_key(key, index), TWICE.case(what));
                return None;
            }
        }
        Some(values)
    }

    fn write(&self, value: &Self::Value) -> Json {
        self.list.write(value)
    }

    fn describe(&self) -> Description {
        let item = self.list.item.describe();
        let mut list = self.list.describe().schema;
        list["minItems"] = 1.into();
        if self.distinct {
            list["uniqueItems"] = true.into();
        }
        Description {
            name: format!("{} or list", item.name),
            limits: match self.distinct {
                true => format!("{}, each once", item.limits),
                false => item.limits,
            },
            schema: json!({ "oneOf": [item.schema, list] }),
            rows: Vec::new(),
        }
    }
}

/// A section.
pub(super) struct Object<S>(PhantomData<S>);

/// The section whose keys are those of `S`.
pub(super) fn section<S: Section>() -> Object<S> {
    Object(PhantomData)
}

impl<S: Section> Type for Object<S> {
    type Value = S;

    fn read(&self, node: &Node, key: &str, report: &mut Report) -> Option<S> {
        let keys = Keys::of(node, key, S::KEYS, report)?;
        S::read(&keys, report)
    }

    fn write(&self, value: &S) -> Json {
        value.write().into()
    }

    fn describe(&self) -> Description {
        let rows = S::rows();
        let mut properties = serde_json::Map::new();
        let mut required = Vec::new();
        for row in &rows {
            let mut property = row.of.schema.clone();
            property["description"] = row.text.into();
            match &row.absent {
                Absent::Mistake => required.push(row.key),
                Absent::Value(default) => property["default"] = default.clone(),
                Absent::EmptySection | Absent::None => {}
            }
            properties.insert(row.key.into(), property);
        }
        let schema = json!({
            "type": "object",
            "additionalProperties": false,
            "required": required,
            "properties": properties,
        });
        Description { rows, ..described("object", "", schema) }
    }

    fn sections(&self, path: &str, found: &mut Sections) {
        found.push((path.to_owned(), S::KEYS));
        S::sections(path, found);
    }
}
