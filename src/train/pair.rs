//! Two values that belong together, read from a list of two; where something else stands, it is said what they are.

use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::marker::PhantomData;

/// In words, as it is to be written.
struct Pair<T>(&'static str, PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Pair<T> {
    type Value = (T, T);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let Some(first) = list.next_element()? else { return Err(A::Error::invalid_length(0, &self)) };
        let Some(second) = list.next_element()? else { return Err(A::Error::invalid_length(1, &self)) };
        let mut length = 2;
        while list.next_element::<IgnoredAny>()?.is_some() {
            length += 1;
        }
        if length > 2 {
            return Err(A::Error::invalid_length(length, &self));
        }
        Ok((first, second))
    }
}

fn pair<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D, words: &'static str) -> Result<(T, T), D::Error> {
    from.deserialize_seq(Pair(words, PhantomData))
}

/// Pixels.
pub(super) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<(usize, usize), D::Error> {
    pair(from, "[WIDTH, HEIGHT]")
}

/// Several of [`size`].
pub(super) fn sizes<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(usize, usize)>, D::Error> {
    #[derive(Deserialize)]
    struct Size(#[serde(deserialize_with = "size")] (usize, usize));
    Ok(Vec::<Size>::deserialize(from)?.into_iter().map(|Size(size)| size).collect())
}

/// A range's ends.
pub(super) fn range<'de, D: Deserializer<'de>>(from: D) -> Result<(f32, f32), D::Error> {
    pair(from, "[LOW, HIGH]")
}

/// Adam's two.
pub(super) fn betas<'de, D: Deserializer<'de>>(from: D) -> Result<(f64, f64), D::Error> {
    pair(from, "[BETA1, BETA2]")
}
