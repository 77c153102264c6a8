//! From a tree to the types of `api`, with every mistake at its place instead of the first one only.
//!
//! Serde stops at the first mistake. Here the value at fault is then left out and the reading begins again, until
//! nothing is left to complain about: every field of `api` may be absent, so each round gets further.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::fault::{Fault, Position};
use super::ignored;
use super::places::{is_plain_key, pointed};
use super::scalar::Meaning;
use super::treatment::{self, Treatment};
use super::tree::{Entry, NodeId, Scalar, Tree, Value, shortened};
use crate::api::problem::did_you_mean;

/// Mistakes of one resource that are told at once; a file with more is likely not meant for us.
const MISTAKES_MAX: usize = 32;

/// What is said of a field that no version of KServe knows.
pub const UNKNOWN_FIELD: &str = "unknown field";

/// What reading a resource found beside its value.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Values of a wrong type: the resource cannot be used.
    pub(super) errors: Vec<Fault>,
    /// Fields that no KServe version knows.
    pub(super) unknown: Vec<Fault>,
    /// Fields of Kubernetes without meaning on one machine.
    pub(super) meaningless: Vec<Fault>,
    /// Every field that is known, and what becomes of it; in the order of the file, those around others before them.
    pub(super) fields: Vec<Known>,
}

/// A known field.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) position: Position,
    pub(super) field: String,
    pub(super) treatment: Treatment,
}

/// Reads a value below `root`, leaving out what is of a wrong type; nothing when even that does not help.
///
/// `lists_fields` asks for [`Findings::fields`], which cost a text each.
pub(super) fn read<'t, T: Deserialize<'t>>(tree: &'t Tree, root: NodeId, lists_fields: bool) -> (Option<T>, Findings) {
    read_showing(tree, root, lists_fields, true)
}

/// The same for what must not be shown: no message holds a value.
pub(super) fn read_hidden<'t, T: Deserialize<'t>>(tree: &'t Tree, root: NodeId, lists_fields: bool) -> (Option<T>, Findings) {
    read_showing(tree, root, lists_fields, false)
}

fn read_showing<'t, T: Deserialize<'t>>(tree: &'t Tree, root: NodeId, lists_fields: bool, shows: bool) -> (Option<T>, Findings) {
    let mut errors: Vec<Fault> = Vec::new();
    let mut left_out = HashSet::new();
    loop {
        let reading = Reading { tree, left_out: &left_out, lists_fields, findings: RefCell::default(), shows };
        let result = T::deserialize(At { reading: &reading, id: root, path: &Path::Root, key: tree.node(root).position });
        let findings = reading.findings.into_inner();
        match result {
            Ok(value) => return (Some(value), Findings { errors, ..findings }),
            Err(mistake) => {
                let again = mistake.node.is_some_and(|node| node != root && left_out.insert(node));
                errors.push(mistake.fault);
                if !again || errors.len() >= MISTAKES_MAX {
                    return (None, Findings { errors, ..findings });
                }
            }
        }
    }
}

struct Reading<'t, 'r> {
    tree: &'t Tree,
    left_out: &'r HashSet<NodeId>,
    lists_fields: bool,
    findings: RefCell<Findings>,
    /// Whether messages may hold values.
    shows: bool,
}

/// The way from the root to a value, kept on the stack while reading.
enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Item(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Key(Self::Root, key) if is_plain_key(key) => f.write_str(key),
            Self::Key(parent, key) if is_plain_key(key) => write!(f, "{parent}.{key}"),
            Self::Key(parent, key) => write!(f, "{parent}[{key}]"),
        }
    }
}

/// One value that is being read.
#[derive(Clone, Copy)]
struct At<'t, 'r> {
    reading: &'r Reading<'t, 'r>,
    id: NodeId,
    path: &'r Path<'r>,
    key: Position,
}

/// A value of a wrong type.
#[derive(Debug)]
struct Mistake {
    fault: Fault,
    /// The value, once known; mistakes made up by serde learn it on their way out.
    node: Option<NodeId>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fault.message)
    }
}

