// SPDX-License-Identifier: Apache-2.0
//! A section of the config as a table of its keys. Parser, writer, schema and reference come from it.

use super::compound::Object;
use super::keys::Keys;
use super::report::Report;
use super::types::{Form, Type};
use crate::json::{Node, Value};

/// A section: an object with keys of its own. Made by [`section!`].
pub(super) trait Section: Sized {
    /// Its keys, in the order of the table.
    const KEYS: &'static [&'static str];

    /// Reads every key and checks the rules between them.
    fn read(keys: &Keys, report: &mut Report) -> Option<Self>;

    /// The section as a file has it, with every default written out.
    fn write(&self) -> Value<'static>;

    /// The table.
    fn rows() -> Vec<Row>;
}

/// A row of a section's table, for the reference and the schema.
pub struct Row {
    /// The key.
    pub key: &'static str,
    /// What it says.
    pub text: &'static str,
    /// What is read where the file does not have it.
    pub absent: Absent<Value<'static>>,
    /// Its values.
    pub form: Form,
}

/// What is read for a key that the file does not have.
pub enum Absent<V> {
    /// The file is refused.
    Mistake,
    /// A default; `null` where the key then has no value.
    Value(V),
    /// The section with no key in it.
    EmptySection,
}

/// A key's type, and what is read where it is absent.
pub(super) struct Key<T: Type> {
    of: T,
    absent: Absent<T::Value>,
}

/// A key that must be there.
pub(super) fn required<T: Type>(of: T) -> Key<T> {
    Key { of, absent: Absent::Mistake }
}

/// A key that is `value` where it is absent.
pub(super) fn or<T: Type>(value: T::Value, of: T) -> Key<T> {
    Key { of, absent: Absent::Value(value) }
}

/// A section that is `{}` where it is absent.
pub(super) fn or_empty<S: Section>(of: Object<S>) -> Key<Object<S>> {
    Key { of, absent: Absent::EmptySection }
}

/// A key that has a value only where the file has it.
pub(super) fn optional<T: Type>(of: T) -> Key<Maybe<T>> {
    Key { of: Maybe(of), absent: Absent::Value(None) }
}

/// A key whose value in the struct is a `V`.
pub(super) fn key<V, T: Type<Value = V>>(key: Key<T>) -> Key<T> {
    key
}

impl<T: Type> Key<T> {
    pub fn read(self, keys: &Keys, key: &str, report: &mut Report) -> Option<T::Value> {
        let node = match (keys.get(key), self.absent) {
            (Some(node), _) => node,
            (None, Absent::Value(value)) => return Some(value),
            (None, Absent::EmptySection) => &Node::EMPTY,
            (None, Absent::Mistake) => {
                keys.missing(key, report);
                return None;
            }
        };
        self.of.read(node, &keys.path_of(key), report)
    }

    pub fn write(&self, value: &T::Value) -> Value<'static> {
        self.of.write(value)
    }

    pub fn row(&self, key: &'static str, text: &'static str) -> Row {
        let absent = match &self.absent {
            Absent::Mistake => Absent::Mistake,
            Absent::Value(value) => Absent::Value(self.of.write(value)),
            Absent::EmptySection => Absent::EmptySection,
        };
        Row { key, text, absent, form: self.of.form() }
    }
}

/// A value or none; a file has no word for none.
pub(super) struct Maybe<T>(T);

impl<T: Type> Type for Maybe<T> {
    type Value = Option<T::Value>;

    fn read(&self, node: &Node, key: &str, report: &mut Report) -> Option<Self::Value> {
        self.0.read(node, key, report).map(Some)
    }

    fn write(&self, value: &Self::Value) -> Value<'static> {
        value.as_ref().map_or(Value::Null, |value| self.0.write(value))
    }

    fn form(&self) -> Form {
        self.0.form()
    }
}

/// The name of a key whose identifier is raw, because it is a word of Rust's own.
pub(super) const fn bare(key: &'static str) -> &'static str {
    match key.as_bytes() {
        [b'r', b'#', rest @ ..] => match std::str::from_utf8(rest) {
            Ok(bare) => bare,
            Err(_) => key,
        },
        _ => key,
    }
}

/// Makes a struct and its [`Section`] from a table: a row is a key, its Rust type, its [`Key`] and
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
            const KEYS: &'static [&'static str] = &[$(bare(stringify!($key))),*];

            fn read(keys: &Keys, report: &mut Report) -> Option<Self> {
                // Every key is read before any is judged, so that all mistakes are found at once.
                $(let $key = key::<$rust, _>($presence).read(keys, const { bare(stringify!($key)) }, report);)*
                $($(
                    if let ($(Some($of),)+) = ($($of.as_ref(),)+) {
                        keys.add_all(rules::$rule($($of),+), report);
                    }
                )*)?
                // In one step: a `?` for each would need a way out for each, which drops the others.
                let ($(Some($key),)*) = ($($key,)*) else { return None };
                Some(Self {
                    $($key,)*
                    $($($field: $fill(report),)*)?
                })
            }

            fn write(&self) -> Value<'static> {
                present(vec![$((
                    const { bare(stringify!($key)) },
                    key::<$rust, _>($presence).write(&self.$key),
                ),)*])
            }

            fn rows() -> Vec<Row> {
                vec![$(key::<$rust, _>($presence).row(const { bare(stringify!($key)) }, $text)),*]
            }
        }
    };
}
pub(super) use section;
