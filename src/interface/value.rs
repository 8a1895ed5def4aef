//! The value of a parameter, without ROS types.

use std::fmt;

/// A value as ROS 2 knows them (rcl_interfaces/ParameterValue).
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value: what a request to delete a parameter carries, and what rcl makes of an empty list in a YAML file.
    NotSet,
    /// true or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number.
    Double(f64),
    /// Text.
    String(String),
    /// A list.
    Bytes(Vec<u8>),
    /// A list.
    Bools(Vec<bool>),
    /// A list.
    Integers(Vec<i64>),
    /// A list.
    Doubles(Vec<f64>),
    /// A list.
    Strings(Vec<String>),
}

/// The type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`Value::Bool`].
    Bool,
    /// [`Value::Integer`].
    Integer,
    /// [`Value::Double`]; an integer is taken too.
    Double,
    /// [`Value::String`].
    String,
    /// [`Value::Integers`].
    Integers,
    /// [`Value::Strings`].
    Strings,
}

impl Kind {
    /// Its name in ROS 2's own words.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Bool => "boolean",
            Kind::Integer => "integer",
            Kind::Double => "double",
            Kind::String => "string",
            Kind::Integers => "integer array",
            Kind::Strings => "string array",
        }
    }
}

impl Value {
    /// The type's name in ROS 2's own words.
    pub const fn type_name(&self) -> &'static str {
        match self {
            Value::NotSet => "empty value",
            Value::Bool(_) => "boolean",
            Value::Integer(_) => "integer",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "byte array",
            Value::Bools(_) => "boolean array",
            Value::Integers(_) => "integer array",
            Value::Doubles(_) => "double array",
            Value::Strings(_) => "string array",
        }
    }

    /// Whether it is a list without elements. Tools that must guess a type for `[]` guess differently.
    fn is_empty_list(&self) -> bool {
        match self {
            Value::Bytes(v) => v.is_empty(),
            Value::Bools(v) => v.is_empty(),
            Value::Integers(v) => v.is_empty(),
            Value::Doubles(v) => v.is_empty(),
            Value::Strings(v) => v.is_empty(),
            _ => false,
        }
    }

    /// The value as one of `kind`: 1 is written for 1.0 more often than not, and `[]` has no type of its own.
    /// `numbers_as_text`: a text parameter that may be a number (or a list of texts that may be numbers).
    ///
    /// # Errors
    /// Expected and found, in words.
    pub fn into_kind(self, kind: Kind, numbers_as_text: bool) -> Result<Value, String> {
        match (kind, self) {
            (Kind::Double, Value::Integer(n)) => Ok(Value::Double(n as f64)),
            (Kind::String, Value::Integer(n)) if numbers_as_text => Ok(Value::String(n.to_string())),
            (Kind::String, Value::Double(x)) if numbers_as_text => Ok(Value::String(format!("{x:?}"))),
            (Kind::Strings, Value::Integers(v)) if numbers_as_text => {
                Ok(Value::Strings(v.iter().map(i64::to_string).collect()))
            }
            (Kind::Strings, v) if v.is_empty_list() => Ok(Value::Strings(Vec::new())),
            (Kind::Integers, v) if v.is_empty_list() => Ok(Value::Integers(Vec::new())),
            (_, v) if v.type_name() == kind.name() => Ok(v),
            (Kind::String | Kind::Strings, v @ (Value::Bool(_) | Value::Integer(_) | Value::Double(_))) => {
                Err(format!("expected a {}, got the {} {v}; put text in quotes", kind.name(), v.type_name()))
            }
            (_, Value::NotSet) => Err(format!("expected {}, got no value", article(kind.name()))),
            (_, v) => Err(format!("expected {}, got the {} {v}", article(kind.name()), v.type_name())),
        }
    }
}

/// `a double`, `an integer`.
fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}

/// As a user writes it in YAML's flow form.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: fmt::Debug>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
            f.debug_list().entries(items).finish()
        }
        match self {
            Value::NotSet => f.write_str("(nothing)"),
            Value::Bool(x) => x.fmt(f),
            Value::Integer(x) => x.fmt(f),
            Value::Double(x) => write!(f, "{x:?}"),
            Value::String(x) => write!(f, "{x:?}"),
            Value::Bytes(v) => list(f, v),
            Value::Bools(v) => list(f, v),
            Value::Integers(v) => list(f, v),
            Value::Doubles(v) => list(f, v),
            Value::Strings(v) => list(f, v),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_the_same_is_taken() {
        let s = |v: &[&str]| Value::Strings(v.iter().map(|s| s.to_string()).collect());
        assert_eq!(Value::Integer(1).into_kind(Kind::Double, false), Ok(Value::Double(1.0)));
        assert_eq!(Value::Double(1.5).into_kind(Kind::String, true), Ok(Value::String("1.5".into())));
        assert_eq!(Value::Integers(vec![0, 13]).into_kind(Kind::Strings, true), Ok(s(&["0", "13"])));
        for empty in [Value::Bools(vec![]), Value::Bytes(vec![]), Value::Strings(vec![])] {
            assert_eq!(empty.clone().into_kind(Kind::Strings, false), Ok(s(&[])));
            assert_eq!(empty.into_kind(Kind::Integers, false), Ok(Value::Integers(vec![])));
        }
    }

    #[test]
    fn what_does_not_is_refused_in_words() {
        for (value, kind, expected) in [
            (Value::Double(4.0), Kind::Integer, "expected an integer, got the double 4.0"),
            (Value::String("true".into()), Kind::Bool, "expected a boolean, got the string \"true\""),
            (Value::Integer(0), Kind::String, "expected a string, got the integer 0; put text in quotes"),
            (Value::Strings(vec!["1".into()]), Kind::Integers, "got the string array [\"1\"]"),
            (Value::NotSet, Kind::Double, "expected a double, got no value"),
        ] {
            let e = value.into_kind(kind, false).expect_err(expected);
            assert!(e.contains(expected), "'{expected}' is not in '{e}'");
        }
    }
}
