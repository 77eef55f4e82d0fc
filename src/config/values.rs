//! Values with a unit, lists of one or many, and secrets.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::limits::Rate;

/// The longest duration: a hundred years. Nothing that is added to the present moment may overflow.
const LONGEST: Duration = Duration::from_secs(36_525 * 24 * 60 * 60);

/// A duration with its unit: `250ms`, `2s`, `5m`, `1h 30m`, `1d`; up to a hundred years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_number(text) {
            return Err(format!("`{text}` has no unit; write `{text}s`, `{text}m`, `{text}h` or `{text}d`"));
        }
        let duration = humantime::parse_duration(text).map_err(|error| {
            format!("`{text}` is not a duration ({error}); write `250ms`, `2s`, `5m`, `1h`, `1d`")
        })?;
        match duration <= LONGEST {
            true => Ok(Self(duration)),
            false => Err(format!("`{text}` is longer than a hundred years; write `1d` or `10years`")),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number of bytes with its unit: `800B`, `8MiB`, `1GB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_number(text) {
            return Err(format!("`{text}` has no unit; write `{text}B`, `{text}KiB` or `{text}MiB`"));
        }
        text.parse::<bytesize::ByteSize>()
            .map(|size| Self(size.as_u64()))
            .map_err(|_| format!("`{text}` is not a size; write `800B`, `64KiB`, `256MiB`, `1GiB`"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", bytesize::ByteSize(self.0))
    }
}

/// A share in percent: `0.1%`, kept as a number from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Share(pub f64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(number) = text.trim().strip_suffix('%') else {
            return Err(format!("`{text}` has no unit; write `{text}%`"));
        };
        match number.trim().parse::<f64>() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self(percent / 100.0)),
            _ => Err(format!("`{text}` is not a share; write a number from 0 to 100, such as `0.1%`")),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

fn is_number(text: &str) -> bool {
    text.trim().parse::<f64>().is_ok()
}

/// A secret. It shows as `***` wherever it is printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself, for the one place that compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl FromStr for Secret {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

/// Reads a scalar of any YAML type as its text, since `ttl: 5` and `secret: 12345` arrive as numbers and deserve
/// an answer about their meaning, not about their type.
struct ScalarVisitor<T> {
    expecting: &'static str,
    kind: PhantomData<T>,
}

impl<T: FromStr<Err = String>> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        number.to_string().parse().map_err(E::custom)
    }
}

macro_rules! scalar {
    ($type:ty, $expecting:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let kind = PhantomData;
                deserializer.deserialize_any(ScalarVisitor::<$type> { expecting: $expecting, kind })
            }
        }
    };
}

macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

scalar!(Period, "a duration such as `5m`");
scalar!(Size, "a size such as `8MiB`");
scalar!(Secret, "a secret");
scalar!(Share, "a share such as `0.1%`");
scalar!(Item, "text");
scalar!(Rate, "a rate such as `100/h`");
as_text!(Period);
as_text!(Rate);
as_text!(Share);
as_text!(Size);

/// Reads a text, or a map that says more. `S` is what the map is read as.
pub(super) fn text_or_map<'de, T, S, D>(deserializer: D, expecting: &'static str) -> Result<T, D::Error>
where
    T: for<'t> From<&'t str> + From<S>,
    S: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Either<T, S>(&'static str, PhantomData<(T, S)>);
    impl<'de, T: for<'t> From<&'t str> + From<S>, S: Deserialize<'de>> Visitor<'de> for Either<T, S> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            Ok(T::from(text))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            S::deserialize(MapAccessDeserializer::new(map)).map(T::from)
        }
    }
    deserializer.deserialize_any(Either::<T, S>(expecting, PhantomData))
}

/// Reads one value, be it a text or a map, or a list of them.
pub(super) fn one_or_list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    expecting: &'static str,
) -> Result<Vec<T>, D::Error> {
    struct Either<T>(&'static str, PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(text.into_deserializer()).map(|one| vec![one])
        }

        // `200` is as good as `"200"`.
        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Vec<T>, E> {
            T::deserialize(number.into_deserializer()).map(|one| vec![one])
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(|one| vec![one])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut values = Vec::new();
            while let Some(value) = list.next_element()? {
                values.push(value);
            }
            Ok(values)
        }
    }
    deserializer.deserialize_any(Either::<T>(expecting, PhantomData))
}

/// One value or a list of them: `listen: ":80"` or `listen: [":80", ":81"]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct OneOrMany(pub Vec<String>);

/// One of a list.
struct Item(String);

impl FromStr for Item {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let items: Vec<Item> = one_or_list(deserializer, "text or a list of texts")?;
        Ok(Self(items.into_iter().map(|Item(text)| text).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_need_a_unit() {
        assert_eq!("5m".parse(), Ok(Period(Duration::from_secs(300))));
        assert_eq!("1h 30m".parse(), Ok(Period(Duration::from_secs(5400))));
        assert_eq!("0s".parse(), Ok(Period(Duration::ZERO)));
        assert!("5".parse::<Period>().unwrap_err().contains("`5s`"));
        assert!("-5m".parse::<Period>().is_err());
        assert!("90years".parse::<Period>().is_ok());
        assert!("101years".parse::<Period>().unwrap_err().contains("a hundred years"));
        assert!("500000000000years".parse::<Period>().is_err());
        assert_eq!("800B".parse(), Ok(Size(800)));
        assert_eq!("8MiB".parse(), Ok(Size(8 << 20)));
        assert_eq!("1.5 KiB".parse(), Ok(Size(1536)));
        assert!("800".parse::<Size>().unwrap_err().contains("`800B`"));
        assert!("big".parse::<Size>().is_err());
    }

    #[test]
    fn shares_are_percents() {
        assert_eq!("0.1%".parse(), Ok(Share(0.001)));
        assert_eq!("100 %".parse(), Ok(Share(1.0)));
        assert!("5".parse::<Share>().unwrap_err().contains("`5%`"));
        for bad in ["101%", "-1%", "x%", "nan%"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_never_shows() {
        let secret: Secret = serde_yaml::from_str("hunter2").unwrap();
        assert_eq!(format!("{secret:?} {}", serde_yaml::to_string(&secret).unwrap().trim()), "*** '***'");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_number_in_place_of_text_is_told_what_it_lacks() {
        let error = serde_yaml::from_str::<Period>("5").unwrap_err().to_string();
        assert!(error.contains("no unit"), "{error}");
    }
}
