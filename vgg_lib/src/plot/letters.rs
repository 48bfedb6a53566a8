//! The letters of a text as they are set from left to right: composed (NFC), Hebrew and Arabic in their visual order, and
//! Arabic letters in the forms that join their neighbors, which Unicode has as characters of their own (Arabic
//! Presentation Forms).

use std::borrow::Cow;

use unicode_bidi::BidiInfo;
use unicode_normalization::UnicodeNormalization;

/// The characters to set one after another.
pub(super) fn letters(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let text: String = text.nfc().collect();
    if !text.chars().any(is_right_to_left) {
        return Cow::Owned(text);
    }
    let joined = join(&text);
    let bidi = BidiInfo::new(&joined, None);
    let mut out = String::new();
    for line in &bidi.paragraphs {
        let (levels, runs) = bidi.visual_runs(line, line.range.clone());
        for run in runs {
            let letters = joined[run.clone()].chars();
            if levels[run.start].is_rtl() { out.extend(letters.rev().map(mirrored)) } else { out.extend(letters) }
        }
    }
    Cow::Owned(out)
}

/// Brackets open to the other side in text from right to left.
fn mirrored(c: char) -> char {
    const PAIRS: &str = "()[]{}<>«»‹›";
    let at = PAIRS.chars().position(|bracket| bracket == c);
    at.and_then(|at| PAIRS.chars().nth(at ^ 1)).unwrap_or(c)
}

fn is_right_to_left(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}')
}

/// How many forms a letter has: 1 stands alone, 2 also joins the letter before it, 4 also the one after it. The forms
/// are in this order: alone, at the end, at the start, in the middle of joined letters.
const JOINED: [(char, char, u8); 42] = [
    ('ء', '\u{fe80}', 1),
    ('آ', '\u{fe81}', 2),
    ('أ', '\u{fe83}', 2),
    ('ؤ', '\u{fe85}', 2),
    ('إ', '\u{fe87}', 2),
    ('ئ', '\u{fe89}', 4),
    ('ا', '\u{fe8d}', 2),
    ('ب', '\u{fe8f}', 4),
    ('ة', '\u{fe93}', 2),
    ('ت', '\u{fe95}', 4),
    ('ث', '\u{fe99}', 4),
    ('ج', '\u{fe9d}', 4),
    ('ح', '\u{fea1}', 4),
    ('خ', '\u{fea5}', 4),
    ('د', '\u{fea9}', 2),
    ('ذ', '\u{feab}', 2),
    ('ر', '\u{fead}', 2),
    ('ز', '\u{feaf}', 2),
    ('س', '\u{feb1}', 4),
    ('ش', '\u{feb5}', 4),
    ('ص', '\u{feb9}', 4),
    ('ض', '\u{febd}', 4),
    ('ط', '\u{fec1}', 4),
    ('ظ', '\u{fec5}', 4),
    ('ع', '\u{fec9}', 4),
    ('غ', '\u{fecd}', 4),
    ('ف', '\u{fed1}', 4),
    ('ق', '\u{fed5}', 4),
    ('ك', '\u{fed9}', 4),
    ('ل', '\u{fedd}', 4),
    ('م', '\u{fee1}', 4),
    ('ن', '\u{fee5}', 4),
    ('ه', '\u{fee9}', 4),
    ('و', '\u{feed}', 2),
    ('ى', '\u{feef}', 2),
    ('ي', '\u{fef1}', 4),
    ('پ', '\u{fb56}', 4),
    ('چ', '\u{fb7a}', 4),
    ('ژ', '\u{fb8a}', 2),
    ('ک', '\u{fb8e}', 4),
    ('گ', '\u{fb92}', 4),
    ('ی', '\u{fbfc}', 4),
];
/// What follows lam, and the one letter that both become.
const LAM_ALEF: [(char, char); 4] = [('آ', '\u{fef5}'), ('أ', '\u{fef7}'), ('إ', '\u{fef9}'), ('ا', '\u{fefb}')];