impl std::error::Error for Mistake {}

impl de::Error for Mistake {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Self { fault: Fault::at(Position::default(), message.to_string()), node: None }
    }

    fn invalid_type(found: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::custom(format!("must be {wanted}, found {found}"))
    }

    fn invalid_value(found: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::custom(format!("must be {wanted}, found {found}"))
    }
}

impl<'t, 'r> At<'t, 'r> {
    fn value(self) -> &'t Value {
        &self.reading.tree.node(self.id).value
    }

    fn mistake(self, message: impl Into<String>) -> Mistake {
        let position = pointed(self.reading.tree, self.key, self.id);
        Mistake { fault: Fault::at(position, message).with_field(self.path.to_string()), node: Some(self.id) }
    }

    fn must_be(self, wanted: &str) -> Mistake {
        let found = if self.reading.shows { self.value().describe() } else { self.value().shape().to_owned() };
        self.mistake(format!("must be {wanted}, found {found}"))
    }

    /// Gives a mistake that does not know its value yet this one.
    fn claim(self, mistake: Mistake) -> Mistake {
        match mistake.node {
            Some(_) => mistake,
            None => self.mistake(mistake.fault.message),
        }
    }

    fn scalar(self, wanted: &str) -> Result<&'t Scalar, Mistake> {
        match self.value() {
            Value::Scalar(scalar) => Ok(scalar),
            Value::Sequence(_) | Value::Mapping(_) => Err(self.must_be(wanted)),
        }
    }

    fn string(self) -> Result<&'t str, Mistake> {
        let scalar = self.scalar("a text")?;
        match scalar.meaning() {
            Meaning::Text => Ok(&scalar.text),
            Meaning::Null => Err(self.must_be("a text")),
            Meaning::Bool(_) | Meaning::Integer(_) | Meaning::Float(_) => {
                let mut mistake = self.must_be("a text");
                let quoted = if self.reading.shows { format!("quote it: `\"{}\"`", scalar.text) } else { "quote it".to_owned() };
                mistake.fault.hint = Some(quoted);
                Err(mistake)
            }
        }
    }

    fn boolean(self) -> Result<bool, Mistake> {
        match self.scalar("true or false")?.meaning() {
            Meaning::Bool(value) => Ok(value),
            _ => Err(self.must_be("`true` or `false`")),
        }
    }

    fn float(self) -> Result<f64, Mistake> {
        match self.scalar("a number")?.meaning() {
            Meaning::Float(number) => Ok(number),
            #[expect(clippy::cast_precision_loss, reason = "a float is asked for")]
            Meaning::Integer(number) => Ok(number as f64),
            _ => Err(self.must_be("a number")),
        }
    }

    fn integer(self, least: i128, most: i128) -> Result<i128, Mistake> {
        let scalar = self.scalar("a whole number")?;
        let number = match scalar.meaning() {
            Meaning::Integer(number) => Some(number),
            // `1e3` is a whole number to Kubernetes as well.
            #[expect(clippy::cast_possible_truncation, reason = "only whole numbers of at most 53 bits get here")]
            Meaning::Float(number) if number.fract() == 0.0 && number.abs() < 9.0e15 => Some(number as i128),
            _ => None,
        };
        match number {
            Some(number) if (least..=most).contains(&number) => Ok(number),
            Some(number) => Err(self.mistake(format!("must be from {least} to {most}, found {number}"))),
            None => Err(unquoted(scalar, self.must_be("a whole number"))),
        }
    }

    fn entries(self) -> Result<&'t [Entry], Mistake> {
        match self.value() {
            Value::Mapping(entries) => Ok(entries),
            Value::Scalar(_) | Value::Sequence(_) => Err(self.must_be("a mapping")),
        }
    }

    fn entry<'s>(self, entry: &'t Entry, path: &'s Path<'s>) -> At<'t, 's>
    where
        'r: 's,
    {
        At { reading: self.reading, id: entry.value, path, key: entry.position }
    }

    /// The entries of a struct that have a field; the others are remembered as unknown, empty ones left out.
    fn known_entries(self, type_name: &str, fields: &'static [&'static str]) -> Result<Vec<&'t Entry>, Mistake> {
        let entries = self.entries()?;
        let mut known = Vec::with_capacity(entries.len());
        for entry in entries {
            if !fields.contains(&&*entry.key) {
                self.note_unknown(entry, fields);
            } else if !self.skips(entry) {
                self.note_meaningless(type_name, entry);
                self.note_known(type_name, entry);
                known.extend((!ignored::is_unread(type_name, &entry.key)).then_some(entry));
            }
        }
        Ok(known)
    }

    fn skips(self, entry: &Entry) -> bool {
        self.reading.left_out.contains(&entry.value) || self.reading.tree.is_null(entry.value)
    }

    fn note_unknown(self, entry: &Entry, fields: &'static [&'static str]) {
        let field = Path::Key(self.path, &entry.key).to_string();
        let mut fault = Fault::at(entry.position, UNKNOWN_FIELD).with_field(field);
        fault.hint = did_you_mean(&entry.key, fields.iter().copied()).map(|meant| format!("did you mean `{meant}`?"));
        self.reading.findings.borrow_mut().unknown.push(fault);
    }

    fn note_meaningless(self, type_name: &str, entry: &Entry) {
        if let Some(reason) = ignored::reason(type_name, &entry.key) {
            let field = Path::Key(self.path, &entry.key).to_string();
            self.reading.findings.borrow_mut().meaningless.push(Fault::at(entry.position, reason).with_field(field));
        }
    }
}

