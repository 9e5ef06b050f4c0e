// SPDX-License-Identifier: Apache-2.0
//! A section of the config as a table of its keys. Parser, writer, schema and reference come from it.

use serde_json::{Map, Value as Json};

use super::compound::Object;
use super::json::Node;
use super::keys::Keys;
use super::report::Report;
use super::types::{Description, Type};
use crate::diagnostic::kinds;

kinds! {
    MISSING: Error "config-missing" in Config {
        "a key that has no default is missing",
        cure: "add the key",
    }
}

/// The paths of sections, each with its keys.
pub(super) type Sections = Vec<(String, &'static [&'static str])>;

/// A section: an object with keys of its own. Made by [`section!`].
pub(super) trait Section: Sized {
    /// Its keys, in the order of the table.
    const KEYS: &'static [&'static str];

    /// Reads every key and checks the rules between them.
    fn read(keys: &Keys, report: &mut Report) -> Option<Self>;

    /// The section as a file has it, with every default written out.
    fn write(&self) -> Map<String, Json>;

    /// The table.
    fn rows() -> Vec<Row>;

    /// Adds the sections inside this one, which is at `path`.
    fn sections(path: &str, found: &mut Sections);
}

/// A row of a section's table, for the reference and the schema.
pub struct Row {
    /// The key.
    pub key: &'static str,
    /// What it says.
    pub text: &'static str,
    /// What is read where the file does not have it.
    pub absent: Absent<Json>,
    /// Its type.
    pub of: Description,
}

/// Whether a key has a value always, or only where the file has it.
pub(super) trait Presence {
    type Of: Type;
    type Value;

    fn of(&self) -> &Self::Of;

    fn read(self, keys: &Keys, key: &str, report: &mut Report) -> Option<Self::Value>;

    /// `None`: the key is left out.
    fn write(&self, value: &Self::Value) -> Option<Json>;

    fn absent(&self) -> Absent<Json>;

    fn row(&self, key: &'static str, text: &'static str) -> Row {
        Row { key, text, absent: self.absent(), of: self.of().describe() }
    }
}

/// What is read for a key that the file does not have.
pub enum Absent<V> {
    /// The file is refused.
    Mistake,
    /// A default.
    Value(V),
    /// The section with no key in it.
    EmptySection,
    /// Nothing.
    None,
}

/// A key that always has a value.
pub(super) struct Always<T: Type> {
    of: T,
    absent: Absent<T::Value>,
}

/// A key that must be there.
pub(super) fn required<T: Type>(of: T) -> Always<T> {
    let absent = Absent::Mistake;
    Always { of, absent }
}

/// A key that is `value` where it is absent.
pub(super) fn or<T: Type>(value: T::Value, of: T) -> Always<T> {
    let absent = Absent::Value(value);
    Always { of, absent }
}

/// A section that is `{}` where it is absent.
pub(super) fn or_empty<S: Section>(of: Object<S>) -> Always<Object<S>> {
    let absent = Absent::EmptySection;
    Always { of, absent }
}

impl<T: Type> Presence for Always<T> {
    type Of = T;
    type Value = T::Value;

    fn of(&self) -> &T {
        &self.of
    }

    fn read(self, keys: &Keys, key: &str, report: &mut Report) -> Option<T::Value> {
        let path = keys.path_of(key);
        match (keys.get(key), self.absent) {
            (Some(node), _) => self.of.read(node, &path, report),
            (None, Absent::Value(value)) => Some(value),
            (None, Absent::EmptySection) => self.of.read(&Node::EMPTY, &path, report),
            (None, _) => {
                report.add(&path, MISSING.case("missing, and it has no default"));
                None
            }
        }
    }

    fn write(&self, value: &T::Value) -> Option<Json> {
        Some(self.of.write(value))
    }

    fn absent(&self) -> Absent<Json> {
        match &self.absent {
            Absent::Value(value) => Absent::Value(self.of.write(value)),
            Absent::EmptySection => Absent::EmptySection,
            _ => Absent::Mistake,
        }
    }
}

/// A key that has a value only where the file has it.
pub(super) struct Optional<T>(T);

/// A key that may be absent.
pub(super) fn optional<T: Type>(of: T) -> Optional<T> {
    Optional(of)
}

impl<T: Type> Presence for Optional<T> {
    type Of = T;
    type Value = Option<T::Value>;

    fn of(&self) -> &T {
        &self.0
    }

    fn read(self, keys: &Keys, key: &str, report: &mut Report) -> Option<Self::Value> {
        match keys.get(key) {
            Some(node) => self.0.read(node, &keys.path_of(key), report).map(Some),
            None => Some(None),
        }
    }

    fn write(&self, value: &Self::Value) -> Option<Json> {
        value.as_ref().map(|value| self.0.write(value))
    }

    fn absent(&self) -> Absent<Json> {
        Absent::None
    }
}

/// A key whose value in the struct is a `V`.
pub(super) fn key<V>(presence: impl Presence<Value = V>) -> impl Presence<Value = V> {
    presence
}

/// Makes a struct and its [`Section`] from a table: a row is a key, its Rust type, its [`Presence`] and
/// type in the file, and what it says. A rule is a function of the keys that it names; it is called
/// where all of these could be read, and returns mistakes. `beside` are fields that are not keys; they
/// are filled from the report.
macro_rules! section {
    (
        $(#[$about:meta])*
        $name:ident {
            $($key:ident: $rust:ty = $presence:expr, $text:literal;)*
        }
        $(rules { $($rule:ident($($of:ident),+);)* })?
        $(beside { $($field:ident: $type:ty = $fill:path, $what:literal;)* })?
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $(#[doc = $text] pub $key: $rust,)*
            $($(#[doc = $what] pub $field: $type,)*)?
        }

        impl Section for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            fn read(keys: &Keys, report: &mut Report) -> Option<Self> {
                // Every key is read before the first `?`, so that all mistakes are found at once.
                $(let $key = key::<$rust>($presence).read(keys, stringify!($key), report);)*
                $($(
                    if let ($(Some($of),)+) = ($($of.as_ref(),)+) {
                        keys.add_all(rules::$rule($($of),+), report);
                    }
                )*)?
                Some(Self {
                    $($key: $key?,)*
                    $($($field: $fill(report),)*)?
                })
            }

            fn write(&self) -> Map<String, Json> {
                let mut object = Map::new();
                $(if let Some(value) = key::<$rust>($presence).write(&self.$key) {
                    object.insert(stringify!($key).to_owned(), value);
                })*
                object
            }

            fn rows() -> Vec<Row> {
                vec![$(key::<$rust>($presence).row(stringify!($key), $text)),*]
            }

            fn sections(path: &str, found: &mut Sections) {
                $(key::<$rust>($presence).of().sections(&join(path, stringify!($key)), found);)*
            }
        }
    };
}
pub(super) use section;
