//! Durations, sizes and rates as people write them: `10s`, `200MiB`, `20/s`.

use std::time::Duration;

/// Why a text is none of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnitError {
    #[error("a number without a unit")]
    NoUnit,
    #[error("an unknown unit")]
    UnknownUnit,
    #[error("not a whole number with a unit")]
    Malformed,
    #[error("too large")]
    TooLarge,
    #[error("less than 1 per second")]
    TooSlow,
}

const DAY: u64 = 24 * 3_600_000;

/// Milliseconds per unit, largest first.
const TIMES: [(&str, u64); 5] = [
    ("d", DAY),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Ten years: everything below can be added to any clock without overflow.
const LONGEST: u64 = 3_650 * DAY;

const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// One or more whole numbers with a unit, such as `10s`, `500ms` or `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    loop {
        let (number, unit, tail) = term(rest)?;
        let (_, scale) = TIMES
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or(UnitError::UnknownUnit)?;
        total = number
            .checked_mul(*scale)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= LONGEST)
            .ok_or(UnitError::TooLarge)?;
        if tail.is_empty() {
            return Ok(Duration::from_millis(total));
        }
        rest = tail;
    }
}

/// In the largest unit that needs no fraction.
pub(super) fn print_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (unit, scale) = TIMES
        .iter()
        .find(|(_, scale)| ms != 0 && ms.is_multiple_of(*scale))
        .unwrap_or(&("s", 1_000));
    format!("{}{unit}", ms / scale)
}

/// A whole number with a unit, such as `200MiB`, in bytes.
pub(super) fn size(text: &str) -> Result<u64, UnitError> {
    let (number, unit, tail) = term(text.trim())?;
    if !tail.is_empty() {
        return Err(UnitError::Malformed);
    }
    let (_, scale) = SIZES
        .iter()
        .find(|(name, _)| *name == unit || (unit == "KB" && *name == "kB"))
        .ok_or(UnitError::UnknownUnit)?;
    // TOML's own integers end there, and so does every sum that is made of sizes.
    number
        .checked_mul(*scale)
        .filter(|size| *size <= 1 << 53)
        .ok_or(UnitError::TooLarge)
}

pub(super) fn print_size(bytes: u64) -> String {
    let (unit, scale) = SIZES
        .iter()
        .find(|(_, scale)| bytes != 0 && bytes.is_multiple_of(*scale))
        .unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / scale)
}

/// Events per second from `20/s` or `600/min`.
pub(super) fn rate(text: &str) -> Result<u32, UnitError> {
    let text = text.trim();
    let (number, unit) = match text.split_once('/') {
        Some((number, unit)) => (number.trim_end(), unit.trim_start()),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() => {
            return Err(UnitError::NoUnit);
        }
        None => return Err(UnitError::Malformed),
    };
    let number = whole(number)?;
    per_second(number, unit)
}

/// A number of events and a time for them, from `600/60s` or `600/min`; neither is 0.
pub(super) fn quota(text: &str) -> Result<(u32, Duration), UnitError> {
    let text = text.trim();
    let Some((number, time)) = text.split_once('/') else {
        return Err(if text.bytes().all(|byte| byte.is_ascii_digit()) {
            UnitError::NoUnit
        } else {
            UnitError::Malformed
        });
    };
    let number = u32::try_from(whole(number.trim_end())?).map_err(|_| UnitError::TooLarge)?;
    let time = match time.trim_start() {
        "s" => Duration::from_secs(1),
        "min" => Duration::from_secs(60),
        time => duration(time)?,
    };
    if number == 0 || time.is_zero() {
        return Err(UnitError::TooSlow);
    }
    Ok((number, time))
}

/// In seconds where they are enough: a rule is read as so many per 60s, not per 1m.
pub(super) fn print_interval(interval: Duration) -> String {
    if interval.subsec_millis() == 0 {
        format!("{}s", interval.as_secs())
    } else {
        print_duration(interval)
    }
}

/// Bytes per second from `128KiB/s`.
pub(super) fn byte_rate(text: &str) -> Result<u32, UnitError> {
    match text.trim().split_once('/') {
        Some((number, unit)) => per_second(size(number)?, unit.trim_start()),
        None => Err(size(text).err().unwrap_or(UnitError::NoUnit)),
    }
}

fn per_second(number: u64, unit: &str) -> Result<u32, UnitError> {
    let seconds = match unit {
        "s" => 1,
        "min" => 60,
        _ => return Err(UnitError::UnknownUnit),
    };
    match number / seconds {
        0 => Err(UnitError::TooSlow),
        rate => u32::try_from(rate).map_err(|_| UnitError::TooLarge),
    }
}

