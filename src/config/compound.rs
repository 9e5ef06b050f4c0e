// SPDX-License-Identifier: Apache-2.0
//! The types that have values inside: lists and sections.

use std::marker::PhantomData;

use super::keys::{Keys, TWICE};
use super::report::Report;
use super::table::Section;
use super::types::{mismatch, Form, Type, VALUE};
use crate::json::{Node, Value};

/// A list.
pub(super) struct List<T> {
    item: T,
    most: usize,
    /// An item may stand for a list of it alone; the list is not empty.
    or_one: bool,
    /// No item twice.
    distinct: bool,
}

/// A list of at most `most` items.
pub(super) fn list<T: Type>(most: usize, item: T) -> List<T> {
    List { item, most, or_one: false, distinct: false }
}

/// An item or a list of 1 to `most`.
pub(super) fn one_or_list<T: Type>(most: usize, item: T) -> List<T> {
    List { or_one: true, ..list(most, item) }
}

impl<T> List<T> {
    pub fn distinct(self) -> Self {
        Self { distinct: true, ..self }
    }
}

impl<T: Type> Type for List<T> {
    type Value = Vec<T::Value>;

    /// Every wrong item is reported.
    fn read(&self, node: &Node, key: &str, report: &mut Report) -> Option<Self::Value> {
        let wrong = match &node.value {
            Value::List(items) if items.is_empty() && self.or_one => {
                VALUE.case("expected at least one item, found an empty list")
            }
            Value::List(items) if items.len() > self.most => {
                let (found, most) = (items.len(), self.most);
                VALUE.case(format!("has {found} items; at most {most} are possible"))
            }
            Value::List(items) => return self.read_items(items, key, report),
            _ if self.or_one => return Some(vec![self.item.read(node, key, report)?]),
            _ => mismatch("a list […]", node),
        };
        report.add(key, wrong);
        None
    }

    fn write(&self, value: &Self::Value) -> Value<'static> {
        value.iter().map(|value| self.item.write(value)).collect::<Vec<_>>().into()
    }

    fn form(&self) -> Form {
        let Self { most, or_one, distinct, .. } = *self;
        Form::List { item: Box::new(self.item.form()), most, or_one, distinct }
    }
}

impl<T: Type> List<T> {
    fn read_items(&self, items: &[Node], key: &str, report: &mut Report) -> Option<Vec<T::Value>> {
        let mut values = Vec::new();
        let mut seen = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let key = item_key(key, index);
            report.found(key.clone(), item.position);
            let Some(value) = self.item.read(item, &key, report) else { continue };
            if self.distinct {
                // As a file has them, because that is one type.
                let written = self.item.write(&value);
                if seen.contains(&written) {
                    report.add(&key, TWICE.case(format!("names {written} twice")));
                }
                seen.push(written);
            }
            values.push(value);
        }
        (values.len() == items.len()).then_some(values)
    }
}

/// The path of a list's item.
pub(super) fn item_key(key: &str, index: usize) -> String {
    format!("{key}[{index}]")
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

    fn write(&self, value: &S) -> Value<'static> {
        value.write()
    }

    fn form(&self) -> Form {
        Form::Section(S::rows())
    }
}
