//! Figures, from outside: what they are made of, that they save, and that no input breaks them.
//!
//! `LOOK=folder cargo test --test plot` also leaves the figures there, to look at.

use std::{fs, path::Path};

use image::{Rgb, RgbImage};
use vgg_lib::{
    plot::{self, Figure},
    train::history::{EpochRecord, History},
};

fn history(epochs: usize, record: impl Fn(usize) -> EpochRecord) -> History {
    History { epochs: (1..=epochs).map(record).collect() }
}

/// Curves like those of document 000.
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

fn picture(width: u32, height: u32, hue: u32) -> RgbImage {
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

fn pictures(count: u32, width: u32, height: u32) -> Vec<RgbImage> {
    (0..count).map(|i| picture(width, height, i)).collect()
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

/// Both formats are what they claim to be, and have the figure's size.
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

/// What each figure says, in order.
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
        ("some_nan", history(40, some_nan)),
        ("all_nan", history(3, all_nan)),
        ("sparse", history(40, sparse)),
        ("spiky", history(250, spiky)),
    ];
    for (name, history) in cases {
        check(&format!("accuracy_{name}"), plot::accuracy(&history));
        check(&format!("loss_{name}"), plot::loss(&history));
    }
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
    check("lines_nothing", plot::lines("", "", "", &[]));
}

#[test]
fn small_images_keep_their_exact_pixels() {
    let mut image = RgbImage::from_pixel(32, 32, Rgb([250, 0, 250]));
    image.put_pixel(5, 7, Rgb([0, 255, 0]));
    let bitmap = check("grid_exact", plot::image_grid(&[image], &[], 1));
    let green = bitmap.pixels().filter(|p| p.0 == [0, 255, 0]).count();
    let pink = bitmap.pixels().filter(|p| p.0 == [250, 0, 250]).count();
    let white = bitmap.pixels().filter(|p| p.0 == [255, 255, 255]).count();
    let factor = 12 * 12; // 400 real pixels hold 12 × 32
    assert_eq!((green, pink), (factor, (32 * 32 - 1) * factor));
    assert_eq!(green + pink + white, (bitmap.width() * bitmap.height()) as usize, "pixels were blended");
}

#[test]
fn any_images_can_be_shown_in_a_grid() {
    let names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    let titles: Vec<String> = (0..50).map(|i| names[i % 10].to_string()).collect();
    check("grid_cifar", plot::image_grid(&pictures(50, 32, 32), &titles, 10));
    let titles =
        strings(&["cat 93 %\ndog 4 %\nfox 2 %", "Old English sheepdog, bobtail 93 %\ndog 4 %", "", "one line"]);
    check("grid_photos", plot::image_grid(&pictures(7, 300, 224), &titles, 4));
    check("grid_two", plot::image_grid(&pictures(2, 224, 300), &strings(&["first", "second"]), 5));
    check("grid_filters", plot::image_grid(&pictures(64, 3, 3), &[], 16));
    check("grid_512", plot::image_grid(&pictures(512, 14, 14), &[], 32));
    check("grid_columns_0", plot::image_grid(&pictures(3, 32, 32), &strings(&["a\u{0}b<&>"]), 0));
    check("grid_columns_many", plot::image_grid(&pictures(40, 32, 32), &titles, 1000));
    let odd = [RgbImage::new(0, 0), RgbImage::new(1, 1), picture(3000, 2, 3), picture(2, 3000, 4)];
    check("grid_odd", plot::image_grid(&odd, &strings(&["empty", "one", "wide", "high"]), 4));
    let none = plot::image_grid(&[], &titles, 4);
    assert_eq!(texts(&none), ["no images"]);
    check("grid_none", none);
}

#[test]
fn a_grid_too_long_says_how_many_it_left_out() {
    let figure = plot::image_grid(&pictures(100, 8, 8), &[], 1);
    let said = texts(&figure).join(" ");
    let left_out: usize = said.strip_prefix("and ").unwrap().strip_suffix(" more").unwrap().parse().unwrap();
    assert_eq!(figure.svg().unwrap().matches("<image").count(), 100 - left_out);
}

#[test]
fn long_titles_are_cut() {
    let figure = plot::image_grid(&pictures(2, 32, 32), &strings(&[&"long ".repeat(50), "short"]), 2);
    let said = texts(&figure);
    assert!(said[0].starts_with("long ") && said[0].ends_with('…') && said[0].len() < 60, "{said:?}");
    assert_eq!(said[1], "short");
}

#[test]
fn predictions_show_truth_names_and_per_cents() {
    let classes = strings(&["cat", "dog", "ship"]);
    let truth = strings(&["cat", "dog"]);
    let probabilities = [vec![0.93, 0.05, 0.02], vec![0.6, 0.39, 0.01]];
    let figure = plot::predictions(&pictures(2, 32, 32), &truth, &probabilities, &classes);
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
    check("predictions", plot::predictions(&pictures(7, 224, 180), &truth, &probabilities, &classes));
    check("predictions_cifar", plot::predictions(&pictures(2, 32, 32), &truth[..1], &probabilities, &classes));
    check("predictions_none", plot::predictions(&[], &[], &[], &[]));
    check("predictions_bare", plot::predictions(&pictures(1, 32, 32), &[], &[], &[]));
    check("predictions_many", plot::predictions(&pictures(160, 32, 32), &[], &[], &[]));
}

#[test]
fn a_figure_is_saved_by_its_extension_and_given_back() {
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
