//! A look inside a convolution: its output maps and its filters, as grids of images.

use dfdx::prelude::HasShape;
use image::{
    Rgb, RgbImage,
    imageops::{self, FilterType},
};

use super::{
    Figure,
    color_map::{diverging, viridis},
    colors::{Color, GRAY},
    grid::{self, cell},
};
use crate::{model::Param, naming::Pixels, tensor::Images};

const NOT_FINITE: Color = (214, 39, 160);

/// The first `count` channels of the first image of a batch (n, h, w, c), each as an image under its number.
///
/// The colors are those of viridis, from dark blue (the lowest value of the map) to yellow (the highest; in a map of more
/// than 200 values the one that half a percent exceed, because a few peaks would leave the rest dark). Every map has its
/// own scale: the figure shows where a channel responds, not how strongly. A map with one value everywhere is gray with a
/// cross; it is called "silent" if that value is 0: after a ReLU, nothing in this image made it respond. NaN and
/// infinity are pink.
pub fn feature_maps(activation: &Images, count: usize) -> Figure {
    let (n, h, w, channels) = *activation.shape();
    if n == 0 || channels == 0 || h * w < 2 {
        return Figure::message(&format!("no maps to draw in a batch of {n}×{h}×{w}×{channels}"));
    }
    let values = activation.as_vec();
    let (maps, titles): (Vec<_>, Vec<_>) = (0..count.min(channels))
        .map(|channel| {
            let map: Vec<f32> = values[..h * w * channels].iter().skip(channel).step_by(channels).copied().collect();
            let (image, state) = feature_map(&map, (w, h));
            (image, format!("{channel}{state}"))
        })
        .unzip();
    grid(maps, &titles)
}

/// A map as an image, and what is special about it.
fn feature_map(map: &[f32], (w, h): (usize, usize)) -> (RgbImage, &'static str) {
    let (low, high) = range(map);
    let finite = map.iter().all(|v| v.is_finite());
    if finite && low == high {
        return (crossed_out(w as u32, h as u32), if low == 0.0 { " silent" } else { " constant" });
    }
    let span = f64::from(high) - f64::from(low);
    let image = image((w, h), |i| match map[i] {
        v if v.is_finite() => viridis((f64::from(v) - f64::from(low)) / span),
        _ => NOT_FINITE,
    });
    (image, if finite { "" } else { " not finite" })
}

/// The first `count` filters of a convolution kernel (k, k, in, out), each as an image under its number.
///
/// With three input channels, a filter is shown in the colors that it responds to: gray is 0, and the weight with the
/// largest magnitude reaches the end of the scale. `pixels` says whether red is the first or the last channel. With any
/// other number of input channels, their mean is shown, blue below 0 and orange-red above. Every filter has its own
/// scale, so that weak filters are as visible as strong ones.
pub fn filters(weight: &Param, count: usize, pixels: Pixels) -> Figure {
    let &[height, width, input, output] = weight.dims.as_slice() else {
        return Figure::message(&format!("{:?} is not the shape of a convolution kernel", weight.dims));
    };
    if weight.dims.contains(&0) {
        return Figure::message("no filters");
    }
    let values = weight.tensor().as_vec();
    let (images, titles): (Vec<_>, Vec<_>) = (0..count.min(output))
        .map(|filter| {
            // The input channels of the first position, then those of the second …
            let taps: Vec<f32> = values.iter().skip(filter).step_by(output).copied().collect();
            let image = match input {
                3 => color_filter(&taps, (width, height), pixels),
                _ => mean_filter(&taps, (width, height), input),
            };
            (image, filter.to_string())
        })
        .unzip();
    grid(images, &titles)
}

fn color_filter(taps: &[f32], size: (usize, usize), pixels: Pixels) -> RgbImage {
    let strongest = strongest(taps);
    let channels = if pixels == Pixels::Torch { [0, 1, 2] } else { [2, 1, 0] };
    let level = |v: f32| (127.5 + 127.5 * f64::from(v) / strongest).round() as u8;
    image(size, |i| {
        let tap = channels.map(|channel| taps[3 * i + channel]);
        if tap.iter().all(|v| v.is_finite()) { (level(tap[0]), level(tap[1]), level(tap[2])) } else { NOT_FINITE }
    })
}

fn mean_filter(taps: &[f32], size: (usize, usize), input: usize) -> RgbImage {
    let means: Vec<f32> = taps.chunks(input).map(|tap| tap.iter().sum::<f32>() / input as f32).collect();
    let strongest = strongest(&means);
    image(size, |i| match means[i] {
        v if v.is_finite() => diverging(f64::from(v) / strongest),
        _ => NOT_FINITE,
    })
}

/// About twice as many columns as rows, so that the figure fits a screen; with full rows if possible.
fn columns(count: usize) -> usize {
    let ideal = (2.0 * count as f64).sqrt();
    let near = (0.7 * ideal).ceil() as usize..=(1.35 * ideal).floor() as usize;
    // Of two equally distant numbers, take the larger.
    let distance = |columns: usize| ((columns as f64 / ideal).ln() - 0.01).abs();
    let full = near.filter(|&c| count.is_multiple_of(c)).min_by(|&a, &b| distance(a).total_cmp(&distance(b)));
    full.unwrap_or(ideal.round() as usize).clamp(1, 16)
}

fn grid(images: Vec<RgbImage>, titles: &[String]) -> Figure {
    let columns = columns(images.len());
    // At most one pixel per logical pixel: 30 maps of 224×224 at full resolution take megabytes.
    let side = cell(columns).0 as u32;
    let images: Vec<_> = images.into_iter().map(|image| shrink(image, side)).collect();
    grid::grid(&images, &titles.iter().map(String::as_str).collect::<Vec<_>>(), columns)
}

fn shrink(image: RgbImage, side: u32) -> RgbImage {
    let largest = image.width().max(image.height());
    if largest <= side {
        return image;
    }
    let scaled = |v: u32| (v * side / largest).max(1);
    imageops::resize(&image, scaled(image.width()), scaled(image.height()), FilterType::Triangle)
}

/// The lowest finite value, and the highest after the top half percent is left out; both NaN if no value is finite.
fn range(values: &[f32]) -> (f32, f32) {
    let mut finite: Vec<f32> = values.iter().copied().filter(|v| v.is_finite()).collect();
    finite.sort_by(f32::total_cmp);
    let (Some(&low), Some(&highest)) = (finite.first(), finite.last()) else { return (f32::NAN, f32::NAN) };
    let high = finite[finite.len() - 1 - finite.len() / 200];
    (low, if high > low { high } else { highest })
}

/// The largest magnitude of the finite values; 1 if it is 0.
fn strongest(values: &[f32]) -> f64 {
    let strongest = values.iter().filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
    if strongest > 0.0 { strongest } else { 1.0 }
}

fn image((width, height): (usize, usize), color: impl Fn(usize) -> Color) -> RgbImage {
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
