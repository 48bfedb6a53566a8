//! Figures through the public API: what they show, how they are saved, and that no input breaks them.
//!
//! `LOOK=folder cargo test --test plot` also saves the figures to that folder.

use std::{fs, path::Path};

use image::{Rgb, RgbImage};
use vgg_lib::{
    inspect::Heatmap,
    model::{Param, Seed, Sequential, conv2d, flatten, global_avg_pool, linear, max_pool2d, softmax},
    naming::Pixels,
    optim::Schedule,
    plot::{self, Figure},
    tensor::{Images, images},
    train::{EpochRecord, History},
    vgg,
};

fn map_of(values: &[f32], (rows, columns): (usize, usize)) -> Heatmap {
    Heatmap { values: values.to_vec(), rows, columns, unit: "drop in log-odds" }
}

fn history(epochs: usize, record: impl Fn(usize) -> EpochRecord) -> History {
    History { epochs: (1..=epochs).map(record).collect() }
}

/// Curves like those of the Keras CIFAR-10 VGG notebook.
fn typical(epoch: usize) -> EpochRecord {
    let t = epoch as f32;
    let noise = ((t * 12.9898).sin() * 43_758.547).fract();
    let acc = 0.975 - 0.7 * (-t / 14.0).exp();
    let val_acc = 0.905 - 0.72 * (-t / 16.0).exp() + 0.004 * noise;
    EpochRecord {
        epoch,
        seconds: 41.0,
        images_per_second: 1220.0,
        lr: 0.1 * 0.5_f64.powi(epoch as i32 / 20),
        loss: 0.3 + 18.0 * (-t / 9.0).exp(),
        acc,
        val_loss: Some(0.55 + 15.0 * (-t / 9.0).exp() + 0.15 * (noise + 1.0)),
        val_acc: Some(val_acc),
    }
}

fn image(width: u32, height: u32, hue: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let inside = (x as i32 * 2 - width as i32).pow(2) + (y as i32 * 2 - height as i32).pow(2)
            < (width.min(height) as i32 * 3 / 4).pow(2);
        let shade = (x * 160 / width + y * 90 / height) as u8;
        if inside {
            Rgb([shade, (hue * 37 % 256) as u8, 255 - shade])
        } else {
            Rgb([(hue * 61 % 256) as u8, shade, 90])
        }
    })
}

