//! Trains document 000's network on CIFAR-10, or on the embedded `shapes` images where there is none.
//!
//!     cargo run -p vgg_lib --example train_cifar10
//!     cargo run -p vgg_lib --example train_cifar10 -- --recipe document --epochs 3
//!
//! A thousand of the training images are held out for validation (`--held-out 5000` to choose a recipe by); the test
//! images are looked at once, at the end.
//!
//! Checkpoints, weights, history and curves go to `--out` (default `target/cifar10`). Interrupted, the same command
//! goes on after the last finished epoch. With `--json` each new epoch is a line of JSON on stdout:
//! `{"epoch","seconds","images_per_second","lr","loss","acc","val_loss","val_acc"}`, and nothing else is printed.

use clap::{Parser, ValueEnum};
use std::ops::ControlFlow;
use std::path::PathBuf;
use vgg_lib::Result;
use vgg_lib::prelude::*;

#[derive(Parser)]
struct Options {
    /// Folder with `cifar-10-batches-bin` or `cifar-10-binary.tar.gz`.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    #[arg(long, value_enum, default_value_t = Recipe::OneCycle)]
    recipe: Recipe,
    /// 14 with the recipe one-cycle, 250 with the document's.
    #[arg(long)]
    epochs: Option<usize>,
    /// 512 with the recipe one-cycle, 128 with the document's.
    #[arg(long)]
    batch_size: Option<usize>,
    /// The highest learning rate of the recipe one-cycle.
    #[arg(long, default_value_t = 0.1)]
    peak: f64,
    /// The recipe one-cycle moves kernels by Muon with this share of the learning rate; 0 is plain SGD.
    #[arg(long, default_value_t = 0.4)]
    muon: f64,
    /// λ of the penalty λ‖w‖² in the recipe one-cycle; without use where Muon keeps the norm of kernels.
    #[arg(long, default_value_t = 0.0)]
    l2: f32,
    /// Whether the recipe one-cycle begins with Glorot's weights, as Keras does, and not with a first convolution that
    /// whitens and others that pass their input on.
    #[arg(long)]
    glorot: bool,
    /// Images that batch norms of the recipe one-cycle normalize together; 0 is the whole batch.
    #[arg(long, default_value_t = 32)]
    group: usize,
    /// Pixels: the side of the square that the recipe one-cycle cuts out of each training image.
    #[arg(long, default_value_t = 12)]
    cutout: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Training images that are for validation only.
    #[arg(long, default_value_t = 1000)]
    held_out: usize,
    /// Steps an epoch at the most; validation and test are then cut to as many batches.
    #[arg(long)]
    max_steps: Option<usize>,
    /// Where checkpoints, weights, history and curves go.
    #[arg(long, default_value = "target/cifar10")]
    out: PathBuf,
    /// Begin anew, even if there is a training to go on with.
    #[arg(long)]
    restart: bool,
    /// One line of JSON an epoch, and nothing else.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Recipe {
    /// Notebook 01's: as far as two CPU cores get within an hour.
    OneCycle,
    /// Document 000's.
    Document,
}

impl Recipe {
    fn apply(self, model: &mut Sequential, train: &Dataset, options: &Options) -> Result<FitConfig> {
        match self {
            Recipe::OneCycle => {
                model.set_dropout("", 0.0)?;
                model.set_l2("", options.l2)?;
                if !options.glorot {
                    model.set_init("", Init::Dirac)?;
                    model.whiten(train)?;
                    model.freeze("block1_conv1")?;
                    model.set_batch_norm_group("", options.group)?;
                }
                Ok(FitConfig {
                    epochs: 14,
                    batch_size: 512,
                    schedule: Schedule::Triangle { max: options.peak, warm_up: 0.05 },
                    optimizer: SgdConfig {
                        muon: Some(options.muon).filter(|&share| share != 0.0),
                        ..SgdConfig::default()
                    },
                    augment: Augment {
                        crop_padding: 4,
                        horizontal_flip: true,
                        cutout: options.cutout,
                        ..Augment::default()
                    },
                    label_smoothing: 0.1,
                    ..FitConfig::default()
                })
            }
            Recipe::Document => Ok(FitConfig {
                epochs: 250,
                augment: Augment {
                    rotation: 15.0,
                    width_shift: 0.1,
                    height_shift: 0.1,
                    horizontal_flip: true,
                    ..Augment::default()
                },
                ..FitConfig::default()
            }),
        }
    }
}

fn main() {
    if let Err(error) = run(Options::parse()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(options: Options) -> Result<()> {
    let load = if options.json { cifar10::load } else { cifar10::load_or_shapes };
    let (train, test) = load(&options.data)?;
    let (train, validation) = train.split(train.len().saturating_sub(options.held_out));
    let stats = Normalization::fit(&train);
    let (train, mut validation, mut test) = (stats.apply(&train), stats.apply(&validation), stats.apply(&test));

    let mut model = vgg::cifar_vgg16(Seed(options.seed));
    let recipe = options.recipe.apply(&mut model, &train, &options)?;
    let batch_size = options.batch_size.unwrap_or(recipe.batch_size);
    if let Some(steps) = options.max_steps {
        validation = validation.take(steps * batch_size);
        test = test.take(steps * batch_size);
    }
    let folder = options.out.join("checkpoints");
    let print: Callback = Box::new(|epoch, _| {
        println!("{}", serde_json::to_string(epoch).expect("numbers are JSON"));
        ControlFlow::Continue(())
    });
    let config = FitConfig {
        epochs: options.epochs.unwrap_or(recipe.epochs),
        batch_size,
        seed: Seed(options.seed),
        max_steps: options.max_steps,
        checkpoints: Some(if options.restart { Checkpoints::restart(folder) } else { Checkpoints::resume(folder) }),
        verbosity: if options.json { Verbosity::Silent } else { Verbosity::Auto },
        callbacks: if options.json { vec![print] } else { vec![] },
        ..recipe
    };
    let history = model.fit(&train, &validation, config)?;
    model.save_weights(options.out.join("cifar10vgg.safetensors"))?;
    history.save_csv(options.out.join("history.csv"))?;
    history.save_json(options.out.join("history.json"))?;
    plot::accuracy(&history).save(options.out.join("accuracy"))?;
    plot::loss(&history).save(options.out.join("loss"))?;
    if !options.json {
        let minutes = history.epochs.iter().map(|epoch| epoch.seconds).sum::<f64>() / 60.0;
        let plain = model.predict(&test)?;
        let mirrored = model.predict(&test.mirrored())?;
        println!("{} epochs, {minutes:.1} minutes", history.epochs.len());
        println!("test accuracy {:.4}", plain.accuracy(test.labels())?);
        let both = plain.average(&mirrored)?;
        println!("test accuracy {:.4}, each image and its mirror image averaged", both.accuracy(test.labels())?);
    }
    Ok(())
}
