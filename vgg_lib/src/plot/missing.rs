//! What a PNG figure cannot show: characters that are in no font, and writing that needs more than one glyph after
//! another.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use unicode_normalization::UnicodeNormalization;

use super::{Figure, figure::Element, font::Source, letters::can_be_set};

impl Figure {
    /// What the reader should know about the texts of this figure, a line for each kind of trouble. Nothing is said
    /// twice about the same character.
    pub(crate) fn text_notes(&self) -> Vec<String> {
        static SAID: Mutex<BTreeSet<char>> = Mutex::new(BTreeSet::new());
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut missing, mut unshaped) = (String::new(), String::new());
        for element in self.elements() {
            let Element::Text(text) = element else { continue };
            for c in text.text.nfc().filter(|c| !c.is_ascii()) {
                let list = match text.style.source(c) {
                    Source::Missing => &mut missing,
                    _ if needs_shaping(c) && !can_be_set(c) => &mut unshaped,
                    _ => continue,
                };
                if said.insert(c) {
                    list.push(c);
                }
            }
        }
        let mut notes = vec![];
        if !missing.is_empty() {
            notes.push(format!(
                "NOTE: no font on this machine draws these characters of the figure, so it shows boxes instead: {missing}. \
                 Install one that has them, such as Noto Sans CJK (Debian: `apt install fonts-noto-cjk`) or Noto Emoji, \
                 and restart."
            ));
        }
        if !unshaped.is_empty() {
            notes.push(format!(
                "NOTE: PNG figures set one letter after another, which is wrong for these: {unshaped}. Save the figure as \
                 .svg; browsers set it right."
            ));
        }
        notes
    }
}

/// Whether a letter belongs to a script whose letters join, change places or carry marks: Hebrew, Arabic and its
/// relatives, the scripts of India, Tibetan, Burmese and Khmer.
fn needs_shaping(c: char) -> bool {
    matches!(c, '\u{590}'..='\u{8ff}' | '\u{900}'..='\u{dff}' | '\u{f00}'..='\u{109f}' | '\u{1780}'..='\u{17ff}')
        || matches!(c, '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefc}')
}

#[cfg(test)]
mod tests {
    use crate::plot::bars;

    #[test]
    fn what_cannot_be_shown_is_said_once() {
        // A character for private use, and Arabic with a sign for a vowel.
        let figure =
            || bars("\u{10fffd} \u{5e9} \u{628}\u{64e}", "", &[("e\u{301}\u{10fffd}\u{fe0f}".to_string(), 0.5)]);
        let notes = figure().text_notes();
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].contains("it shows boxes instead: \u{10fffd}. Install"), "{notes:?}");
        assert!(notes[1].contains("wrong for these: \u{64e}. Save"), "{notes:?}");
        assert!(figure().text_notes().is_empty(), "said before");
        assert!(
            bars("Über Ωμέγα, Кошки: 猫?", "", &[("a".to_string(), 0.5)])
                .text_notes()
                .iter()
                .all(|note| note.contains("猫"))
        );
    }
}
