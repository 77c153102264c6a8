//! The fields of a type and of the types inside it, as serde tells them: by reading a value that has every field.

use super::ignored;
use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// A field by the name of its type and its own.
pub(super) type Fields = BTreeSet<(&'static str, &'static str)>;

/// Every field below a type that is read. Fields whose values cannot be made up are listed, and not looked into.
pub(super) fn fields_of<T: DeserializeOwned>() -> Fields {
    let walk = Walk::default();
    // Each round leaves out one field more.
    while T::deserialize(Value(&walk)).is_err() {
        let failed = walk.failed.take().expect("a mistake is noted because only fields' values make them");
        walk.left_out.borrow_mut().insert(failed);
    }
    walk.fields.into_inner()
}

#[derive(Default)]
struct Walk {
    fields: RefCell<Fields>,
    left_out: RefCell<Fields>,
    failed: RefCell<Option<(&'static str, &'static str)>>,
}

/// A value that is whatever is asked for.
#[derive(Clone, Copy)]
struct Value<'w>(&'w Walk);

macro_rules! made_up {
    ($($method:ident $visit:ident $value:expr),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = Error;

    made_up!(
        deserialize_bool visit_bool true, deserialize_i8 visit_i8 1, deserialize_i16 visit_i16 1, deserialize_i32 visit_i32 1,
        deserialize_i64 visit_i64 1, deserialize_u8 visit_u8 1, deserialize_u16 visit_u16 1, deserialize_u32 visit_u32 1,
        deserialize_u64 visit_u64 1, deserialize_f32 visit_f32 1.0, deserialize_f64 visit_f64 1.0, deserialize_char visit_char '1',
        deserialize_str visit_str "1", deserialize_string visit_str "1", deserialize_identifier visit_str "1",
        deserialize_bytes visit_str "1", deserialize_byte_buf visit_str "1"
    );

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str("1")
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Once { walk: self.0, left: 1 })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, left: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Once { walk: self.0, left })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, left: usize, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Once { walk: self.0, left })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Members { walk: self.0, type_name: None, rest: vec![&"1"], current: "" })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.fields.borrow_mut().extend(fields.iter().map(|field| (name, *field)));
        let is_read = |field: &&&'static str| !ignored::is_unread(name, field) && !self.0.left_out.borrow().contains(&(name, **field));
        let rest = fields.iter().rev().filter(is_read).collect();
        visitor.visit_map(Members { walk: self.0, type_name: Some(name), rest, current: "" })
    }

    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, variants: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        let first: StrDeserializer<'static, Error> = variants.first().ok_or_else(|| Error::custom("no variants"))?.into_deserializer();
        visitor.visit_enum(first)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

struct Once<'w> {
    walk: &'w Walk,
    left: usize,
}

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(Value(self.walk)).map(Some)
    }
}

/// The fields of a struct, or the one entry of a map.
struct Members<'w> {
    walk: &'w Walk,
    type_name: Option<&'static str>,
    rest: Vec<&'static &'static str>,
    current: &'static str,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let Some(field) = self.rest.pop() else { return Ok(None) };
        self.current = field;
        let key: StrDeserializer<'static, Error> = self.current.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let value = seed.deserialize(Value(self.walk));
        if let (Err(_), Some(type_name)) = (&value, self.type_name) {
            // The innermost field that fails is the one at fault.
            self.walk.failed.borrow_mut().get_or_insert((type_name, self.current));
        }
        value
    }
}
