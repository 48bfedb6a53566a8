//! Fonts of the system, for characters that DejaVu Sans lacks: Chinese, Japanese, Korean, and many emoji.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use ab_glyph::{Font, FontArc, FontRef, FontVec};
use fontdb::{Database, FaceInfo, ID, Style};

/// A font of the system that draws this character. `None` if there is none.
pub(super) fn font_with(c: char, bold: bool) -> Option<FontArc> {
    static SYSTEM: LazyLock<Mutex<Fonts>> = LazyLock::new(|| {
        let mut system = Database::new();
        system.load_system_fonts();
        Mutex::new(Fonts::new(system))
    });
    SYSTEM.lock().unwrap_or_else(PoisonError::into_inner).font_with(c, bold)
}

struct Fonts {
    system: Database,
    /// The fonts that were needed so far.
    loaded: Vec<(ID, FontArc)>,
    /// What was asked for so far.
    known: HashMap<(char, bool), Option<FontArc>>,
}

impl Fonts {
    fn new(system: Database) -> Fonts {
        Fonts { system, loaded: vec![], known: HashMap::new() }
    }

    fn font_with(&mut self, c: char, bold: bool) -> Option<FontArc> {
        if let Some(known) = self.known.get(&(c, bold)) {
            return known.clone();
        }
        let font = self.find(c, bold);
        self.known.insert((c, bold), font.clone());
        font
    }

    /// The font with the character that looks most like DejaVu Sans.
    fn find(&mut self, c: char, bold: bool) -> Option<FontArc> {
        let mut faces: Vec<&FaceInfo> = self.system.faces().collect();
        faces.sort_by_cached_key(|face| difference(face, bold));
        let has = |data: &[u8], index| FontRef::try_from_slice_and_index(data, index).is_ok_and(|font| draws(&font, c));
        let with = |id| self.system.with_face_data(id, has).unwrap_or(false);
        let id = faces.into_iter().map(|face| face.id).find(|&id| with(id))?;
        if let Some((_, font)) = self.loaded.iter().find(|(loaded, _)| *loaded == id) {
            return Some(font.clone());
        }
        let load = |data: &[u8], index| FontVec::try_from_vec_and_index(data.to_vec(), index).ok();
        let font = FontArc::new(self.system.with_face_data(id, load)??);
        self.loaded.push((id, font.clone()));
        Some(font)
    }
}

/// Fonts with a smaller one are taken first. The name makes the order the same every time.
fn difference(face: &FaceInfo, bold: bool) -> (bool, bool, u16, bool, String, u32) {
    let weight = if bold { 700 } else { 400 };
    let has_serifs = face.families.iter().any(|(name, _)| name.contains("Serif") || name.contains("Ming"));
    let name = face.post_script_name.clone();
    (face.style != Style::Normal, has_serifs, face.weight.0.abs_diff(weight), face.monospaced, name, face.index)
}

/// Whether a font has the outline of a character. Some have emoji as bitmaps only.
pub(super) fn draws(font: &impl Font, c: char) -> bool {
    let id = font.glyph_id(c);
    id.0 != 0 && (font.outline(id).is_some() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ab_glyph::ScaleFont;

    #[test]
    fn the_font_that_has_the_character_is_found_once() {
        let mut system = Database::new();
        system.load_fonts_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fonts"));
        let mut fonts = Fonts::new(system);
        let cat = fonts.font_with('猫', false).unwrap();
        assert_eq!((cat.glyph_id('猫').0, cat.as_scaled(10.0).h_advance(cat.glyph_id('猫'))), (1, 10.0));
        assert!(fonts.font_with('犬', true).is_some() && fonts.font_with('猫', false).is_some());
        assert_eq!((fonts.loaded.len(), fonts.known.len()), (1, 2));
        assert!(fonts.font_with('鳥', false).is_none(), "in no font");
        assert!(fonts.font_with('\u{1f431}', false).is_none(), "in the font, but without an outline");
    }
}