impl<'t> At<'t, '_> {
    /// Lists a field, where fields are listed; annotations one by one.
    fn note_known(self, type_name: &str, entry: &'t Entry) {
        if !self.reading.lists_fields {
            return;
        }
        let path = Path::Key(self.path, &entry.key);
        match &self.reading.tree.node(entry.value).value {
            Value::Mapping(entries) if &*entry.key == "annotations" => {
                for entry in entries {
                    self.list(Path::Key(&path, &entry.key).to_string(), entry.position, treatment::of_annotation(&entry.key));
                }
            }
            _ => {
                let known = treatment::of(type_name, &entry.key).unwrap_or(Treatment::Ignored("nothing here acts on it"));
                self.list(path.to_string(), entry.position, known);
            }
        }
    }

    fn list(self, field: String, position: Position, treatment: Treatment) {
        self.reading.findings.borrow_mut().fields.push(Known { position, field, treatment });
    }
}

/// Adds a hint to a mistake where a number was quoted.
fn unquoted(scalar: &Scalar, mut mistake: Mistake) -> Mistake {
    if scalar.quoted && matches!(super::scalar::meaning(&scalar.text), Meaning::Integer(_)) {
        mistake.fault.hint = Some(format!("write it without quotes: `{}`", scalar.text));
    }
    mistake
}

macro_rules! whole_numbers {
    ($($method:ident $visit:ident $number:ty),*) => {
        $(fn $method<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
            let number = self.integer(i128::from(<$number>::MIN), i128::from(<$number>::MAX))?;
            visitor.$visit(<$number>::try_from(number).expect("the bounds are those of the type because they were just checked"))
        })*
    };
}

