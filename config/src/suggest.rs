//! "Did you mean": the closest known word.

/// The word that is closest to `text`, if one is close enough that it may have been meant.
pub(crate) fn closest<'a>(text: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_lowercase();
    words
        .into_iter()
        .map(|word| (distance(&text, &word.to_lowercase()), word))
        .filter(|(distance, word)| *distance <= (word.chars().count().max(text.chars().count()) / 3).max(1))
        // The first of equals stays, so that the answer follows the order of `words`.
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// "`a`, `b` or `c`".
pub(crate) fn one_of<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.as_slice() {
        [] => "nothing".to_owned(),
        [word] => word.clone(),
        [head @ .., last] => format!("{} or {last}", head.join(", ")),
    }
}

/// How many characters must be inserted, removed, replaced or swapped with their neighbour to make `b` of `a`
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let mut cost = (last[j + 1] + 1).min(row[j] + 1).min(last[j] + usize::from(a[i] != b[j]));
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("device", "device", 0),
            ("devise", "device", 1),
            ("devcie", "device", 1),
            ("kitten", "sitting", 3),
            ("ca", "abc", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_closest_word_is_offered_and_nothing_when_all_are_far() {
        let words = ["device", "queues", "xdp", "zero-copy"];
        assert_eq!(closest("zerocopy", words), Some("zero-copy"));
        assert_eq!(closest("XDP", words), Some("xdp"));
        assert_eq!(closest("queue", words), Some("queues"));
        assert_eq!(closest("colour", words), None);
        assert_eq!(closest("", words), None);
    }

    #[test]
    fn choices_read_as_a_sentence() {
        assert_eq!(one_of(["a"]), "`a`");
        assert_eq!(one_of(["a", "b", "c"]), "`a`, `b` or `c`");
    }
}
