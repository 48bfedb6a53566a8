//! Text set in DejaVu Sans: glyphs, widths and shortening. The font comes from a crate, so that figures look the same on
//! every machine.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, Glyph, PxScale, ScaleFont, point};

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

    /// The glyphs of a text, side by side on the baseline from (0, 0) on, and their joint width.
    pub(super) fn glyphs(self, text: &str, scale: f64) -> (Vec<Glyph>, f64) {
        let em = (self.size * scale) as f32;
        // `PxScale` measures line heights, not em.
        let size = PxScale::from(em * self.font().height_unscaled() / self.font().units_per_em().unwrap_or(1.0));
        let font = self.font().as_scaled(size);
        let mut glyphs: Vec<Glyph> = Vec::new();
        let mut x = 0.0;
        for c in text.chars() {
            let id = font.glyph_id(c);
            x += glyphs.last().map_or(0.0, |last| font.kern(last.id, id));
            glyphs.push(id.with_scale_and_position(size, point(x, 0.0)));
            x += font.h_advance(id);
        }
        (glyphs, f64::from(x))
    }

    pub(super) fn font(self) -> &'static FontRef<'static> {
        static FONTS: LazyLock<[FontRef<'static>; 2]> = LazyLock::new(|| {
            [dejavu::sans::regular(), dejavu::sans::bold()]
                .map(|bytes| FontRef::try_from_slice(bytes).expect("DejaVu is a valid font"))
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