/// The first number and its unit, and what follows.
fn term(text: &str) -> Result<(u64, &str, &str), UnitError> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let number = whole(number)?;
    let rest = rest.trim_start();
    if rest.is_empty() {
        return Err(UnitError::NoUnit);
    }
    let letters = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    if letters == 0 {
        return Err(UnitError::Malformed);
    }
    let (unit, tail) = rest.split_at(letters);
    Ok((number, unit, tail.trim_start()))
}

fn whole(digits: &str) -> Result<u64, UnitError> {
    let digits = digits.replace('_', "");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UnitError::Malformed);
    }
    digits.parse().map_err(|_| UnitError::TooLarge)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        UnitError, byte_rate, duration, print_duration, print_interval, print_size, quota, rate,
        size,
    };

    #[test]
    fn durations() {
        let ok = [
            ("10s", 10_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("1d", 86_400_000),
            ("0s", 0),
            ("1_000 ms", 1_000),
        ];
        for (text, ms) in ok {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        let bad = [
            ("10", UnitError::NoUnit),
            ("", UnitError::Malformed),
            ("s", UnitError::Malformed),
            ("1.5s", UnitError::Malformed),
            ("-1s", UnitError::Malformed),
            ("5 sec", UnitError::UnknownUnit),
            ("5M", UnitError::UnknownUnit),
            ("99999999999999999999s", UnitError::TooLarge),
            ("9999999999h", UnitError::TooLarge),
            ("4000d", UnitError::TooLarge),
            ("1h30", UnitError::NoUnit),
        ];
        for (text, error) in bad {
            assert_eq!(duration(text), Err(error), "{text}");
        }
    }

    #[test]
    fn durations_print_as_they_are_read() {
        for text in ["0s", "1ms", "1500ms", "10s", "90s", "1m", "1h", "3d"] {
            assert_eq!(print_duration(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes() {
        let ok = [
            ("200MiB", 200 << 20),
            ("64 KiB", 64 << 10),
            ("1GB", 1_000_000_000),
            ("10kB", 10_000),
            ("10KB", 10_000),
            ("0B", 0),
            ("7B", 7),
        ];
        for (text, bytes) in ok {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        let bad = [
            ("1024", UnitError::NoUnit),
            ("1Mb", UnitError::UnknownUnit),
            ("1M", UnitError::UnknownUnit),
            ("1MiB2", UnitError::Malformed),
            ("9999999TiB", UnitError::TooLarge),
            ("1.5MiB", UnitError::Malformed),
        ];
        for (text, error) in bad {
            assert_eq!(size(text), Err(error), "{text}");
        }
        for text in ["0B", "1B", "1025B", "1KiB", "200MiB", "3GiB", "5kB"] {
            assert_eq!(print_size(size(text).unwrap()), text);
        }
    }

    #[test]
    fn quotas() {
        let seconds = Duration::from_secs;
        assert_eq!(quota("600/60s"), Ok((600, seconds(60))));
        assert_eq!(quota(" 1_000 / 1m 30s "), Ok((1000, seconds(90))));
        assert_eq!(quota("600/min"), Ok((600, seconds(60))));
        assert_eq!(quota("600 / s"), Ok((600, seconds(1))));
        assert_eq!(quota("1/500ms"), Ok((1, Duration::from_millis(500))));
        for (text, error) in [
            ("600", UnitError::NoUnit),
            ("600/60", UnitError::NoUnit),
            ("600/m", UnitError::Malformed),
            ("600/60sec", UnitError::UnknownUnit),
            ("60s", UnitError::Malformed),
            ("0/60s", UnitError::TooSlow),
            ("600/0s", UnitError::TooSlow),
            ("5000000000/60s", UnitError::TooLarge),
        ] {
            assert_eq!(quota(text), Err(error), "{text}");
        }
        for text in ["60s", "10s", "500ms", "3600s", "1500ms"] {
            assert_eq!(print_interval(duration(text).unwrap()), text);
        }
    }

    #[test]
    fn rates() {
        assert_eq!(rate("20/s"), Ok(20));
        assert_eq!(rate("600/min"), Ok(10));
        assert_eq!(rate("20 / s"), Ok(20));
        assert_eq!(rate("20"), Err(UnitError::NoUnit));
        assert_eq!(rate("20/h"), Err(UnitError::UnknownUnit));
        assert_eq!(rate("0/s"), Err(UnitError::TooSlow));
        assert_eq!(rate("30/min"), Err(UnitError::TooSlow));
        assert_eq!(rate("x/s"), Err(UnitError::Malformed));
        assert_eq!(rate("5000000000/s"), Err(UnitError::TooLarge));
        assert_eq!(byte_rate("128KiB/s"), Ok(128 << 10));
        assert_eq!(byte_rate("60MB/min"), Ok(1_000_000));
        assert_eq!(byte_rate("128KiB"), Err(UnitError::NoUnit));
        assert_eq!(byte_rate("128"), Err(UnitError::NoUnit));
        assert_eq!(byte_rate("128/s"), Err(UnitError::NoUnit));
    }
}
