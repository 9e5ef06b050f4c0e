// SPDX-License-Identifier: Apache-2.0
//! What has a form in JSON.

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

use super::{read, Member, Node, Position, Value};

/// What has a form in JSON.
pub trait Json {
    /// One to be filled; as it is, it is what an object means that may leave it out.
    fn blank() -> Self
    where
        Self: Sized;

    /// Its form.
    fn to_json(&self) -> Value<'_>;

    /// Fills a blank one with what the form says.
    ///
    /// # Errors
    /// What is wrong with it, without the place.
    fn read(&mut self, node: &Node<'_>) -> Result<(), String>;

    /// Whether an object may leave it out, whatever it is.
    fn is_optional(&self) -> bool {
        false
    }

    /// What has this form.
    ///
    /// # Errors
    /// What is wrong with it, without the place.
    fn from_json(node: &Node<'_>) -> Result<Self, String>
    where
        Self: Sized,
    {
        let mut value = Self::blank();
        value.read(node)?;
        Ok(value)
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

/// The object of fields; without those that are `null`. `keys` has a space between two, and a `?` behind one that
/// may be left out: a list of them would be larger than they are.
pub fn object_of<'a>(keys: &'static str, fields: &[&'a dyn Json]) -> Value<'a> {
    let forms = fields.iter().map(|field| field.to_json());
    let keys = keys.split(' ').map(|key| key.trim_end_matches('?'));
    present(keys.zip(forms).collect())
}

/// Reads an object's fields; the keys are as those of [`object_of`].
///
/// # Errors
/// What is wrong with one, or that one is missing.
pub fn read_fields(
    node: &Node<'_>,
    keys: &str,
    fields: &mut [&mut dyn Json],
) -> Result<(), String> {
    let Value::Object(_) = node.value else {
        return Err(mismatch("an object", node));
    };
    for (key, field) in keys.split(' ').zip(fields) {
        let name = key.trim_end_matches('?');
        match node.get(name) {
            Some(value) => field.read(value).map_err(|wrong| format!("`{name}`: {wrong}"))?,
            None if name != key || field.is_optional() => {}
            None => return Err(format!("`{name}` is missing")),
        }
    }
    Ok(())
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
            fn blank() -> Self {
                Self { $($field: $crate::json::record!(@blank $($absent)?),)* }
            }

            fn to_json(&self) -> $crate::json::Value<'_> {
                let Self { $($field,)* } = self;
                $crate::json::record!(@object $($field: $type $(= $absent)?,)*)
            }

            fn read(&mut self, node: &$crate::json::Node<'_>) -> Result<(), String> {
                $crate::json::record!(@read node $($field: self.$field $(, = $absent)?;)*)
            }
        }
    };
    (@blank) => { $crate::json::Json::blank() };
    (@blank $absent:expr) => { $absent };
    // References to fields, to their object.
    (@object $($field:ident: $type:ty $(= $absent:expr)?,)*) => {
        $crate::json::object_of($crate::json::record!(@keys $($field $(= $absent)?,)*), &[$({
            let field: &dyn $crate::json::Json = $field;
            $(let absent: $type = $absent;
            let field = if *$field == absent { &() } else { field };)?
            field
        }),*])
    };
    (@read $node:ident $($field:ident: $value:expr $(, = $absent:expr)?;)*) => {
        $crate::json::read_fields(
            $node,
            $crate::json::record!(@keys $($field $(= $absent)?,)*),
            &mut [$(&mut $value),*],
        )
    };
    (@keys $first:ident $(= $absent:expr)?, $($field:ident $(= $other:expr)?,)*) => {
        concat!(
            stringify!($first), $($crate::json::record!(@may $absent),)?
            $(" ", stringify!($field), $($crate::json::record!(@may $other),)?)*
        )
    };
    (@keys) => { "" };
    (@may $absent:expr) => { "?" };
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
                    $($word => {
                        $($(let mut $field: $type = $crate::json::record!(@blank $($absent)?);)*
                        $crate::json::record!(@read content $($field: $field $(, = $absent)?;)*)?;)?
                        Ok(Self::$variant {
                            $(0: <$of as $crate::json::Json>::from_json(content)?,)?
                            $($($field,)*)?
                        })
                    })*
                    other => Err($crate::json::no_word(other)),
                }
            }
        }

        impl $crate::json::Json for $name {
            fn blank() -> Self {
                $crate::json::choice!(@first $({ Self::$variant {
                    $(0: <$of as $crate::json::Json>::blank(),)?
                    $($($field: $crate::json::record!(@blank $($absent)?),)*)?
                } })*)
            }

            fn to_json(&self) -> $crate::json::Value<'_> {
                $crate::json::of_parts(self.parts())
            }

            fn read(&mut self, node: &$crate::json::Node<'_>) -> Result<(), String> {
                let (word, content) = $crate::json::named(node)?;
                *self = Self::of(word, content)?;
                Ok(())
            }
        }
    };
    (@first $first:block $($other:block)*) => { $first };
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
/// What is wrong with it, or that it is missing.
pub fn field<T: Json>(node: &Node<'_>, key: &str) -> Result<T, String> {
    let mut value = T::blank();
    read_fields(node, key, &mut [&mut value])?;
    Ok(value)
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

/// Which of `words` it is.
///
/// # Errors
/// It is none of them.
pub fn which(words: &[&str], node: &Node<'_>) -> Result<usize, String> {
    let text = node.text()?;
    words.iter().position(|word| *word == text).ok_or_else(|| no_word(text))
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
            fn blank() -> Self {
                0
            }

            fn to_json(&self) -> Value<'_> {
                (*self).into()
            }

            fn read(&mut self, node: &Node<'_>) -> Result<(), String> {
                let Value::Number(text) = &node.value else {
                    return Err(mismatch("a number", node));
                };
                *self = text
                    .parse()
                    .map_err(|_| concat!("expected a number of type ", stringify!($type)))?;
                Ok(())
            }
        }
    )* };
}