fn some_images(count: u32, width: u32, height: u32) -> Vec<RgbImage> {
    (0..count).map(|i| image(width, height, i)).collect()
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

/// Checks that PNG and SVG are valid and have the size of the figure. Returns the pixels of the PNG.
fn check(name: &str, figure: Figure) -> RgbImage {
    let (width, height) = figure.size();
    let bitmap = image::load_from_memory(&figure.png().unwrap()).unwrap().to_rgb8();
    assert_eq!(bitmap.dimensions(), (2 * width, 2 * height), "{name}");
    let svg = figure.svg().unwrap();
    assert!(svg.starts_with(&format!("<svg width=\"{width}\" height=\"{height}\" viewBox=")), "{name}");
    assert_eq!(svg.matches("</svg>").count(), 1, "{name}");
    assert!(svg.ends_with("</svg>\n"), "{name}");
    assert!(svg.chars().all(|c| c == '\n' || !c.is_control()), "{name}");
    if let Ok(folder) = std::env::var("LOOK") {
        figure.save(Path::new(&folder).join(name)).unwrap();
    }
    bitmap
}

/// The texts of a figure, in order.
fn texts(figure: &Figure) -> Vec<String> {
    let svg = figure.svg().unwrap();
    let texts = svg.split("<text").skip(1);
    texts.map(|t| t.split_once('>').unwrap().1.split_once("</text>").unwrap().0.trim().to_string()).collect()
}

#[test]
fn a_history_becomes_curves_with_the_best_epoch_marked() {
    let mut history = history(250, typical);
    history.epochs[172].val_acc = Some(0.9122);
    history.epochs[179].val_loss = Some(0.5);
    let accuracy = plot::accuracy(&history);
    let said = texts(&accuracy);
    for text in ["model accuracy", "epoch", "accuracy", "train", "validation", "best 0.912 (epoch 173)"] {
        assert!(said.iter().any(|t| t == text), "{text} is missing from {said:?}");
    }
    let loss = plot::loss(&history);
    let said = texts(&loss);
    for text in ["model loss", "loss", "best 0.500 (epoch 180)"] {
        assert!(said.iter().any(|t| t == text), "{text} is missing from {said:?}");
    }
    check("accuracy_250", accuracy);
    check("loss_250", loss);
}

#[test]
fn any_history_can_be_drawn() {
    let constant =
        |epoch| EpochRecord { acc: 0.1, val_acc: Some(0.1), loss: 2.3, val_loss: Some(2.3), ..typical(epoch) };
    let no_validation = |epoch| EpochRecord { val_acc: None, val_loss: None, ..typical(epoch) };
    let all_nan = |epoch| EpochRecord {
        acc: f32::NAN,
        loss: f32::INFINITY,
        val_acc: Some(f32::NAN),
        val_loss: Some(f32::NAN),
        ..typical(epoch)
    };
    let huge = |epoch: usize| EpochRecord { loss: 1e30, val_loss: Some(f32::MAX / epoch as f32), ..typical(epoch) };
    let some_nan = |epoch: usize| if epoch.is_multiple_of(7) { all_nan(epoch) } else { typical(epoch) };
    let sparse = |epoch: usize| if epoch.is_multiple_of(5) { typical(epoch) } else { no_validation(epoch) };
    let spiky =
        |epoch: usize| EpochRecord { val_acc: Some(0.4 + 0.5 * (epoch as f32 * 7.3).sin().abs()), ..typical(epoch) };
    let cases = [
        ("none", history(0, typical)),
        ("one", history(1, typical)),
        ("two", history(2, typical)),
        ("five", history(5, typical)),
        ("constant", history(30, constant)),
        ("no_validation", history(30, no_validation)),
        ("huge", history(30, huge)),
        ("some_nan", history(40, some_nan)),
        ("all_nan", history(3, all_nan)),
        ("sparse", history(40, sparse)),
        ("spiky", history(250, spiky)),
    ];
    for (name, history) in cases {
        check(&format!("accuracy_{name}"), plot::accuracy(&history));
        check(&format!("loss_{name}"), plot::loss(&history));
        check(&format!("training_{name}"), plot::training(&history));
    }
}

#[test]
fn training_shows_both_curves_side_by_side_above_a_caption() {
    let history = history(20, |epoch| EpochRecord { seconds: 60.0, images_per_second: 1220.0, ..typical(epoch) });
    let figure = plot::training(&history);
    let said = texts(&figure);
    for text in ["model accuracy", "model loss", "train", "validation", "epoch"] {
        assert!(said.iter().any(|t| t == text), "{text} is missing from {said:?}");
    }
    let best = history.best().unwrap();
    let (acc, epoch) = (best.val_acc.unwrap(), best.epoch);
    let caption =
        format!("20 epochs  ·  20 min 0 s  ·  1,220 images/s  ·  best validation accuracy {acc:.3} (epoch {epoch})");
    assert_eq!(said.last(), Some(&caption));

    // There is a curve in both halves.
    let bitmap = check("training_20", figure);
    let blue = |from: u32| {
        let half = image::imageops::crop_imm(&bitmap, from, 0, bitmap.width() / 2, bitmap.height()).to_image();
        half.pixels().filter(|p| p.0 == [0, 114, 178]).count()
    };
    assert!(blue(0) > 500 && blue(bitmap.width() / 2) > 500, "{} {}", blue(0), blue(bitmap.width() / 2));
}

#[test]
fn without_validation_there_is_no_validation_curve() {
    let history = history(3, |epoch| EpochRecord { val_acc: None, val_loss: None, ..typical(epoch) });
    let said = texts(&plot::accuracy(&history));
    assert!(said.contains(&"train".to_string()) && !said.contains(&"validation".to_string()), "{said:?}");
    assert!(said.iter().any(|t| t.ends_with("(epoch 3)")), "{said:?}");
}

#[test]
fn any_lines_can_be_drawn() {
    let rates = (1..=250).map(|e| (f64::from(e), 0.1 * 0.5_f64.powi(e / 20))).collect();
    check("lines_rate", plot::lines("learning rate", "epoch", "learning rate", &[("", rates)]));
    let many: Vec<_> = (0..9)
        .map(|k| {
            (
                format!("a curve with a rather long name, number {k}"),
                (0..40).map(|x| (f64::from(x) / 7.0, (f64::from(x + k) / 9.0).sin())).collect::<Vec<_>>(),
            )
        })
        .collect();
    let many: Vec<_> = many.iter().map(|(name, points)| (name.as_str(), points.clone())).collect();
    check("lines_many", plot::lines(&"a long title ".repeat(12), "x", &"a long label ".repeat(12), &many));
    let wild =
        vec![(f64::MAX, f64::MIN), (f64::NAN, 1.0), (1.0, f64::INFINITY), (-1e99, 1e99), (1e99, -1e99), (3.0, 4e-300)];
    check("lines_wild", plot::lines("<&\"'>\u{1}\u{0}", "\n", "", &[("wild", wild), ("empty", vec![])]));
    check("lines_nothing", plot::lines("", "", "", &[] as &[(&str, Vec<(f64, f64)>)]));
}

#[test]
fn small_images_keep_sharp_pixels() {
    let mut image = RgbImage::from_pixel(32, 32, Rgb([250, 0, 250]));
    image.put_pixel(5, 7, Rgb([0, 255, 0]));
    let bitmap = check("grid_exact", plot::image_grid(&[image], &[""], 1));
    let green = bitmap.pixels().filter(|p| p.0 == [0, 255, 0]).count();
    let pink = bitmap.pixels().filter(|p| p.0 == [250, 0, 250]).count();
    let white = bitmap.pixels().filter(|p| p.0 == [255, 255, 255]).count();
    let factor = 12 * 12; // 12 × 32 is the largest multiple that fits 400 pixels
    assert_eq!((green, pink), (factor, (32 * 32 - 1) * factor));
    assert_eq!(green + pink + white, (bitmap.width() * bitmap.height()) as usize, "pixels were blended");
}

#[test]
fn any_images_can_be_shown_in_a_grid() {
    let names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    let titles: Vec<String> = (0..50).map(|i| names[i % 10].to_string()).collect();
    check("grid_cifar", plot::image_grid(&some_images(50, 32, 32), &titles, 10));
    let titles =
        strings(&["cat 93 %\ndog 4 %\nfox 2 %", "Old English sheepdog, bobtail 93 %\ndog 4 %", "", "one line"]);
    check("grid_photos", plot::image_grid(&some_images(7, 300, 224), &titles, 4));
    check("grid_two", plot::image_grid(&some_images(2, 224, 300), &strings(&["first", "second"]), 5));
    check("grid_filters", plot::image_grid(&some_images(64, 3, 3), &[""], 16));
    check("grid_512", plot::image_grid(&some_images(512, 14, 14), &[""], 32));
    check("grid_columns_0", plot::image_grid(&some_images(3, 32, 32), &strings(&["a\u{0}b<&>"]), 0));
    check("grid_columns_many", plot::image_grid(&some_images(40, 32, 32), &titles, 1000));
    let odd = [RgbImage::new(0, 0), RgbImage::new(1, 1), image(3000, 2, 3), image(2, 3000, 4)];
    check("grid_odd", plot::image_grid(&odd, &strings(&["empty", "one", "wide", "high"]), 4));
    let none = plot::image_grid(&[], &titles, 4);
    assert_eq!(texts(&none), ["no images"]);
    check("grid_none", none);
}

#[test]
fn a_grid_says_how_many_images_it_leaves_out() {
    let figure = plot::image_grid(&some_images(100, 8, 8), &[""], 1);
    let said = texts(&figure).join(" ");
    let left_out: usize = said.strip_prefix("and ").unwrap().strip_suffix(" more").unwrap().parse().unwrap();
    assert_eq!(figure.svg().unwrap().matches("<image").count(), 100 - left_out);
}

#[test]
fn long_titles_are_cut() {
    let figure = plot::image_grid(&some_images(2, 32, 32), &strings(&[&"long ".repeat(50), "short"]), 2);
    let said = texts(&figure);
    assert!(said[0].starts_with("long ") && said[0].ends_with('…') && said[0].len() < 60, "{said:?}");
    assert_eq!(said[1], "short");
}

#[test]
fn predictions_show_truth_names_and_percentages() {
    let classes = strings(&["cat", "dog", "ship"]);
    let truth = strings(&["cat", "dog"]);
    let probabilities = [vec![0.93, 0.05, 0.02], vec![0.6, 0.39, 0.01]];
    let figure = plot::predictions(&some_images(2, 32, 32), &truth, &probabilities, &classes);
    let expected = [
        "✓", "cat", "cat", "93 %", "dog", "5 %", "ship", "2 %", "✗", "dog", "cat", "60 %", "dog", "39 %", "ship", "1 %",
    ];
    assert_eq!(texts(&figure), expected);
}

#[test]
fn any_predictions_can_be_shown() {
    let classes =
        strings(&["tabby, tabby cat", "Old English sheepdog, bobtail", "container ship, containership", "dog", "frog"]);
    let truth = strings(&["tabby, tabby cat", "dog", "a class that the model lacks", "dog", "frog"]);
    let probabilities = [
        vec![0.93, 0.04, 0.02, 0.01, 0.0],
        vec![0.0, 0.61, 0.02, 0.34, 0.03],
        vec![0.001, 0.0, 0.999, 0.0, 0.0],
        vec![f32::NAN; 5],
        vec![0.0, 0.0, 0.1, 0.0, 5.0, -1.0, f32::INFINITY],
    ];
    check("predictions", plot::predictions(&some_images(7, 224, 180), &truth, &probabilities, &classes));
    check("predictions_cifar", plot::predictions(&some_images(2, 32, 32), &truth[..1], &probabilities, &classes));
    check("predictions_none", plot::predictions(&[], &[""; 0], &[], &[""; 0]));
    check("predictions_bare", plot::predictions(&some_images(1, 32, 32), &[""; 0], &[], &[""; 0]));
    check("predictions_many", plot::predictions(&some_images(160, 32, 32), &[""; 0], &[], &[""; 0]));
}

#[test]
fn a_figure_is_saved_by_extension_and_returned() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join("new").join(name);
    let names = || {
        let mut names: Vec<_> = fs::read_dir(folder.path().join("new"))
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let figure = plot::loss(&history(2, typical)).save(at("a.png")).unwrap().save(at("b.SVG")).unwrap();
    assert_eq!(names(), ["a.png", "b.SVG"]);
    let figure = figure.save(at("c")).unwrap();
    assert_eq!(names(), ["a.png", "b.SVG", "c.png", "c.svg"]);
    assert_eq!(fs::read(at("a.png")).unwrap(), figure.png().unwrap());
    assert_eq!(fs::read(at("c.png")).unwrap(), figure.png().unwrap());
    assert_eq!(fs::read_to_string(at("b.SVG")).unwrap(), figure.svg().unwrap());
    assert_eq!(fs::read_to_string(at("c.svg")).unwrap(), figure.svg().unwrap());
}

#[test]
fn a_figure_that_cannot_be_saved_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let figure = || plot::loss(&history(2, typical));
    let message = figure().save(folder.path().join("a.jpg")).unwrap_err().to_string();
    assert!(message.contains("a.jpg") && message.contains(".png or .svg, not .jpg"), "{message}");
    fs::write(folder.path().join("file"), "").unwrap();
    let message = figure().save(folder.path().join("file/a.png")).unwrap_err().to_string();
    assert!(message.contains("file"), "{message}");
    assert!(figure().save("").is_err());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn tensor(shape: (usize, usize, usize, usize), value: impl Fn(usize, usize, usize) -> f32) -> Images {
    let (n, h, w, c) = shape;
    let values = (0..n * h * w * c).map(|i| value(i / c / w % h, i / c % w, i % c)).collect();
    images(values, shape).unwrap()
}

#[test]
fn a_confusion_matrix_counts_truths_in_rows_and_predictions_in_columns() {
    let truth = [0, 0, 0, 1, 1, 2];
    let predicted = [0, 0, 1, 1, 1, 0];
    let figure = plot::confusion_matrix(&truth, &predicted, &strings(&["cat", "dog", "ship", "frog"]));
    let said = texts(&figure);
    let place = said.iter().position(|t| t == "truth").unwrap();
    let counts: Vec<_> = said[place + 1..place + 17].iter().map(String::as_str).collect();
    assert_eq!(counts, ["2", "1", "0", "0", "0", "2", "0", "0", "1", "0", "0", "0", "0", "0", "0", "0"], "{said:?}");
    assert_eq!(said[1], "4 of 6 right: 66.7 %");
    let recalls: Vec<_> = said[place + 17..].chunks(3).map(|row| (row[0].as_str(), row[1].as_str())).collect();
    assert_eq!(recalls, [("cat", "66.7 %"), ("dog", "100 %"), ("ship", "0 %"), ("frog", "–")]);
    check("confusion_4", figure);
}

#[test]
fn any_confusion_matrix_can_be_drawn() {
    let noisy = |n: usize, each: usize| -> (Vec<usize>, Vec<usize>) {
        (0..n * each).map(|i| (i % n, if i * 7919 % 10 < 8 { i % n } else { (i * i + i / n) % n })).unzip()
    };
    let names = |n: usize| (0..n).map(|i| format!("{} {i}", ["cat", "container ship"][i % 2])).collect::<Vec<_>>();
    let (truth, predicted) = ([vec![0; 200], vec![1; 200]].concat(), [vec![0; 197], vec![1; 203]].concat());
    check("confusion_2", plot::confusion_matrix(&truth, &predicted, &strings(&["cats", "dogs"])));
    let (truth, predicted) = noisy(10, 1000);
    let cifar = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    check("confusion_10", plot::confusion_matrix(&truth, &predicted, &strings(&cifar)));
    for n in [1, 25, 40, 120, 1000] {
        let (truth, predicted) = noisy(n, 20);
        check(&format!("confusion_{n}"), plot::confusion_matrix(&truth, &predicted, &names(n)));
    }
    let long = strings(&[&"Old English sheepdog, bobtail ".repeat(9), "<&>\u{0}", ""]);
    check("confusion_long", plot::confusion_matrix(&[0, 1, 2], &[0, 1, 5], &long));
    let none = plot::confusion_matrix(&[], &[], &long);
    assert_eq!(texts(&none), ["no predictions yet"]);
    check("confusion_none", none);
    assert_eq!(texts(&plot::confusion_matrix(&[0], &[], &long)), ["truth has length 1, but predicted has length 0"]);
    let absurd = plot::confusion_matrix(&[0], &[usize::MAX], &long);
    assert!(texts(&absurd)[0].contains("too many"), "{:?}", texts(&absurd));
}

fn named(bars: &[(&str, f64)]) -> Vec<(String, f64)> {
    bars.iter().map(|(name, value)| (name.to_string(), *value)).collect()
}

#[test]
fn bars_show_name_and_value_and_are_proportional_to_the_value() {
    let figure = plot::bars("parameters", "count", &named(&[("fc1", 4_000_000.0), ("fc2", 1_000_000.0)]));
    assert_eq!(texts(&figure), ["parameters", "fc1", "4,000,000", "fc2", "1,000,000", "count"]);
    let bitmap = check("bars_two", figure);
    let blue = |y: u32| (0..bitmap.width()).filter(|&x| bitmap.get_pixel(x, y).0 == [0, 114, 178]).count() as f64;
    let (first, second) = (blue(2 * (48 + 11)), blue(2 * (48 + 22 + 11)));
    assert!(first > 500.0 && (first / second - 4.0).abs() < 0.02, "{first} and {second}");
}

#[test]
fn any_bars_can_be_drawn() {
    let vgg16 = vgg::vgg16((32, 32, 3), 10, Seed(0)).unwrap().summary((32, 32, 3));
    let rows: Vec<_> = vgg16.rows.iter().map(|row| (row.name.clone(), row.params as f64)).collect();
    check("bars_vgg16", plot::bars("parameters of VGG16 for 32×32 images", "parameters", &rows));
    let wild = [
        ("NaN", f64::NAN),
        ("infinite", f64::INFINITY),
        ("minus", -3.5),
        ("tiny", 3e-12),
        ("a name that goes on for a good deal longer than the name of a layer should", 12.0),
        ("", 0.0),
    ];
    check("bars_wild", plot::bars(&"long title ".repeat(20), "", &named(&wild)));
    check("bars_huge", plot::bars("", &"label ".repeat(60), &named(&[("most", f64::MAX), ("least", f64::MIN)])));
    check("bars_zero", plot::bars("nothing but zeros", "zeros", &named(&[("a", 0.0)])));
    check("bars_none", plot::bars("none", "count", &[("", 0.0); 0]));
    let many: Vec<_> = (0..1000).map(|i| ("class".to_string(), f64::from(i))).collect();
    let many = plot::bars("many", "count", &many);
    assert_eq!(texts(&many).last().unwrap(), "count (and 800 more)");
    check("bars_many", many);
}

#[test]
fn each_feature_map_has_its_own_scale_and_silent_maps_are_marked() {
    let maps = tensor((2, 12, 12, 5), |y, x, channel| match channel {
        0 => (y + x) as f32,
        1 => 1e-6 * x as f32,
        2 => 0.0,
        3 => 7.0,
        _ => {
            if y == 3 {
                f32::NAN
            } else {
                x as f32
            }
        }
    });
    let figure = plot::feature_maps(&maps, 99);
    assert_eq!(texts(&figure), ["0", "1", "2 silent", "3 constant", "4 not finite"]);
    let bitmap = check("maps_odd", figure);
    let pixels = |color: [u8; 3]| bitmap.pixels().filter(|p| p.0 == color).count();
    // The maximum of map 0 is one pixel, of map 1 a column, of map 4 a column except for its NaN.
    let yellow = pixels([253, 231, 37]);
    assert!(yellow > 0 && yellow.is_multiple_of(1 + 12 + 11), "{yellow}");
    assert_eq!(pixels([214, 39, 160]), 12 * yellow / 24);
}

#[test]
fn any_feature_maps_can_be_drawn() {
    let wave = |y: usize, x: usize, c: usize| ((x * (c + 1)) as f32 / 30.0).sin() * ((y * (c % 7)) as f32 / 40.0).cos();
    let figure = plot::feature_maps(&tensor((1, 224, 224, 64), wave), 30);
    assert!(figure.png().unwrap().len() < 500_000, "{} bytes", figure.png().unwrap().len());
    check("maps_30", figure);
    check("maps_14", plot::feature_maps(&tensor((1, 14, 14, 512), wave), 512));
    check("maps_one", plot::feature_maps(&tensor((1, 56, 40, 3), wave), 1));
    check("maps_thin", plot::feature_maps(&tensor((1, 1, 300, 3), wave), 3));
    check("maps_zero", plot::feature_maps(&tensor((1, 5, 5, 3), wave), 0));
    check("maps_huge", plot::feature_maps(&tensor((1, 4, 4, 2), |_, x, _| if x > 1 { f32::MAX } else { f32::MIN }), 2));
    let vector = plot::feature_maps(&tensor((1, 1, 1, 10), wave), 3);
    assert_eq!(texts(&vector), ["no maps to draw in a batch of 1×1×1×10"]);
}

/// A kernel (k, k, in, out) with these weights.
fn kernel(dims: [usize; 4], weight: impl Fn([usize; 4]) -> f32) -> Param {
    let [_, k, input, output] = dims;
    let at = |i: usize| [i / output / input / k, i / output / input % k, i / output % input, i % output];
    let values: Vec<f32> = (0..dims.iter().product()).map(|i| weight(at(i))).collect();
    let mut model = Sequential::new((8, 8, input), Seed(0));
    model.push("conv", conv2d(output).kernel(k)).unwrap();
    let mut state = model.state_dict();
    state.insert("conv.weight".into(), ndarray::ArrayD::from_shape_vec(dims.to_vec(), values).unwrap());
    model.load_state_dict(&state).unwrap();
    model.layer("conv").unwrap().params()[0].clone()
}

#[test]
fn filters_show_the_colors_that_they_respond_to() {
    // Filter 0 responds to channel 0, filter 1 only to channel 2 in the upper left corner.
    let weight = kernel([3, 3, 3, 2], |[y, x, input, output]| match output {
        0 => [0.25, 0.0, 0.0][input],
        _ => {
            if (y, x, input) == (0, 0, 2) {
                -3.0
            } else {
                0.0
            }
        }
    });
    let rgb = check("filters_rgb", plot::filters(&weight, 30, Pixels::Torch));
    let bgr = check("filters_bgr", plot::filters(&weight, 30, Pixels::Caffe));
    let count = |bitmap: &RgbImage, color: [u8; 3]| bitmap.pixels().filter(|p| p.0 == color).count();
    let (red, blue) = ([255, 128, 128], [128, 128, 255]);
    let (cyan, yellow) = ([0, 128, 128], [128, 128, 0]);
    assert!(count(&rgb, red) > 0 && count(&rgb, red) == 9 * count(&rgb, yellow) && count(&rgb, blue) == 0);
    assert!(count(&bgr, blue) > 0 && count(&bgr, blue) == 9 * count(&bgr, cyan) && count(&bgr, red) == 0);
}

#[test]
fn any_filters_can_be_drawn() {
    let model = vgg::cifar_vgg16(Seed(0));
    let weight = |name: &str| model.layer(name).unwrap().params()[0].clone();
    check("filters_first", plot::filters(&weight("block1_conv1"), 30, Pixels::Torch));
    check("filters_deep", plot::filters(&weight("block1_conv2"), 64, Pixels::Torch));
    check("filters_none", plot::filters(&weight("block1_conv2"), 0, Pixels::Torch));
    let dense = plot::filters(&weight("fc1"), 30, Pixels::Torch);
    assert_eq!(texts(&dense), ["[512, 512] is not the shape of a convolution kernel"]);
    let odd = kernel([5, 5, 3, 3], |[y, _, _, output]| match output {
        0 => 0.0,
        1 => {
            if y == 2 {
                f32::NAN
            } else {
                1.0
            }
        }
        _ => {
            if y == 2 {
                f32::INFINITY
            } else {
                f32::MAX
            }
        }
    });
    check("filters_odd", plot::filters(&odd, 3, Pixels::Caffe));
    let pointwise = kernel([1, 1, 2, 40], |[_, _, input, output]| (output as f32 - 20.0) * input as f32);
    check("filters_1x1", plot::filters(&pointwise, 40, Pixels::Torch));
}

#[test]
fn a_heatmap_has_its_colors_where_its_values_are() {
    let photo = RgbImage::from_pixel(200, 100, Rgb([90, 90, 90]));
    let mut map = vec![0.0; 8];
    map[3] = 5.0; // the upper right corner of 2 × 4
    let bitmap = check("heatmap_corner", plot::heatmap(&photo, &map_of(&map, (2, 4)), "corner"));
    // The photo is 300×150 at (16, 38), the map beside it after a gap of 18.
    let at = |x: u32, y: u32| bitmap.get_pixel(2 * (16 + 300 + 18 + x), 2 * (38 + y)).0;
    let mixed = |color: [f64; 3]| color.map(|c| (90.0 + (c - 90.0) * 0.85_f64).round() as u8);
    assert_eq!(at(298, 2), mixed([253.0, 231.0, 37.0]));
    assert_eq!((at(2, 2), at(298, 148)), ([90; 3], [90; 3]));
    assert_eq!(bitmap.get_pixel(2 * 100, 2 * 80).0, [90; 3], "the photo itself");
    map[0] = -5.0;
    let figure = plot::heatmap(&photo, &map_of(&map, (2, 4)), "");
    assert_eq!(texts(&figure), ["5", "−5", "0", "drop in log-odds"]);
    let bitmap = check("heatmap_signed", figure);
    let at = |x: u32, y: u32| bitmap.get_pixel(2 * (16 + 300 + 18 + x), 2 * (38 + y)).0;
    assert_eq!((at(2, 2), at(298, 2)), (mixed([0.0, 114.0, 178.0]), mixed([213.0, 94.0, 0.0])));
}

#[test]
fn heatmaps_stand_side_by_side_under_their_titles() {
    let (cam, occlusion) = (map_of(&[0.0, 0.5, 0.7, 1.0], (2, 2)), map_of(&[-1.0, 0.0, 0.0, 2.0], (2, 2)));
    let figure = plot::heatmaps(&image(224, 224, 3), &[("Grad-CAM", &cam), ("occlusion", &occlusion)]);
    let unit = "drop in log-odds";
    assert_eq!(texts(&figure), ["Grad-CAM", "1", "0", unit, "occlusion", "2", "−2", "0", unit]);
    assert_eq!(figure.svg().unwrap().matches("<image").count(), 5); // the photo, two maps, two color bars
    assert!(figure.size().0 <= 800, "{:?}", figure.size());
    check("heatmaps", figure);
}

#[test]
fn any_heatmap_can_be_drawn() {
    let bump = |rows: usize, columns: usize| -> Vec<f32> {
        let far = |i: usize| ((i / columns) as f32 - 2.0).powi(2) + ((i % columns) as f32 - 4.0).powi(2);
        (0..rows * columns).map(|i| (-far(i) / 4.0).exp() - 0.1 * (i % 2) as f32).collect()
    };
    let positive: Vec<f32> = bump(7, 7).iter().map(|v| 0.03 * v.max(0.0)).collect();
    check(
        "heatmap_7",
        plot::heatmap(&image(300, 224, 5), &map_of(&positive, (7, 7)), "Grad-CAM: tabby, tabby cat 93 %"),
    );
    check("heatmap_30", plot::heatmap(&image(224, 300, 5), &map_of(&bump(20, 30), (20, 30)), "occlusion"));
    check("heatmap_long", plot::heatmap(&image(32, 32, 1), &map_of(&[1.0], (1, 1)), &"title ".repeat(60)));
    check("heatmap_zero", plot::heatmap(&image(3000, 3, 1), &map_of(&[0.0; 4], (2, 2)), "a\u{0}b"));
    check("heatmap_thin", plot::heatmap(&image(3, 3000, 1), &map_of(&[1e-30, 1e30], (2, 1)), "thin"));
    check(
        "heatmap_wild",
        plot::heatmap(&image(64, 64, 1), &map_of(&[f32::NAN, f32::INFINITY, 1.0, -2.0], (2, 2)), "wild"),
    );
    for (map, size) in [(vec![], (0, 0)), (vec![1.0; 3], (2, 2)), (vec![1.0; 4], (usize::MAX, 2))] {
        let said = texts(&plot::heatmap(&image(9, 9, 1), &map_of(&map, size), ""));
        assert!(said[0].contains("do not fill"), "{said:?}");
    }
    assert_eq!(texts(&plot::heatmap(&RgbImage::new(0, 0), &map_of(&[1.0], (1, 1)), "")), ["no photo"]);
}

#[test]
fn a_network_is_drawn_with_the_shapes_of_its_maps() {
    let model = vgg::cifar_vgg16(Seed(0));
    let figure = plot::network(&model, (32, 32, 3));
    let expected = [
        ("32×32×3", "input"),
        ("32×32×64", "2 conv"),
        ("16×16×128", "pool + 2 conv"),
        ("8×8×256", "pool + 3 conv"),
        ("4×4×512", "pool + 3 conv"),
        ("2×2×512", "pool + 3 conv"),
        ("1×1×512", "pool"),
        ("512", "dense"),
        ("10", "dense + softmax"),
    ];
    let said = texts(&figure);
    let labels: Vec<_> = said[..18].chunks(2).map(|pair| (pair[0].as_str(), pair[1].as_str())).collect();
    assert_eq!(labels, expected);
    assert_eq!(said[18..], ["input", "convolution", "pooling", "dense", "softmax"]);
    check("network_cifar", figure);
}

#[test]
fn any_network_can_be_drawn() {
    let mut large = vgg::vgg16((224, 224, 3), 1000, Seed(0)).unwrap();
    let drawn = texts(&plot::network(&large, (224, 224, 3)));
    large.accept_any_size().unwrap();
    let figure = plot::network(&large, (224, 224, 3));
    assert_eq!(texts(&figure), drawn, "a pooling that changes nothing is not drawn");
    check("network_vgg16", figure);
    let figure = plot::network(&large, (448, 320, 3));
    let said = texts(&figure);
    assert!(said.windows(2).any(|pair| pair == ["14×10×512", "pool"]), "{said:?}");
    assert!(said.windows(2).any(|pair| pair == ["7×7×512", "pool"]), "{said:?}");
    check("network_vgg16_any_size", figure);
    let mut gap = Sequential::new((227, 227, 3), Seed(0));
    for (block, (filters, convolutions)) in [(64, 2), (128, 2), (256, 4), (512, 4), (512, 4)].into_iter().enumerate() {
        for i in 0..convolutions {
            gap.push(&format!("{block}_{i}"), conv2d(filters)).unwrap();
        }
        gap.push(&format!("pool{block}"), max_pool2d()).unwrap();
    }
    gap.push("gap", global_avg_pool()).unwrap();
    gap.push("fc1", linear(4096)).unwrap();
    gap.push("fc2", linear(4096)).unwrap();
    gap.push("predictions", linear(1000)).unwrap();
    gap.push("softmax", softmax()).unwrap();
    check("network_vgg19", plot::network(&gap, (227, 227, 3)));
    check("network_panorama", plot::network(&gap, (64, 1024, 3)));
    check("network_tower", plot::network(&gap, (1024, 64, 3)));
    let small = plot::network(&gap, (16, 16, 3));
    assert!(texts(&small).last().unwrap().contains("cannot halve"), "{:?}", texts(&small));
    check("network_too_small", small);
    check("network_empty", plot::network(&Sequential::new((0, 0, 0), Seed(0)), (0, 0, 0)));
    let mut deep = Sequential::new((8, 8, 3), Seed(0));
    for i in 0..250 {
        deep.push(&format!("conv{i}"), conv2d(8)).unwrap();
    }
    let deep = plot::network(&deep, (8, 8, 3));
    assert_eq!(texts(&deep).last().unwrap(), "and 51 more");
    check("network_deep", deep);
    let mut dense = Sequential::new((1, 1, 30), Seed(0));
    dense.push("flatten", flatten()).unwrap();
    for i in 0..30 {
        dense.push(&format!("fc{i}"), linear(10 + i)).unwrap();
    }
    check("network_dense", plot::network(&dense, (1, 1, 30)));
}

#[test]
fn networks_are_drawn_to_one_scale() {
    let networks = [vgg::vgg11((32, 32, 3), 10, Seed(0)).unwrap(), vgg::cifar_vgg16(Seed(0))];
    let figure = plot::networks(&[("VGG11", &networks[0]), ("VGG16", &networks[1])]);
    let alone: Vec<u32> = networks.iter().map(|model| plot::network(model, (32, 32, 3)).size().1).collect();
    let (width, height) = figure.size();
    assert!(width == 800 && height.abs_diff(alone[0] + alone[1] + 2 * 26) <= 2, "{width}×{height}");
    let said = texts(&figure);
    assert_eq!(said.iter().filter(|text| *text == "32×32×3").count(), 2);
    // Both inputs are equally thick: the same gray front at the left end.
    let bitmap = check("networks", figure);
    let (upper, lower) = (0..bitmap.height()).partition::<Vec<u32>, _>(|y| *y < 2 * (26 + alone[0]));
    let gray = |rows: &[u32]| -> usize {
        rows.iter().map(|&y| (0..bitmap.width()).filter(|&x| bitmap.get_pixel(x, y).0 == [160; 3]).count()).sum()
    };
    assert!(gray(&upper) > 100 && gray(&upper).abs_diff(gray(&lower)) < gray(&upper) / 10);
}

#[test]
fn a_schedule_is_a_curve_from_the_first_step_to_the_last() {
    let figure = plot::schedule(&Schedule::Halving { rate: 0.1, every: 20 }, 250);
    let said = texts(&figure);
    for text in ["learning rate", "epoch", "rate", "0.10", "250"] {
        assert!(said.iter().any(|t| t == text), "{text} is missing from {said:?}");
    }
    check("schedule_halving", figure);
    let figure = plot::schedule(&Schedule::Triangle { max: 0.1, warm_up: 0.05 }, 14);
    let svg = figure.svg().unwrap();
    // The curve has one highest point: the top is not flat.
    let curve = svg.split("points=\"").map(|part| part.split('"').next().unwrap()).max_by_key(|p| p.len()).unwrap();
    let heights: Vec<f64> = curve.split_whitespace().map(|p| p.split(',').nth(1).unwrap().parse().unwrap()).collect();
    let top = heights.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(heights.iter().filter(|y| **y < top + 0.05).count() <= 2, "{curve}");
    check("schedule_triangle", figure);
    check("schedule_none", plot::schedule(&Schedule::Constant(0.1), 0));
    check("schedule_one", plot::schedule(&Schedule::Constant(0.1), 1));
}

#[test]
fn runs_are_compared_in_one_chart_with_a_color_each() {
    let (long, short) = (history(30, typical), history(3, typical));
    let silent = history(5, |epoch| EpochRecord { val_acc: None, ..typical(epoch) });
    let figure = plot::compare(&[("long", &long), ("short", &short), ("not validated", &silent)]);
    let said = texts(&figure);
    for text in ["long, training", "long, validation", "short, validation", "not validated, training"] {
        assert!(said.iter().any(|t| t == text), "{text} is missing from {said:?}");
    }
    assert!(!said.iter().any(|t| t == "not validated, validation"), "{said:?}");
    let bitmap = check("compare", figure);
    for color in [[0, 114, 178], [213, 94, 0], [0, 158, 115]] {
        assert!(bitmap.pixels().any(|p| p.0 == color), "no curve in {color:?}");
    }
    check("compare_none", plot::compare(&[("", &long); 0]));
    check("compare_empty", plot::compare(&[("empty", &history(0, typical))]));
}

#[test]
fn a_scatter_plot_has_a_dot_per_finite_point() {
    let groups = [("first", vec![(1.0, 2.0), (2.0, f64::NAN), (3.0, 1.0)]), ("second", vec![(2.0, 3.0)])];
    let figure = plot::scatter("dots", "x", "y", &groups);
    assert_eq!(figure.svg().unwrap().matches("<circle").count(), 3 + 2); // two in the legend
    check("scatter", figure);
    check("scatter_none", plot::scatter("", "", "", &[] as &[(&str, Vec<(f64, f64)>)]));
}

#[test]
fn a_histogram_has_a_bar_per_interval() {
    let values: Vec<f32> = (0..=100).map(|i| (i * i) as f32 / 1e4).chain([f32::NAN, f32::INFINITY]).collect();
    let figure = plot::histogram("squares", "value", &values, 10);
    let said = texts(&figure);
    for text in ["squares", "value", "0.0", "1.0"] {
        assert!(said.iter().any(|t| t == text), "{text} is missing from {said:?}");
    }
    let bitmap = check("histogram", figure);
    // √0.1 of the values lie in the first tenth: the first bar is the highest, the last one the lowest.
    let blue = |x: u32| (0..bitmap.height()).filter(|&y| bitmap.get_pixel(x, y).0 == [0, 114, 178]).count();
    let (first, last) = (blue(2 * 70), blue(bitmap.width() - 2 * 40));
    assert!(first > 5 * last && last > 0, "{first} and {last}");
    check("histogram_equal", plot::histogram("equal", "", &[3.0; 5], 4));
    check("histogram_wild", plot::histogram("wild", "x", &[f32::MAX, f32::MIN, 0.0], 10_000));
    assert_eq!(texts(&plot::histogram("", "", &[f32::NAN], 10)), ["nothing to plot yet"]);
}

#[test]
fn the_best_label_is_beside_its_dot() {
    for epochs in [3, 14, 60, 250] {
        let history = history(epochs, typical);
        for figure in [plot::accuracy(&history), plot::loss(&history), plot::training(&history)] {
            let svg = figure.svg().unwrap();
            let number = |text: &str, name: &str| -> f64 {
                text.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
            };
            let at = svg.find(">best ").or_else(|| svg.find(">\nbest ")).expect("a label");
            let label = &svg[svg[..at].rfind("<text").unwrap()..at];
            let dark =
                svg.split("<circle").skip(1).find(|part| part.split('>').next().unwrap().contains("fill=\"#262626\""));
            let dot = dark.unwrap_or_else(|| panic!("no dot in {epochs} epochs: {svg}"));
            let away = (number(label, "y") - number(dot, "cy") / 4.0).abs(); // strokes are in quarters of a pixel
            assert!(away < 80.0, "{away} pixels in {epochs} epochs");
        }
    }
}

#[test]
fn the_words_of_a_figure_describe_it() {
    let said = plot::accuracy(&history(3, typical)).alt();
    assert!(said.starts_with("model accuracy, ") && said.contains("validation"), "{said}");
    assert!(!said.split(", ").any(|word| word == "0.2"), "{said}");
    assert_eq!(plot::image_grid(&some_images(2, 8, 8), &[""], 2).alt(), "images");
    assert!(plot::bars("", "", &[("ü".repeat(30), 1.0), ("é".repeat(300), 1.0)]).alt().chars().count() <= 241);
}