/// A letter's first form and the number of its forms.
fn forms(c: char) -> Option<(char, u8)> {
    JOINED.iter().find(|(letter, ..)| *letter == c).map(|&(_, first, count)| (first, count))
}

/// Whether letters of this form can be set right.
pub(super) fn can_be_set(c: char) -> bool {
    let is_hebrew = matches!(c, '\u{5be}' | '\u{5c0}' | '\u{5c3}' | '\u{5d0}'..='\u{5f4}');
    is_hebrew
        || forms(c).is_some()
        || matches!(c, '\u{60c}' | '\u{61b}' | '\u{61f}' | '\u{660}'..='\u{66c}' | '\u{6f0}'..='\u{6f9}')
}

/// The text in the same order, with Arabic letters in their joined forms.
fn join(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let joins_next = |at: usize| matches!(forms(chars[at]), Some((_, 4)));
    let joins_before = |at: usize| chars.get(at).is_some_and(|&c| matches!(forms(c), Some((_, 2 | 4))));
    let mut out = String::new();
    let mut at = 0;
    let mut linked = false; // whether the letter before reaches over to this one
    while at < chars.len() {
        let alef = chars.get(at + 1).and_then(|next| LAM_ALEF.iter().find(|(alef, _)| alef == next));
        if let ('ل', Some(&(_, both))) = (chars[at], alef) {
            out.extend(char::from_u32(both as u32 + u32::from(linked)));
            (at, linked) = (at + 2, false);
            continue;
        }
        let reaches = joins_next(at) && joins_before(at + 1);
        match forms(chars[at]) {
            Some((first, count)) => {
                let form = u32::from(linked && count > 1) + 2 * u32::from(reaches);
                out.extend(char::from_u32(first as u32 + form));
            }
            None => out.push(chars[at]),
        }
        (at, linked) = (at + 1, reaches);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_texts_stay_as_they_are() {
        assert_eq!(letters("cat (2) – Ωμέγα 猫"), "cat (2) – Ωμέγα 猫");
        assert_eq!(letters("e\u{301}"), "\u{e9}");
    }

    /// The forms and their order are those of Python's arabic-reshaper 3.1.0 and python-bidi 0.6.12.
    #[test]
    fn arabic_and_hebrew_are_set_from_right_to_left_and_joined() {
        let expected = [
            ("قطة", "\u{fe94}\u{fec4}\u{fed7}"),
            ("كلب", "\u{fe90}\u{fee0}\u{fedb}"),
            ("العربية", "\u{fe94}\u{fef4}\u{fe91}\u{feae}\u{fecc}\u{fedf}\u{fe8d}"),
            ("حيوان أليف", "\u{fed2}\u{fef4}\u{fedf}\u{fe83} \u{fee5}\u{fe8d}\u{feee}\u{fef4}\u{fea3}"),
            ("سلام", "\u{fee1}\u{fefc}\u{feb3}"),
            ("لا إله", "\u{feea}\u{fedf}\u{fe87} \u{fefb}"),
            ("گربه", "\u{feea}\u{fe91}\u{feae}\u{fb94}"),
            ("سگ ژاپنی", "\u{fbfd}\u{fee8}\u{fb58}\u{fe8d}\u{fb8a} \u{fb93}\u{feb3}"),
            ("class قطة 12", "class 12 \u{fe94}\u{fec4}\u{fed7}"),
            ("صورة 3 من 10", "10 \u{fee6}\u{fee3} 3 \u{fe93}\u{fead}\u{feee}\u{febb}"),
            ("الآن", "\u{fee5}\u{fef5}\u{fe8d}"),
            ("חתול", "\u{5dc}\u{5d5}\u{5ea}\u{5d7}"),
            ("class חתול 12", "class 12 \u{5dc}\u{5d5}\u{5ea}\u{5d7}"),
            ("חתול 12 (a)", "(a) 12 \u{5dc}\u{5d5}\u{5ea}\u{5d7}"),
        ];
        for (text, expected) in expected {
            assert_eq!(letters(text), expected, "{text}");
        }
    }
}
