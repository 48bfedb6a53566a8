//! Text set in DejaVu Sans: glyphs, widths and shortening. The font comes from a crate, so that figures look the same on
//! every machine. Characters that it lacks come from the fonts of the system.

use std::sync::LazyLock;

use ab_glyph::{Font, FontArc, FontRef, Glyph, PxScale, ScaleFont, point};

use super::{fallback, letters::letters};

/// The size of one em in logical pixels, and the weight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) size: f64,
    pub(super) bold: bool,
}

impl Style {
    pub(super) fn plain(size: f64) -> Style {
        Style { size, bold: false }
    }

    pub(super) fn bold(size: f64) -> Style {
        Style { size, bold: true }
    }

    /// The width of a text in logical pixels.
    pub(super) fn width(self, text: &str) -> f64 {
        self.glyphs(text, 1.0).1
    }

    /// The glyphs of a text, side by side on the baseline from (0, 0) on, each with its font, and their joint width.
    pub(super) fn glyphs(self, text: &str, scale: f64) -> (Vec<(Glyph, FontArc)>, f64) {
        let em = (self.size * scale) as f32;
        let mut glyphs: Vec<(Glyph, FontArc)> = Vec::new();
        let mut before = None;
        let mut x = 0.0;
        for c in letters(text).chars() {
            let (source, font) = match self.source(c) {
                Source::Nothing => continue,
                Source::System(font) => (true, font),
                Source::DejaVu | Source::Missing => (false, self.dejavu().clone()),
            };
            // `PxScale` measures line heights, not em.
            let size = PxScale::from(em * font.height_unscaled() / font.units_per_em().unwrap_or(1.0));
            let scaled = font.as_scaled(size);
            let id = scaled.glyph_id(c);
            x += before.filter(|(other, _)| *other == source).map_or(0.0, |(_, last)| scaled.kern(last, id));
            let advance = scaled.h_advance(id);
            glyphs.push((id.with_scale_and_position(size, point(x, 0.0)), font));
            x += advance;
            before = Some((source, id));
        }
        (glyphs, f64::from(x))
    }

    /// Where a character comes from.
    pub(super) fn source(self, c: char) -> Source {
        if self.dejavu().glyph_id(c).0 != 0 {
            return Source::DejaVu;
        }
        // They join or vary the characters around them.
        if matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{fe00}'..='\u{fe0f}')
            || matches!(c, '\u{feff}' | '\u{1f3fb}'..='\u{1f3ff}' | '\u{e0000}'..='\u{e01ef}')
        {
            return Source::Nothing;
        }
        fallback::font_with(c, self.bold).map_or(Source::Missing, Source::System)
    }

    fn dejavu(self) -> &'static FontArc {
        static FONTS: LazyLock<[FontArc; 2]> = LazyLock::new(|| {
            [dejavu::sans::regular(), dejavu::sans::bold()]
                .map(|bytes| FontArc::new(FontRef::try_from_slice(bytes).expect("DejaVu is a valid font")))
        });
        &FONTS[usize::from(self.bold)]
    }

    /// The text, shortened with "…" if it is wider than `width`.
    pub(super) fn shorten(self, text: &str, width: f64) -> String {
        if self.width(text) <= width {
            return text.to_string();
        }
        let mut kept: Vec<char> = text.chars().take(200).collect();
        while kept.pop().is_some() {
            let cut = kept.iter().collect::<String>().trim_end().to_string() + "…";
            if self.width(&cut) <= width {
                return cut;
            }
        }
        String::new()
    }
}

/// Where the glyph of a character comes from.
pub(super) enum Source {
    DejaVu,
    System(FontArc),
    /// It is not drawn.
    Nothing,
    /// No font has it, so DejaVu's box stands for it.
    Missing,
}
