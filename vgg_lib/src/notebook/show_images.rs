//! How images and datasets look in a notebook: as pictures.

use std::io::Cursor;

use base64::{Engine, prelude::BASE64_STANDARD};
use image::{
    ImageFormat, RgbImage,
    imageops::{self, FilterType},
};

use super::show::{Show, Shown};
use crate::data::Dataset;
use crate::plot;
use crate::table::{Column, Table};
use crate::text::{counted, escape, thousands};

/// The longer side of an image, in pixels: smaller ones are enlarged to at most this, larger ones are scaled down.
const SIDE: u32 = 512;
/// Images of a dataset, and images side by side.
const EXAMPLES: usize = 8;
/// More classes are not listed.
const CLASSES: usize = 20;

impl Show for RgbImage {
    fn shown(&self) -> Shown {
        let (width, height) = self.dimensions();
        let text = format!("RgbImage of {width}×{height} pixels");
        match png(&at_a_good_size(self)) {
            Some(png) => Shown::png(&png, &text),
            None => Shown::text(&text),
        }
    }
}

/// Small images with sharp pixels.
pub(super) fn at_a_good_size(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    let longer = width.max(height).max(1);
    match SIDE / longer {
        0 => {
            let scaled = |side: u32| (u64::from(side) * u64::from(SIDE) / u64::from(longer)).max(1) as u32;
            imageops::resize(image, scaled(width), scaled(height), FilterType::Triangle)
        }
        1 => image.clone(),
        factor => {
            let factor = factor.min(8);
            imageops::resize(image, width * factor, height * factor, FilterType::Nearest)
        }
    }
}

/// `None` for an image without pixels.
pub(super) fn png(image: &RgbImage) -> Option<Vec<u8>> {
    let mut png = Cursor::new(vec![]);
    image.write_to(&mut png, ImageFormat::Png).ok()?;
    Some(png.into_inner())
}

impl Show for [RgbImage] {
    fn shown(&self) -> Shown {
        Shown::figure(&plot::image_grid(self, &[] as &[String], self.len().min(EXAMPLES)))
    }
}

/// The shape, the number of images of each class, and some of the images.
impl Show for Dataset {
    fn shown(&self) -> Shown {
        let (h, w, c) = self.image_shape();
        let kind = format!("{} of {h}×{w}×{c}", counted(self.len(), "image", "images"));
        let title = format!("{kind}, {}", counted(self.classes().len(), "class", "classes"));
        let table = classes(self);
        let more = match self.classes().len().saturating_sub(CLASSES) {
            0 => String::new(),
            more => format!("and {more} more"),
        };
        let text = format!("{title}\n{}\n{more}", table.lines().join("\n"));
        let html = format!("<p>{}</p>{}<p>{more}</p>{}", escape(&title), table.html(), strip(self));
        Shown::html(html, &text.trim_end())
    }
}

fn classes(data: &Dataset) -> Table<2> {
    let mut counts = vec![0; data.classes().len()];
    data.labels().iter().for_each(|&label| counts[label] += 1);
    let rows = data.classes().iter().zip(counts).take(CLASSES).map(|(class, count)| [class.clone(), thousands(count)]);
    Table { columns: [Column::left("Class", 0), Column::right("Images", 0)], rows: rows.collect() }
}

/// The first image of each of the first classes, in their original colors. Whoever publishes a notebook finds these
/// images by their HTML class. Features are not shown.
fn strip(data: &Dataset) -> String {
    if !matches!(data.image_shape(), (2.., 2.., 1 | 3)) {
        return String::new();
    }
    let first = |class: usize| data.labels().iter().position(|&label| label == class);
    let examples: Vec<usize> = (0..data.classes().len()).filter_map(first).take(EXAMPLES).collect();
    if examples.is_empty() {
        return String::new();
    }
    let images: Vec<RgbImage> = examples.iter().map(|&index| data.image(index)).collect();
    let titles: Vec<String> = examples.iter().map(|&index| data.classes()[data.labels()[index]].clone()).collect();
    let figure = plot::image_grid(&images, &titles, EXAMPLES);
    let (width, _) = figure.size();
    let Ok(png) = figure.png() else { return String::new() };
    let data = BASE64_STANDARD.encode(png);
    format!(
        "<img class=\"vgg-dataset-images\" width=\"{}\" alt=\"one image of each class\" \
         src=\"data:image/png;base64,{data}\">",
        width / 2
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shapes;
    use image::Rgb;

    fn content(shown: &Shown, wanted: &str) -> String {
        shown.contents.iter().find(|(mime, _)| *mime == wanted).expect(wanted).1.clone()
    }

    fn picture(shown: &Shown) -> RgbImage {
        let png = BASE64_STANDARD.decode(content(shown, "image/png")).unwrap();
        image::load_from_memory(&png).unwrap().into_rgb8()
    }

    #[test]
    fn an_image_shows_its_pixels_at_a_good_size() {
        let image = |w, h| RgbImage::from_pixel(w, h, Rgb([10, 200, 30]));
        for ((w, h), (width, height)) in
            [((32, 32), (256, 256)), ((300, 200), (300, 200)), ((2000, 1000), (512, 256)), ((100, 50), (500, 250))]
        {
            let shown = image(w, h).shown();
            assert_eq!(content(&shown, "text/plain"), format!("RgbImage of {w}×{h} pixels"));
            let picture = picture(&shown);
            assert_eq!(picture.dimensions(), (width, height));
            assert_eq!(picture.get_pixel(width / 2, height / 2), &Rgb([10, 200, 30]));
        }
        assert_eq!(content(&RgbImage::new(0, 3).shown(), "text/plain"), "RgbImage of 0×3 pixels");
        assert!(picture(&[image(4, 4), image(4, 4)].as_slice().shown()).width() > 100);
    }

    #[test]
    fn a_dataset_shows_its_counts_and_one_image_of_each_class() {
        let data = shapes::generate(30, (16, 16), 0);
        let shown = data.shown();
        let text = content(&shown, "text/plain");
        assert!(text.starts_with("30 images of 16×16×3, 10 classes\nClass"), "{text}");
        assert_eq!(text.lines().count(), 12);
        let html = content(&shown, "text/html");
        assert_eq!(html.matches("<img class=\"vgg-dataset-images\"").count(), 1);
        let counted: usize =
            text.lines().skip(2).map(|line| line.split("  ").last().unwrap().trim().parse::<usize>().unwrap()).sum();
        assert_eq!(counted, 30);
        assert!(!content(&data.take(0).shown(), "text/html").contains("<img"));
    }

    #[test]
    fn features_have_no_picture_and_many_classes_are_cut() {
        let classes: Vec<String> = (0..30).map(|class| format!("<{class}>")).collect();
        let data = Dataset::from_floats(vec![0.5; 2 * 4 * 4 * 512], (4, 4, 512), vec![0, 29], classes).unwrap();
        let html = content(&data.shown(), "text/html");
        assert!(!html.contains("<img") && html.contains("&lt;0&gt;") && html.contains("and 10 more"), "{html}");
    }
}