numbers! { i32 i64 u32 u64 usize }

/// `null`, which is left out of an object.
impl Json for () {
    fn blank() {}

    fn to_json(&self) -> Value<'_> {
        Value::Null
    }

    fn read(&mut self, _: &Node<'_>) -> Result<(), String> {
        Ok(())
    }
}

impl Json for bool {
    fn blank() -> Self {
        false
    }

    fn to_json(&self) -> Value<'_> {
        (*self).into()
    }

    fn read(&mut self, node: &Node<'_>) -> Result<(), String> {
        let Value::Bool(value) = node.value else {
            return Err(mismatch("a boolean", node));
        };
        *self = value;
        Ok(())
    }
}

impl Json for String {
    fn blank() -> Self {
        Self::new()
    }

    fn to_json(&self) -> Value<'_> {
        self.as_str().into()
    }

    fn read(&mut self, node: &Node<'_>) -> Result<(), String> {
        node.text()?.clone_into(self);
        Ok(())
    }
}

impl Json for Cow<'static, str> {
    fn blank() -> Self {
        "".into()
    }

    fn to_json(&self) -> Value<'_> {
        Value::String(Cow::Borrowed(self))
    }

    fn read(&mut self, node: &Node<'_>) -> Result<(), String> {
        *self = node.text()?.to_owned().into();
        Ok(())
    }
}

/// A path that is not UTF-8 comes out changed: what it is needed for are messages.
impl Json for PathBuf {
    fn blank() -> Self {
        Self::new()
    }

    fn to_json(&self) -> Value<'_> {
        Value::String(self.to_string_lossy())
    }

    fn read(&mut self, node: &Node<'_>) -> Result<(), String> {
        *self = node.text()?.into();
        Ok(())
    }
}

/// Nanoseconds.
impl Json for Duration {
    fn blank() -> Self {
        Self::ZERO
    }

    fn to_json(&self) -> Value<'_> {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX).into()
    }

    fn read(&mut self, node: &Node<'_>) -> Result<(), String> {
        *self = Self::from_nanos(u64::from_json(node)?);
        Ok(())
    }
}

impl<T: Json> Json for Option<T> {
    fn blank() -> Self {
        None
    }

    fn to_json(&self) -> Value<'_> {
        self.as_ref().map_or(Value::Null, T::to_json)
    }

    fn read(&mut self, node: &Node<'_>) -> Result<(), String> {
        if node.value != Value::Null {
            self.insert(T::blank()).read(node)?;
        }
        Ok(())
    }

    fn is_optional(&self) -> bool {
        true
    }
}

impl<T: Json> Json for Box<T> {
    fn blank() -> Self {
        Self::new(T::blank())
    }

    fn to_json(&self) -> Value<'_> {
        T::to_json(self)
    }

    fn read(&mut self, node: &Node<'_>) -> Result<(), String> {
        T::read(self, node)
    }
}

impl<T: Json> Json for Vec<T> {
    fn blank() -> Self {
        Self::new()
    }

    fn to_json(&self) -> Value<'_> {
        Value::List(self.iter().map(|item| Node::from(item.to_json())).collect())
    }

    fn read(&mut self, node: &Node<'_>) -> Result<(), String> {
        let Value::List(items) = &node.value else {
            return Err(mismatch("a list", node));
        };
        // A loop, of which there is less for each type than of iterators.
        for item in items {
            self.push(T::from_json(item)?);
        }
        Ok(())
    }
}
