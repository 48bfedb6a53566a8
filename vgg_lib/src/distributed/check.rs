//! Whether all ranks train the same: one sentence names what differs.

/// The first setting in which a rank differs from rank 0. Each text has a setting per line, as its name, a tab and its
/// value; `names` are those of the ranks.
pub(super) fn difference(texts: &[String], names: &[String]) -> Option<String> {
    let parse = |text: &str| -> Vec<(String, String)> {
        let pairs = text.lines().filter_map(|line| line.split_once('\t'));
        pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    let first = parse(texts.first()?);
    let (rank, other) = texts.iter().enumerate().find(|(_, text)| **text != texts[0])?;
    let other = parse(other);
    let value = |settings: &[(String, String)], name: &str| {
        settings.iter().find(|(known, _)| known == name).map_or("none".to_string(), |(_, value)| value.clone())
    };
    let mut all = first.iter().chain(&other).map(|(name, _)| name);
    let name = all.find(|name| value(&first, name) != value(&other, name))?;
    let (here, there) = (value(&first, name), value(&other, name));
    Some(format!(
        "{} differs from {}: {name} is {there} there, not {here}; start all ranks with the same program, the same \
         settings and the same data",
        names[rank], names[0]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let names = ["rank 0 on a", "rank 1 on a", "rank 2 on b"].map(String::from);
        let same = "version\t0.1.0\nlayer conv\t3×3\nseed\t0\n".to_string();
        let texts = |other: &str| [same.clone(), same.clone(), other.to_string()];
        assert_eq!(difference(&texts(&same), &names), None);
        let sentence = difference(&texts("version\t0.2.0\nlayer conv\t3×3\nseed\t1\n"), &names).unwrap();
        assert!(sentence.starts_with("rank 2 on b differs from rank 0 on a: version is 0.2.0 there, not 0.1.0; "));
        let sentence = difference(&texts("version\t0.1.0\nlayer conv\t3×3\nlayer more\t1\nseed\t0\n"), &names).unwrap();
        assert!(sentence.contains(": layer more is 1 there, not none; "), "{sentence}");
    }
}
