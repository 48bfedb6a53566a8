//! What is inside a convolution: the maps that it gives and the filters that it applies, as grids of pictures.

use dfdx::prelude::HasShape;
use image::{
    Rgb, RgbImage,
    imageops::{self, FilterType},
};

use super::{
    Figure,
    color_map::{diverging, viridis},
    colors::{Color, GRAY},
    grid::{cell, image_grid},
};
use crate::{model::Param, naming::Pixels, tensor::Images};

const NOT_FINITE: Color = (214, 39, 160);

/// The first `count` channels of the first image of a batch (n, h, w, c), each a picture under its number.
///
/// Colors are those of viridis, from dark blue (the map's lowest value) to yellow (its highest, or where it
/// has more than 200 values the one that half a per cent exceed: a few sparks would leave the rest in the dark). Every
/// map has its own scale, because what it answers to is the question, not how loudly. A map with one value everywhere is gray
/// with a cross: "dead" if that is 0, as after a ReLU that never fires. NaN and infinity are pink.
pub fn feature_maps(activation: &Images, count: usize) -> Figure {
    let (n, h, w, channels) = *activation.shape();
    if n == 0 || channels == 0 || h * w < 2 {
        return Figure::message(&format!("no maps to draw in a batch of {n}×{h}×{w}×{channels}"));
    }
    let values = activation.as_vec();
    let (maps, titles): (Vec<_>, Vec<_>) = (0..count.min(channels))
        .map(|channel| {
            let map: Vec<f32> = values[..h * w * channels].iter().skip(channel).step_by(channels).copied().collect();
            let (low, high) = range(&map);
            let finite = map.iter().all(|v| v.is_finite());
            let constant = finite && low == high;
            let state = match low {
                _ if !finite => " not finite",
                _ if !constant => "",
                0.0 => " dead",
                _ => " constant",
            };
            let picture = if constant {
                crossed_out(w as u32, h as u32)
            } else {
                let span = f64::from(high) - f64::from(low);
                picture((w, h), |i| match map[i] {
                    v if v.is_finite() => viridis((f64::from(v) - f64::from(low)) / span),
                    _ => NOT_FINITE,
                })
            };
            (picture, format!("{channel}{state}"))
        })
        .unzip();
    grid(maps, &titles)
}

/// The first `count` filters of a convolution's kernel (k, k, in, out), each a picture under its number.
///
/// With three input channels a filter is shown in the colors that it looks for: gray is 0, and its largest weight,
/// positive or negative, reaches the end of the scale; `pixels` says whether red is the first or the last. With any
/// other number the mean over the input channels is shown, blue below 0 and orange-red above. Every filter has its own
/// scale: a weak one is as well to be seen as a strong one.
pub fn filters(weight: &Param, count: usize, pixels: Pixels) -> Figure {
    let &[height, width, input, output] = weight.dims.as_slice() else {
        return Figure::message(&format!("{:?} is no kernel of a convolution", weight.dims));
    };
    if weight.dims.contains(&0) {
        return Figure::message("no filters");
    }
    let values = weight.tensor.as_vec();
    let (pictures, titles): (Vec<_>, Vec<_>) = (0..count.min(output))
        .map(|filter| {
            // Position by position, its input channels.
            let taps: Vec<f32> = values.iter().skip(filter).step_by(output).copied().collect();
            let picture = if input == 3 {
                let strongest = strongest(&taps);
                let channels = if pixels == Pixels::Torch { [0, 1, 2] } else { [2, 1, 0] };
                picture((width, height), |i| {
                    let tap = channels.map(|channel| taps[3 * i + channel]);
                    let level = |v: f32| (127.5 + 127.5 * f64::from(v) / strongest).round() as u8;
                    if tap.iter().all(|v| v.is_finite()) {
                        (level(tap[0]), level(tap[1]), level(tap[2]))
                    } else {
                        NOT_FINITE
                    }
                })
            } else {
                let means: Vec<f32> = taps.chunks(input).map(|tap| tap.iter().sum::<f32>() / input as f32).collect();
                let strongest = strongest(&means);
                picture((width, height), |i| match means[i] {
                    v if v.is_finite() => diverging(f64::from(v) / strongest),
                    _ => NOT_FINITE,
                })
            };
            (picture, filter.to_string())
        })
        .unzip();
    grid(pictures, &titles)
}

/// About twice as many columns as rows: the picture fits a screen, and its file a notebook. Full rows if it can be.
fn columns(count: usize) -> usize {
    let ideal = (2.0 * count as f64).sqrt();
    let near = (0.7 * ideal).ceil() as usize..=(1.35 * ideal).floor() as usize;
    // Of two that are as far from it the larger.
    let distance = |columns: usize| ((columns as f64 / ideal).ln() - 0.01).abs();
    let full = near.filter(|&c| count.is_multiple_of(c)).min_by(|&a, &b| distance(a).total_cmp(&distance(b)));
    full.unwrap_or(ideal.round() as usize).clamp(1, 16)
}

fn grid(pictures: Vec<RgbImage>, titles: &[String]) -> Figure {
    let columns = columns(pictures.len());
    // Not finer than a logical pixel: 30 maps of 224×224 at full resolution are megabytes of noise.
    let side = cell(columns).0 as u32;
    let pictures: Vec<_> = pictures.into_iter().map(|picture| shrink(picture, side)).collect();
    image_grid(&pictures, titles, columns)
}

fn shrink(picture: RgbImage, side: u32) -> RgbImage {
    let largest = picture.width().max(picture.height());
    if largest <= side {
        return picture;
    }
    let scaled = |v: u32| (v * side / largest).max(1);
    imageops::resize(&picture, scaled(picture.width()), scaled(picture.height()), FilterType::Triangle)
}

/// The lowest finite value and the highest but for the half per cent above it; both NaN if there is none.
fn range(values: &[f32]) -> (f32, f32) {
    let mut finite: Vec<f32> = values.iter().copied().filter(|v| v.is_finite()).collect();
    finite.sort_by(f32::total_cmp);
    let (Some(&low), Some(&highest)) = (finite.first(), finite.last()) else { return (f32::NAN, f32::NAN) };
    let high = finite[finite.len() - 1 - finite.len() / 200];
    (low, if high > low { high } else { highest })
}

/// The largest finite value without its sign, 1 if all are 0.
fn strongest(values: &[f32]) -> f64 {
    let strongest = values.iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
    if strongest > 0.0 { strongest } else { 1.0 }
}

fn picture((width, height): (usize, usize), color: impl Fn(usize) -> Color) -> RgbImage {
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let (r, g, b) = color(y as usize * width + x as usize);
        Rgb([r, g, b])
    })
}

fn crossed_out(width: u32, height: u32) -> RgbImage {
    let near = |a: u32, b: u32| a.abs_diff(b) <= (width * height) / 60;
    RgbImage::from_fn(width, height, |x, y| {
        let (across, down) = (x * (height - 1), y * (width - 1));
        let on_a_diagonal = near(across, down) || near((width - 1) * (height - 1) - across, down);
        let (r, g, b) = if on_a_diagonal { GRAY } else { (232, 232, 232) };
        Rgb([r, g, b])
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn thirty_maps_fill_their_rows() {
        assert_eq!([30, 64, 16, 1, 0, 7, 1000].map(super::columns), [10, 8, 4, 1, 1, 4, 16]);
    }
}
