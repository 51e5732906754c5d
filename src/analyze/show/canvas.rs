//! What a plot is made of: kuva's primitives in few kinds, and the room that text takes.

use kuva::render::palette::Palette;
use kuva::render::render::{Primitive, Scene, TextAnchor, TextSpan};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

const FONT: &str = "DejaVu Sans, Verdana, Helvetica, Arial, sans-serif";
pub const INK: &str = "#222222";
/// For more formats than the palette has strong colours.
const MORE_COLORS: [&str; 3] = ["#8c6d31", "#7f7f7f", "#332288"];
/// A column of a terminal in ems of the font: a little more than the average letter is wide.
const COLUMN_EM: f64 = 0.64;

/// An estimate on the wide side: labels get more room than they need, never less.
pub fn text_width(text: &str, size: u32) -> f64 {
    text.width() as f64 * COLUMN_EM * f64::from(size)
}

/// Cuts a text to so many columns, with an ellipsis at the end.
pub fn shorten(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_string();
    }
    let mut left = columns.saturating_sub(1);
    let kept = text.chars().take_while(|c| {
        let fits = c.width().unwrap_or(0) <= left;
        left = left.saturating_sub(c.width().unwrap_or(0));
        fits
    });
    kept.chain(['…']).collect()
}

/// kuva's primitives, in the few kinds that are drawn here.
pub struct Canvas {
    pub scene: Scene,
}

impl Canvas {
    pub fn new(width: f64, height: f64) -> Canvas {
        let mut scene = Scene::new(width, height);
        scene.font_family = Some(FONT.into());
        scene.text_color = Some(INK.into());
        Canvas { scene }
    }

    #[allow(clippy::too_many_arguments)]
    pub fn text(
        &mut self,
        x: f64,
        y: f64,
        text: &str,
        size: u32,
        anchor: TextAnchor,
        color: &str,
        bold: bool,
    ) {
        let mut span = TextSpan::plain(text);
        span.bold = bold;
        // Rich text, unlike plain, does not read `$` as mathematics.
        self.scene.add(Primitive::RichText {
            x,
            y,
            spans: vec![span],
            size,
            anchor,
            color: Some(color.into()),
        });
    }

    pub fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, color: &str, stroke_width: f64) {
        self.scene.add(Primitive::Line {
            x1,
            y1,
            x2,
            y2,
            stroke: color.into(),
            stroke_width,
            stroke_dasharray: None,
        });
    }

    pub fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, color: &str, opacity: f64) {
        let (fill, opacity) = (color.into(), Some(opacity));
        self.scene.add(Primitive::Rect {
            x,
            y,
            width,
            height,
            fill,
            stroke: None,
            stroke_width: None,
            opacity,
        });
    }

    pub fn outline(&mut self, x: f64, y: f64, width: f64, height: f64, color: &str) {
        let (fill, stroke, stroke_width) = ("none".into(), Some(color.into()), Some(1.5));
        self.scene.add(Primitive::Rect { x, y, width, height, fill, stroke, stroke_width, opacity: None });
    }

    pub fn dot(&mut self, cx: f64, cy: f64, color: &str) {
        let (fill, stroke) = (color.into(), Some(INK.into()));
        let (fill_opacity, stroke_width) = (Some(0.8), Some(0.6));
        self.scene.add(Primitive::Circle { cx, cy, r: 2.8, fill, fill_opacity, stroke, stroke_width });
    }
}

/// A colour for each format, the same in every section; colour-blind readers can tell them apart.
pub struct Colors {
    formats: Vec<String>,
    palette: Vec<String>,
}

impl Colors {
    pub fn of(formats: impl Iterator<Item = String>) -> Colors {
        let mut formats: Vec<String> = formats.collect();
        formats.sort();
        formats.dedup();
        // The strong ones first; yellow is too faint on white, and black is for text.
        let okabe_ito = Palette::okabe_ito();
        let mut palette: Vec<String> =
            [0, 4, 2, 6, 1, 5].iter().filter_map(|i| okabe_ito.colors().get(*i).cloned()).collect();
        palette.extend(MORE_COLORS.map(String::from));
        // The baseline and our format have theirs whatever else is there.
        formats.retain(|format| format != "safetensors" && format != "sllm");
        formats.splice(0..0, ["safetensors".into(), "sllm".into()]);
        Colors { formats, palette }
    }

    pub fn get(&self, format: &str) -> String {
        let index = self.formats.iter().position(|known| known == format).unwrap_or(0);
        self.palette.get(index % self.palette.len().max(1)).cloned().unwrap_or_else(|| INK.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_by_columns() {
        assert_eq!(shorten("short", 5), "short");
        assert_eq!(shorten("longer", 5), "long…");
        assert_eq!(shorten("模型模型", 5), "模型…");
    }
}
