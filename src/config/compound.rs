// SPDX-License-Identifier: Apache-2.0
//! The types that have values inside: lists and sections.

use std::marker::PhantomData;

use super::keys::{Keys, TWICE};
use super::report::Report;
use super::table::Section;
use super::types::{mismatch, Form, Type, VALUE};
use crate::json::{Node, Value};
use crate::list::Listed;

/// A list.
pub(super) struct List<T> {
    item: T,
    limits: Limits,
}

/// What a list may be, whatever its items are.
#[derive(Clone, Copy)]
struct Limits {
    most: usize,
    /// An item may stand for a list of it alone; the list is not empty.
    or_one: bool,
    /// No item twice.
    distinct: bool,
}

/// A list of at most `most` items.
pub(super) const fn list<T>(most: usize, item: T) -> List<T> {
    List { item, limits: Limits { most, or_one: false, distinct: false } }
}

/// An item or a list of 1 to `most`.
pub(super) const fn one_or_list<T>(most: usize, item: T) -> List<T> {
    List { item, limits: Limits { most, or_one: true, distinct: false } }
}

/// An item or a list of 1 to `most`, none of them twice.
pub(super) const fn one_or_distinct<T>(most: usize, item: T) -> List<T> {
    List { item, limits: Limits { most, or_one: true, distinct: true } }
}

impl<T: Type> Type for List<T> {
    type Value = Vec<T::Value>;

    fn blank(&self) -> Self::Value {
        Vec::new()
    }

    /// Every wrong item is reported.
    fn read(&self, node: &Node, key: &str, into: &mut Self::Value, report: &mut Report) -> bool {
        let Some(items) = self.limits.items(node, key, report) else { return false };
        let mut all = true;
        let mut written = Vec::new();
        into.clear();
        for (key, item) in &items {
            let mut value = self.item.blank();
            let good = self.item.read(item, key, &mut value, report);
            if good && self.limits.distinct {
                written.push((&**key, self.item.write(&value)));
            }
            into.push(value);
            all &= good;
        }
        report_twins(&written, report);
        all
    }

    fn write(&self, value: &Self::Value) -> Value<'static> {
        // A loop, of which there is less for each type than of iterators.
        let mut items = Vec::new();
        for value in value {
            items.push(self.item.write(value).into());
        }
        Value::List(items)
    }

    fn form(&self) -> Form {
        let Limits { most, or_one, distinct } = self.limits;
        Form::List { item: Box::new(self.item.form()), most, or_one, distinct }
    }
}

impl Limits {
    /// The items at `key`, each with its own key.
    fn items<'n, 'a>(
        self,
        node: &'n Node<'a>,
        key: &str,
        report: &mut Report,
    ) -> Option<Vec<(String, &'n Node<'a>)>> {
        let wrong = match &node.value {
            Value::List(items) if items.is_empty() && self.or_one => {
                VALUE.case("expected at least one item, found an empty list")
            }
            Value::List(items) if items.len() > self.most => {
                let (found, most) = (items.len(), self.most);
                VALUE.case(format!("has {found} items; at most {most} are possible"))
            }
            Value::List(items) => {
                let items = items.iter().enumerate();
                let keyed = items.map(|(index, item)| (item_key(key, index), item));
                let keyed = keyed.listed();
                for (key, item) in &keyed {
                    report.found(key.clone(), item.position);
                }
                return Some(keyed);
            }
            _ if self.or_one => return Some(vec![(key.to_owned(), node)]),
            _ => mismatch("a list […]", node),
        };
        report.add(key, wrong);
        None
    }
}

/// Reports items that are there twice, by how a file has them.
fn report_twins(written: &[(&str, Value)], report: &mut Report) {
    for (index, (key, value)) in written.iter().enumerate() {
        if written[..index].iter().any(|(_, before)| before == value) {
            report.add(key, TWICE.case(format!("names {value} twice")));
        }
    }
}

/// The path of a list's item.
pub(super) fn item_key(key: &str, index: usize) -> String {
    format!("{key}[{index}]")
}

/// A section.
pub(super) struct Object<S>(PhantomData<S>);

/// The section whose keys are those of `S`.
pub(super) const fn section<S>() -> Object<S> {
    Object(PhantomData)
}

impl<S: Section> Type for Object<S> {
    type Value = S;

    fn blank(&self) -> S {
        S::blank()
    }

    fn read(&self, node: &Node, key: &str, into: &mut S, report: &mut Report) -> bool {
        read_section(node, key, into, report)
    }

    fn write(&self, value: &S) -> Value<'static> {
        value.write()
    }

    fn form(&self) -> Form {
        Form::Section(S::rows())
    }
}

fn read_section(node: &Node, key: &str, into: &mut dyn Section, report: &mut Report) -> bool {
    let keys = Keys::of(node, key, into.keys(), report);
    keys.is_some_and(|mut keys| into.read(&mut keys))
}
