// SPDX-License-Identifier: Apache-2.0
//! What has a form in JSON.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use super::{read, Member, Node, Position, Value};

/// What has a form in JSON.
pub trait Json: Sized {
    /// Its form.
    fn to_json(&self) -> Value<'_>;

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it, without the place.
    fn from_json(node: &Node<'_>) -> Result<Self, String>;

    /// What an object means that has no such key; `None`: it has to have it.
    fn absent() -> Option<Self> {
        None
    }
}

/// An object of these members.
pub fn object<'a>(members: Vec<(&'static str, Value<'a>)>) -> Value<'a> {
    let member = |(key, value): (&'static str, Value<'a>)| Member {
        key: key.into(),
        position: Position::START,
        value: Node::from(value),
    };
    Value::Object(members.into_iter().map(member).collect())
}

/// An object of those that are not `null`.
pub fn present<'a>(mut members: Vec<(&'static str, Value<'a>)>) -> Value<'a> {
    members.retain(|(_, value)| *value != Value::Null);
    object(members)
}

/// Declares a struct that is an object in JSON: a row is a key, its type and, where it may be left out,
/// what that means; then it is also left out.
macro_rules! record {
    ($(#[$about:meta])* $name:ident {
        $($(#[$what:meta])* $field:ident: $type:ty $(= $absent:expr)?,)*
    }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name { $($(#[$what])* pub $field: $type,)* }

        impl $crate::json::Json for $name {
            fn to_json(&self) -> $crate::json::Value<'_> {
                let Self { $($field,)* } = self;
                $crate::json::record!(@object $($field: $type $(= $absent)?,)*)
            }

            fn from_json(node: &$crate::json::Node<'_>) -> Result<Self, String> {
                Ok(Self { $(
                    $field: $crate::json::field(
                        node,
                        stringify!($field),
                        None $(.or(Some($absent)))?,
                    )?,
                )* })
            }
        }
    };
    // References to fields, to their object.
    (@object $($field:ident: $type:ty $(= $absent:expr)?,)*) => {{
        #[allow(unused_mut)]
        let mut members = Vec::new();
        $($(let absent: $type = $absent; if *$field != absent)? {
            members.push((stringify!($field), $crate::json::Json::to_json($field)));
        })*
        $crate::json::present(members)
    }};
}
pub(crate) use record;

/// Declares an enum that is a word in JSON or, where a variant has content, an object of one member: the
/// word and the content.
macro_rules! choice {
    ($(#[$about:meta])* $name:ident { $(
        $(#[$what:meta])* $variant:ident
        $(($content:ident: $of:ty))?
        $({ $($(#[$meaning:meta])* $field:ident: $type:ty $(= $absent:expr)?,)* })?
        = $word:literal,
    )* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name { $(
            $(#[$what])* $variant $(($of))? $({ $($(#[$meaning])* $field: $type,)* })?,
        )* }

        impl $name {
            /// Its word, and the content if it has one.
            fn parts(&self) -> (&'static str, Option<$crate::json::Value<'_>>) {
                match self { $(
                    Self::$variant { $(0: $content,)? $($($field,)*)? } => (
                        $word,
                        None
                            $(.or(Some($crate::json::Json::to_json($content))))?
                            $(.or(Some($crate::json::record!(@object $($field: $type $(= $absent)?,)*))))?,
                    ),
                )* }
            }

            /// The keys that its content may have.
            #[allow(dead_code)]
            fn keys(&self) -> &'static [&'static str] {
                match self { $(
                    Self::$variant { .. } => &[$($(stringify!($field)),*)?],
                )* }
            }

            /// From its word and the content, `null` if it has none.
            fn of(word: &str, content: &$crate::json::Node<'_>) -> Result<Self, String> {
                // Not used where no variant has one.
                let _ = content;
                match word {
                    $($word => Ok(Self::$variant {
                        $(0: <$of as $crate::json::Json>::from_json(content)?,)?
                        $($($field: $crate::json::field(
                            content,
                            stringify!($field),
                            None $(.or(Some($absent)))?,
                        )?,)*)?
                    }),)*
                    other => Err($crate::json::no_word(other)),
                }
            }
        }

        impl $crate::json::Json for $name {
            fn to_json(&self) -> $crate::json::Value<'_> {
                $crate::json::of_parts(self.parts())
            }

            fn from_json(node: &$crate::json::Node<'_>) -> Result<Self, String> {
                let (word, content) = $crate::json::named(node)?;
                Self::of(word, content)
            }
        }
    };
}
pub(crate) use choice;

/// Reads the text of a value.
///
/// # Errors
/// It is not UTF-8, not JSON, or another value.
pub fn from_bytes<T: Json>(bytes: &[u8]) -> Result<T, String> {
    T::from_json(&of_bytes(bytes)?)
}

/// Reads a text that may be anything.
///
/// # Errors
/// It is not UTF-8, or not JSON.
pub fn of_bytes(bytes: &[u8]) -> Result<Node<'_>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
    read(text).map_err(|wrong| format!("not JSON: {} at byte {}", wrong.what, wrong.offset))
}

/// The value of `key` in the object `node`.
///
/// # Errors
/// What is wrong with it, or that it is missing and has no meaning by `default` or its type.
pub fn field<T: Json>(node: &Node<'_>, key: &str, default: Option<T>) -> Result<T, String> {
    match find(node, key)? {
        Some(value) => T::from_json(value).map_err(|wrong| in_field(key, &wrong)),
        None => default.or_else(T::absent).ok_or_else(|| no_field(key)),
    }
}

// Not in the program once for each type.
#[inline(never)]
fn in_field(key: &str, wrong: &str) -> String {
    format!("`{key}`: {wrong}")
}

#[inline(never)]
fn no_field(key: &str) -> String {
    format!("`{key}` is missing")
}

fn find<'n, 'a>(node: &'n Node<'a>, key: &str) -> Result<Option<&'n Node<'a>>, String> {
    match &node.value {
        Value::Object(_) => Ok(node.get(key)),
        _ => Err(mismatch("an object", node)),
    }
}

/// The word of a choice and its content.
///
/// # Errors
/// It is neither a string nor an object of one member.
pub fn named<'n>(node: &'n Node<'_>) -> Result<(&'n str, &'n Node<'n>), String> {
    static NULL: Node<'static> = Node::NULL;
    match &node.value {
        Value::String(word) => Ok((word, &NULL)),
        Value::Object(members) => match members.as_slice() {
            [only] => Ok((&only.key, &only.value)),
            _ => Err(mismatch("an object of one key", node)),
        },
        _ => Err(mismatch("a word or an object", node)),
    }
}

/// A choice: its word, and its content if it has one.
pub fn of_parts<'a>((word, content): (&'static str, Option<Value<'a>>)) -> Value<'a> {
    match content {
        Some(content) => object(vec![(word, content)]),
        None => word.into(),
    }
}

/// A word that none of the known ones is.
pub fn no_word(word: &str) -> String {
    format!("{} is not known", Value::from(word))
}

fn mismatch(expected: &str, found: &Node<'_>) -> String {
    let found = match found.value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::List(_) => "a list",
        Value::Object(_) => "an object",
    };
    format!("expected {expected}, found {found}")
}

impl Node<'_> {
    /// The string that it is.
    ///
    /// # Errors
    /// It is none.
    pub fn text(&self) -> Result<&str, String> {
        match &self.value {
            Value::String(text) => Ok(text),
            _ => Err(mismatch("a string", self)),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::String(text.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::String(text.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Value::Bool(value)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

impl<'a> From<Vec<Value<'a>>> for Value<'a> {
    fn from(items: Vec<Value<'a>>) -> Self {
        Value::List(items.into_iter().map(Node::from).collect())
    }
}

macro_rules! numbers {
    ($($type:ty)*) => { $(
        impl From<$type> for Value<'_> {
            fn from(number: $type) -> Self {
                Value::Number(number.to_string().into())
            }
        }

        impl Json for $type {
            fn to_json(&self) -> Value<'_> {
                (*self).into()
            }

            fn from_json(node: &Node<'_>) -> Result<Self, String> {
                match &node.value {
                    Value::Number(text) => text.parse().map_err(|_| {
                        concat!("expected a number of type ", stringify!($type)).to_owned()
                    }),
                    _ => Err(mismatch("a number", node)),
                }
            }
        }
    )* };
}

numbers! { i8 i32 u32 u64 usize }

impl Json for bool {
    fn to_json(&self) -> Value<'_> {
        (*self).into()
    }

    fn from_json(node: &Node<'_>) -> Result<Self, String> {
        match node.value {
            Value::Bool(value) => Ok(value),
            _ => Err(mismatch("a boolean", node)),
        }
    }
}

impl Json for String {
    fn to_json(&self) -> Value<'_> {
        self.as_str().into()
    }

    fn from_json(node: &Node<'_>) -> Result<Self, String> {
        node.text().map(str::to_owned)
    }
}

impl Json for Cow<'static, str> {
    fn to_json(&self) -> Value<'_> {
        Value::String(Cow::Borrowed(self))
    }

    fn from_json(node: &Node<'_>) -> Result<Self, String> {
        String::from_json(node).map(Cow::Owned)
    }
}

/// A path that is not UTF-8 comes out changed: what it is needed for are messages.
impl Json for PathBuf {
    fn to_json(&self) -> Value<'_> {
        Value::String(self.to_string_lossy())
    }

    fn from_json(node: &Node<'_>) -> Result<Self, String> {
        node.text().map(PathBuf::from)
    }
}

/// Nanoseconds.
impl Json for Duration {
    fn to_json(&self) -> Value<'_> {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX).into()
    }

    fn from_json(node: &Node<'_>) -> Result<Self, String> {
        u64::from_json(node).map(Duration::from_nanos)
    }
}

impl<T: Json> Json for Option<T> {
    fn to_json(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, T::to_json)
    }

    fn from_json(node: &Node<'_>) -> Result<Self, String> {
        match node.value {
            Value::Null => Ok(None),
            _ => T::from_json(node).map(Some),
        }
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: Json> Json for Box<T> {
    fn to_json(&self) -> Value<'_> {
        T::to_json(self)
    }

    fn from_json(node: &Node<'_>) -> Result<Self, String> {
        T::from_json(node).map(Box::new)
    }
}

impl<T: Json> Json for Vec<T> {
    fn to_json(&self) -> Value<'_> {
        Value::List(self.iter().map(|item| Node::from(item.to_json())).collect())
    }

    fn from_json(node: &Node<'_>) -> Result<Self, String> {
        match &node.value {
            Value::List(items) => {
                // A loop, of which there is less for each type than of iterators.
                let mut values = Vec::new();
                for item in items {
                    values.push(T::from_json(item)?);
                }
                Ok(values)
            }
            _ => Err(mismatch("a list", node)),
        }
    }
}