impl<'t> Deserializer<'t> for At<'t, '_> {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let scalar = match self.value() {
            Value::Scalar(scalar) => scalar,
            Value::Sequence(_) => return self.deserialize_seq(visitor),
            Value::Mapping(_) => return self.deserialize_map(visitor),
        };
        let result = match scalar.meaning() {
            Meaning::Null => visitor.visit_unit(),
            Meaning::Bool(value) => visitor.visit_bool(value),
            Meaning::Integer(number) => match (i64::try_from(number), u64::try_from(number)) {
                (Ok(number), _) => visitor.visit_i64(number),
                (_, Ok(number)) => visitor.visit_u64(number),
                _ => visitor.visit_borrowed_str(&scalar.text),
            },
            Meaning::Float(number) => visitor.visit_f64(number),
            Meaning::Text => visitor.visit_borrowed_str(&scalar.text),
        };
        result.map_err(|mistake: Mistake| self.claim(mistake))
    }

    fn deserialize_bool<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_bool(self.boolean()?)
    }

    whole_numbers!(
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64
    );

    fn deserialize_f32<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_f64(self.float()?)
    }

    fn deserialize_f64<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_f64(self.float()?)
    }

    fn deserialize_char<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_str<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_borrowed_str(self.string()?).map_err(|mistake: Mistake| self.claim(mistake))
    }

    fn deserialize_string<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        if self.reading.tree.is_null(self.id) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'t>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'t>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.value() {
            Value::Sequence(items) => visitor.visit_seq(Items { at: self, items: items.iter().enumerate() }),
            Value::Scalar(_) | Value::Mapping(_) => Err(self.must_be("a list")),
        }
    }

    fn deserialize_tuple<V: Visitor<'t>>(self, _len: usize, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'t>>(self, _name: &'static str, _len: usize, visitor: V) -> Result<V::Value, Mistake> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        let entries = self.entries()?.iter().filter(|entry| !self.reading.left_out.contains(&entry.value)).collect();
        visitor.visit_map(Entries::new(self, entries))
    }

    fn deserialize_struct<V: Visitor<'t>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_map(Entries::new(self, self.known_entries(name, fields)?))
    }

    fn deserialize_enum<V: Visitor<'t>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        let word = self.string()?;
        if !variants.contains(&word) {
            let listed = variants.iter().map(|variant| format!("`{variant}`")).collect::<Vec<_>>().join(", ");
            let mut mistake = self.mistake(format!("must be one of {listed}, found `{}`", shortened(word)));
            mistake.fault.hint = did_you_mean(word, variants.iter().copied()).map(|meant| format!("did you mean `{meant}`?"));
            return Err(mistake);
        }
        visitor.visit_enum(word.into_deserializer())
    }

    fn deserialize_ignored_any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Mistake> {
        visitor.visit_unit()
    }
}

/// The items of a list, without those left out.
struct Items<'t, 'r, I> {
    at: At<'t, 'r>,
    items: I,
}

impl<'t, I: Iterator<Item = (usize, &'t NodeId)>> SeqAccess<'t> for Items<'t, '_, I> {
    type Error = Mistake;

    fn next_element_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Mistake> {
        let left_out = self.at.reading.left_out;
        let Some((index, &id)) = self.items.find(|(_, id)| !left_out.contains(id)) else { return Ok(None) };
        let path = Path::Item(self.at.path, index);
        let item = At { reading: self.at.reading, id, path: &path, key: self.at.reading.tree.node(id).position };
        seed.deserialize(item).map(Some).map_err(|mistake| item.claim(mistake))
    }
}

/// The entries of a mapping.
struct Entries<'t, 'r> {
    at: At<'t, 'r>,
    rest: std::vec::IntoIter<&'t Entry>,
    current: Option<&'t Entry>,
}

impl<'t, 'r> Entries<'t, 'r> {
    fn new(at: At<'t, 'r>, entries: Vec<&'t Entry>) -> Self {
        Self { at, rest: entries.into_iter(), current: None }
    }
}

impl<'t> MapAccess<'t> for Entries<'t, '_> {
    type Error = Mistake;

    fn next_key_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<Option<S::Value>, Mistake> {
        self.current = self.rest.next();
        let Some(entry) = self.current else { return Ok(None) };
        let key: StrDeserializer<'_, Mistake> = (&*entry.key).into_deserializer();
        seed.deserialize(key).map(Some).map_err(|mistake| self.at.claim(mistake))
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, Mistake> {
        let entry = self.current.expect("serde asks for a value after its key because that is its contract");
        let path = Path::Key(self.at.path, &entry.key);
        let value = self.at.entry(entry, &path);
        seed.deserialize(value).map_err(|mistake| value.claim(mistake))
    }
}
