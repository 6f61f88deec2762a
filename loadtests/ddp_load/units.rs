//! Times and rates as a person writes them.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// As "500ms", "30s" or "5m".
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Time(pub(crate) Duration);

/// As "50/s" or "0.5/s".
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate(pub(crate) f64);

/// As "500B", "300KiB" or "20MiB".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no size up to 4GiB: write it as 500B, 300KiB or 20MiB");
        let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(at);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let unit = match unit {
            "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        let bytes = unit.and_then(|unit: u64| number.checked_mul(unit));
        let bytes = bytes.filter(|bytes| *bytes <= 4 << 30);
        bytes.map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// In bytes.
impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no time: write it as 500ms, 30s or 5m");
        let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(at);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let millis = match unit {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let millis = millis.and_then(|unit| number.checked_mul(unit));
        let millis = millis.ok_or_else(wrong)?;
        if millis == 0 || millis > 24 * 3_600_000 {
            return Err(format!("{text:?} is not between 1ms and 24h"));
        }
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_suffix("/s").and_then(|n| n.parse::<f64>().ok());
        number
            .filter(|rate| (0.001..=1e7).contains(rate))
            .map(Self)
            .ok_or_else(|| {
                format!("{text:?} is no rate between 0.001/s and 10000000/s: write it as 50/s")
            })
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// In seconds.
impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_secs_f64())
    }
}

/// In a second.
impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_have_units() {
        for (text, millis) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000)] {
            assert_eq!(text.parse(), Ok(Time(Duration::from_millis(millis))));
        }
        for text in [
            "",
            "s",
            "5",
            "0s",
            "-1s",
            "1d",
            "99999999999999999999s",
            "25h",
        ] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
        for (text, bytes) in [("0B", 0), ("300KiB", 307_200), ("4GiB", 4 << 30)] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        for text in ["", "5", "5MB", "-1B", "5GiB", "99999999999999999999B"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!("0.5/s".parse(), Ok(Rate(0.5)));
        for text in ["", "5", "/s", "0/s", "-1/s", "NaN/s", "inf/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
