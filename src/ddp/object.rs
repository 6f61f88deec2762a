//! Reads some fields of a JSON object and checks the rest of it, without unpacking anything.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};

use super::message::SyntaxError;

/// The text of each value that stands under one of `names`, in their order.
///
/// The whole of `json` has to be one object. Of keys that occur twice the last one counts, as in JavaScript. Values are
/// skipped in a loop, not by recursion, so that no nesting is too deep; nothing is allocated.
///
/// # Errors
/// `Empty`, `Json` and `NotObject`.
pub(super) fn fields<'a, const N: usize>(
    json: &'a str,
    names: [&'static str; N],
) -> Result<[Option<&'a RawValue>; N], SyntaxError> {
    if json.is_empty() {
        return Err(SyntaxError::Empty);
    }
    let mut reader = serde_json::Deserializer::from_str(json);
    reader
        .deserialize_map(Fields(names))
        .and_then(|found| reader.end().map(|()| found))
        .map_err(syntax)
}

/// The first element of a JSON array; `None` if `json` is anything else, or an empty array.
pub(super) fn first_element(json: &str) -> Option<&RawValue> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let first = reader.deserialize_seq(First).ok()?;
    reader.end().ok()?;
    first
}

/// What a value says if it is a string of valid Unicode.
pub(super) fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let json = value.get();
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(json).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// The value if it is there and a `T`.
pub(super) fn typed<T: DeserializeOwned>(value: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(value?.get()).ok()
}

fn syntax(error: serde_json::Error) -> SyntaxError {
    match error.classify() {
        Category::Data => SyntaxError::NotObject,
        Category::Syntax | Category::Eof | Category::Io => SyntaxError::Json,
    }
}

struct Fields<const N: usize>([&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Fields<N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = [None; N];
        while let Some(at) = map.next_key_seed(Key(&self.0))? {
            match at.and_then(|at| found.get_mut(at)) {
                Some(place) => *place = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// Finds a key among the wanted names.
struct Key<'n>(&'n [&'static str]);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Self::Value, D::Error> {
        reader.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|name| *name == key))
    }
}

struct First;

impl<'de> Visitor<'de> for First {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let first = array.next_element()?;
        while array.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first)
    }
}

#[cfg(test)]
mod tests {
    use super::{fields, first_element, text};
    use crate::ddp::SyntaxError;

    #[test]
    fn fields_are_found_wherever_they_stand() {
        let json = r#" {"b":[{"a":0}],"x":{"a":9},"\u0061":"1"} "#;
        let [a, b, c] = fields(json, ["a", "b", "c"]).unwrap();
        assert_eq!(a.unwrap().get(), "\"1\"");
        assert_eq!(b.unwrap().get(), r#"[{"a":0}]"#);
        assert!(c.is_none());
    }

    #[test]
    fn faults_are_told_apart() {
        for (json, fault) in [
            ("", SyntaxError::Empty),
            (" ", SyntaxError::Json),
            ("{", SyntaxError::Json),
            ("{}x", SyntaxError::Json),
            ("{\"a\":}", SyntaxError::Json),
            ("{\"a\":01}", SyntaxError::Json),
            ("{\"a\":[}]", SyntaxError::Json),
            ("{\"a\":1,}", SyntaxError::Json),
            ("{a:1}", SyntaxError::Json),
            ("{\"a\":\"\n\"}", SyntaxError::Json),
            ("{\"b\":\"\\x\"}", SyntaxError::Json),
            ("[]", SyntaxError::NotObject),
            ("5", SyntaxError::NotObject),
            ("null", SyntaxError::NotObject),
            ("\"a\"", SyntaxError::NotObject),
        ] {
            assert_eq!(fields(json, ["a"]).unwrap_err(), fault, "{json}");
        }
    }

    #[test]
    fn the_first_element_of_an_array_only() {
        assert_eq!(
            first_element("[ {\"a\":1} , 2]").unwrap().get(),
            "{\"a\":1}"
        );
        for json in ["", "[]", "{}", "[1", "[1]]", "[1,]"] {
            assert!(first_element(json).is_none(), "{json}");
        }
    }

    #[test]
    fn a_text_is_unpacked_only_where_it_must_be() {
        let json = r#"["plain","\u00e9\n\"","\ud800",5]"#;
        let values: Vec<&serde_json::value::RawValue> = serde_json::from_str(json).unwrap();
        let texts: Vec<_> = values.into_iter().map(text).collect();
        assert_eq!(
            texts,
            [Some("plain".into()), Some("é\n\"".into()), None, None]
        );
        assert!(matches!(texts[0], Some(std::borrow::Cow::Borrowed(_))));
    }
}
