//! Formatting of numbers and text for tables, plots and sentences.

use indicatif::HumanCount;
use unicode_normalization::UnicodeNormalization;

/// An integer with thousands separators: 1234567 is "1,234,567".
pub(crate) fn thousands(n: usize) -> String {
    HumanCount(n as u64).to_string()
}

/// A count with its noun: "1 class", "1,000 classes".
pub(crate) fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", thousands(n), if n == 1 { one } else { many })
}

/// A measured number, rounded, with thousands separators; negative numbers are 0, and "–" if it is not finite.
pub(crate) fn rounded(value: f64) -> String {
    if value.is_finite() { thousands(value.max(0.0).round_ties_even() as usize) } else { "–".to_string() }
}

/// A number of bytes in MiB, GiB or TiB: "527.8 MiB", "1.50 GiB", "3,456 TiB".
pub(crate) fn bytes(n: usize) -> String {
    let mib = n as f64 / (1u64 << 20) as f64;
    match mib {
        ..1000.0 => format!("{mib:.1} MiB"),
        ..1e7 => format!("{:.2} GiB", mib / 1024.0),
        _ => format!("{} TiB", rounded(mib / 1024.0 / 1024.0)),
    }
}

/// A number of seconds as "9.9 s", "41 s", "3 min 20 s", "2 h 50 min", "3 d 4 h".
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "–".to_string();
    }
    let seconds = seconds.max(0.0);
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86400, s % 86400 / 3600),
    }
}

/// An estimated duration: like [`duration`], but without seconds from ten minutes on: "9 min 20 s", "42 min".
pub(crate) fn roughly(seconds: f64) -> String {
    match seconds {
        594.5..3600.0 => duration((seconds / 60.0).round() * 60.0).trim_end_matches(" 0 s").to_string(),
        _ => duration(seconds),
    }
}

/// Four significant digits, without trailing zeros: "0.1", "0.05", "2.441e-5".
pub(crate) fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let exponent = value.abs().log10().floor() as i32;
    let trim = |text: &str| text.trim_end_matches('0').trim_end_matches('.').to_string();
    match exponent {
        -4..=3 => {
            let text = format!("{value:.*}", (3 - exponent) as usize);
            if text.contains('.') { trim(&text) } else { text }
        }
        4..=8 => format!("{value:.0}"),
        _ => {
            let text = format!("{value:.3e}");
            match text.split_once('e') {
                Some((mantissa, exponent)) => format!("{}e{exponent}", trim(mantissa)),
                None => text,
            }
        }
    }
}

/// Hexadecimal digits, two for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first four items of a list and the number of the others: "a, b, c, d and 3 more".
pub(crate) fn listed(items: &[String], separator: &str) -> String {
    const SHOWN: usize = 4;
    let mut text = items[..items.len().min(SHOWN)].join(separator);
    if items.len() > SHOWN {
        text += &format!(" and {} more", items.len() - SHOWN);
    }
    text
}

/// Whether two names look the same. "é" is one character or two, depending on the system that wrote it; Unicode's normal
/// form C makes it one.
pub(crate) fn same_name(a: &str, b: &str) -> bool {
    // ASCII has one form. Lists of a thousand names are compared with each other, so this is worth a look.
    a == b || !(a.is_ascii() && b.is_ascii()) && a.nfc().eq(b.nfc())
}

/// Text from a file for an error sentence: at most 160 characters, with "?" in place of control characters.
pub(crate) fn printable(text: &str) -> String {
    const SHOWN: usize = 160;
    let mut shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Escapes text for HTML and SVG.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_largest_two_units() {
        let cases = [
            (0.0, "0.0 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.6, "1 min 0 s"),
            (200.0, "3 min 20 s"),
            (10_200.0, "2 h 50 min"),
            (273_600.0, "3 d 4 h"),
            (f64::NAN, "–"),
            (f64::INFINITY, "–"),
            (-3.0, "0.0 s"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
        let cases =
            [(560.0, "9 min 20 s"), (594.6, "10 min"), (2544.0, "42 min"), (3580.0, "1 h 0 min"), (f64::NAN, "–")];
        for (seconds, expected) in cases {
            assert_eq!(roughly(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn numbers_are_rounded_and_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            (counted(1, "class", "classes"), counted(1000, "file", "files")),
            ("1 class".into(), "1,000 files".into())
        );
        assert_eq!(rounded(999.4), "999");
        assert_eq!(rounded(1220.0), "1,220");
        assert_eq!(rounded(1_234_567.0), "1,234,567");
        assert_eq!(rounded(f64::INFINITY), "–");
        let cases = [
            (0.1, "0.1"),
            (0.05, "0.05"),
            (0.1 / 4096.0, "2.441e-5"),
            (0.00025, "0.00025"),
            (1e-6, "1e-6"),
            (10.0, "10"),
            (1000.0, "1000"),
            (12345.6, "12346"),
            (0.0, "0"),
            (f64::NAN, "NaN"),
            (-0.5, "-0.5"),
        ];
        for (value, expected) in cases {
            assert_eq!(significant(value), expected);
        }
    }
}
