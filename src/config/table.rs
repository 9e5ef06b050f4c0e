// SPDX-License-Identifier: Apache-2.0
//! A section of the config as a table of its keys. Parser, writer, schema and reference come from it.

use super::keys::Keys;
use super::report::Report;
use super::types::{Form, Type};
use crate::json::{present, Node, Value};

/// A section: an object with keys of its own. Made by [`section!`].
pub(super) trait Section {
    /// What it is before it is read: each key as if it were absent.
    fn blank() -> Self
    where
        Self: Sized;

    /// Its keys, in the order of the table.
    fn keys(&self) -> &'static [&'static str];

    /// Reads every key and checks the rules between them. Whether all could be read.
    fn read(&mut self, keys: &mut Keys) -> bool;

    /// The section as a file has it, with every default written out.
    fn write(&self) -> Value<'static>;

    /// The table.
    fn rows() -> Vec<Row>
    where
        Self: Sized;
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

/// The object of a section's keys; those that are `null` are left out.
pub(super) fn object_of(keys: &[&'static str], forms: Vec<Value<'static>>) -> Value<'static> {
    present(keys.iter().copied().zip(forms).collect())
}

/// A value or none; a file has no word for none.
pub(super) struct Maybe<T>(pub T);

impl<T: Type> Type for Maybe<T> {
    type Value = Option<T::Value>;

    fn blank(&self) -> Self::Value {
        None
    }

    fn read(&self, node: &Node, key: &str, into: &mut Self::Value, report: &mut Report) -> bool {
        self.0.read(node, key, into.insert(self.0.blank()), report)
    }

    fn write(&self, value: &Self::Value) -> Value<'static> {
        value.as_ref().map_or(Value::Null, |value| self.0.write(value))
    }

    fn form(&self) -> Form {
        self.0.form()
    }
}

/// What a key has before it is read.
pub(super) fn blank<T: Type>(of: &T) -> T::Value {
    of.blank()
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

/// Makes a struct and its [`Section`] from a table: a row is a key, its Rust type, its presence and type in the
/// file, and what it says. What is there in place of an absent key:
///
/// - `required(type)`: nothing, the file is refused
/// - `or(value, type)`: the value
/// - `or_empty(section())`: the section with no key in it
/// - `optional(type)`: `None`
///
/// A rule is a function of the keys that it names; it is called where all of these could be read, and returns
/// mistakes. `beside` are fields that are not keys; they are filled from the report.
macro_rules! section {
    (
        $(#[$about:meta])*
        $name:ident {
            $($key:ident: $rust:ty = $presence:ident($($of:expr),+), $text:literal;)*
        }
        $(rules { $($rule:ident($($needs:ident),+);)* })?
        $(beside { $($field:ident: $type:ty = $fill:path, $what:literal;)* })?
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $(#[doc = $text] pub $key: $rust,)*
            $($(#[doc = $what] pub $field: $type,)*)?
        }

        impl $name {
            pub(super) const KEYS: &'static [&'static str] = &[$(bare(stringify!($key))),*];
        }

        impl Section for $name {
            fn blank() -> Self {
                Self {
                    $($key: section!(@blank $presence $($of),+),)*
                    $($($field: Default::default(),)*)?
                }
            }

            fn keys(&self) -> &'static [&'static str] {
                Self::KEYS
            }

            fn read(&mut self, keys: &mut Keys) -> bool {
                // Every key is read before any is judged, so that all mistakes are found at once.
                $(let $key = keys.$presence(&const { section!(@of $presence $($of),+) }, &mut self.$key);)*
                $($(
                    if $($needs)&&+ {
                        keys.add_all(rules::$rule($(&self.$needs),+));
                    }
                )*)?
                $($(self.$field = $fill(keys.report);)*)?
                true $(& $key)*
            }

            fn write(&self) -> Value<'static> {
                object_of(Self::KEYS, vec![
                    $(const { section!(@of $presence $($of),+) }.write(&self.$key),)*
                ])
            }

            fn rows() -> Vec<Row> {
                let blank = Self::blank();
                vec![$({
                    let of = section!(@of $presence $($of),+);
                    // For the type of a word or a section, which follows from its value's.
                    let value = of.write(&blank.$key);
                    Row {
                        key: const { bare(stringify!($key)) },
                        text: $text,
                        absent: section!(@absent $presence value),
                        form: of.form(),
                    }
                }),*]
            }
        }
    };
    (@blank or $value:expr, $of:expr) => { $value };
    (@blank $presence:ident $of:expr) => { blank(&section!(@of $presence $of)) };
    (@of or $value:expr, $of:expr) => { $of };
    (@of optional $of:expr) => { Maybe($of) };
    (@of $presence:ident $of:expr) => { $of };
    (@absent required $value:expr) => { { let _ = $value; Absent::Mistake } };
    (@absent or_empty $value:expr) => { { let _ = $value; Absent::EmptySection } };
    (@absent $presence:ident $value:expr) => { Absent::Value($value) };
}
pub(super) use section;
