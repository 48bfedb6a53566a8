//! Trains the CIFAR-10 version of VGG16 as notebook 05 does, or on drawn `shapes` images if CIFAR-10 is missing.
//!
//!     cargo run -p vgg_lib --example train_cifar10
//!     cargo run -p vgg_lib --example train_cifar10 -- --recipe keras --epochs 3
//!
//! With the default recipe, 14 epochs take about an hour on two CPU cores and reach a test accuracy of about 0.93.
//!
//! A thousand training images are held out for validation (use `--held-out 5000` to compare recipes). The test images
//! are used once, at the end.
//!
//! Checkpoints, weights, history and curves go to `--out` (default `target/cifar10`). If a run is interrupted, the same
//! command resumes after the last checkpoint, which is at most five minutes old. `touch target/cifar10/checkpoints/stop`
//! ends a run after the current step. With `--json`, each epoch is printed to stdout as a line of JSON,
//! `{"epoch","seconds","images_per_second","lr","loss","acc","val_loss","val_acc"}`, and nothing else is printed.
//!
//! Built with `--features mpi`, it trains on several processes or machines: `mpirun -n 2 target/debug/examples/train_cifar10`.

use clap::{Parser, ValueEnum};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;
use vgg_lib::Result;
use vgg_lib::distributed::{self, Job};
use vgg_lib::prelude::*;

#[derive(Parser)]
struct Options {
    /// Folder with `cifar-10-batches-bin` or `cifar-10-binary.tar.gz`.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    /// How to train.
    #[arg(long, value_enum, default_value_t = Recipe::OneCycle)]
    recipe: Recipe,
    /// Number of epochs [default: 14 with one-cycle, 250 with keras].
    #[arg(long)]
    epochs: Option<usize>,
    /// Images per step [default: 512 with one-cycle, 128 with keras].
    #[arg(long)]
    batch_size: Option<usize>,
    /// Highest learning rate (one-cycle only).
    #[arg(long, default_value_t = 0.1)]
    peak: f64,
    /// Factor on the learning rate for kernels updated with Muon; 0 for plain SGD (one-cycle only).
    #[arg(long, default_value_t = 0.4)]
    muon: f64,
    /// λ of the l2 penalty λ‖w‖²; has no effect on kernels whose norm Muon keeps (one-cycle only).
    #[arg(long, default_value_t = 0.0)]
    l2: f32,
    /// How the learning rate changes (one-cycle only).
    #[arg(long, value_enum, default_value_t = Rate::Triangle)]
    rate: Rate,
    /// Train the first convolution too, instead of computing filters that whiten the images (one-cycle only).
    #[arg(long)]
    no_whitening: bool,
    /// Start from Glorot weights, like Keras, instead of convolutions that pass their inputs through (one-cycle only).
    #[arg(long)]
    no_dirac: bool,
    /// Images that batch norm normalizes together; 0 for the whole batch (one-cycle only).
    #[arg(long, default_value_t = 32)]
    group: usize,
    /// Side, in pixels, of the square that is cut out of each training image (one-cycle only).
    #[arg(long, default_value_t = 12)]
    cutout: usize,
    /// α of mixup; 0 turns it off (one-cycle only).
    #[arg(long, default_value_t = 0.0)]
    mixup: f32,
    /// α of CutMix; 0 turns it off (one-cycle only).
    #[arg(long, default_value_t = 0.0)]
    cutmix: f32,
    /// Averages the weights over the steps; each keeps this share of the average, such as 0.999 (one-cycle only).
    #[arg(long)]
    ema: Option<f32>,
    /// Seed of the initial weights, the order of images and the augmentation.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of training images held out for validation.
    #[arg(long, default_value_t = 1000)]
    held_out: usize,
    /// Number of training images to use, the first ones [default: all that are not held out].
    #[arg(long)]
    images: Option<usize>,
    /// Maximum steps per epoch; validation and test are limited to the same number of batches.
    #[arg(long)]
    max_steps: Option<usize>,
    /// End after the epoch in which this many minutes have passed. The schedule still counts on all epochs.
    #[arg(long)]
    minutes: Option<f64>,
    /// Where checkpoints, weights, history and curves go.
    #[arg(long, default_value = "target/cifar10")]
    out: PathBuf,
    /// Start over, even if there is a run to resume.
    #[arg(long)]
    restart: bool,
    /// Print one line of JSON per epoch and nothing else.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Recipe {
    /// The recipe of notebook 05: one hour on two CPU cores.
    OneCycle,
    /// The recipe of the Keras CIFAR-10 VGG notebook (after geifmany/cifar-vgg): 250 epochs.
    Keras,
}

#[derive(Clone, Copy, ValueEnum)]
enum Rate {
    /// Rises linearly for a twentieth of the steps, then falls linearly to 0.
    Triangle,
    /// The same with cosines, after Smith's one-cycle schedule.
    OneCycle,
    /// The highest rate at every step.
    Constant,
}

impl Rate {
    fn schedule(self, max: f64) -> Schedule {
        match self {
            Rate::Triangle => Schedule::Triangle { max, warm_up: 0.05 },
            Rate::OneCycle => Schedule::OneCycle { max, warm_up: 0.05 },
            Rate::Constant => Schedule::Constant(max),
        }
    }
}

impl Recipe {
    fn apply(self, model: &mut Sequential, train: &Dataset, options: &Options) -> Result<FitConfig> {
        match self {
            Recipe::OneCycle => {
                model.set_dropout("", 0.0)?;
                model.set_l2("", options.l2)?;
                model.set_batch_norm_group("", options.group)?;
                if !options.no_dirac {
                    model.set_init("", Init::Dirac)?;
                }
                if !options.no_whitening {
                    model.whiten(train)?;
                    model.freeze("block1_conv1")?;
                }
                Ok(FitConfig {
                    epochs: 14,
                    batch_size: 512,
                    schedule: options.rate.schedule(options.peak),
                    optimizer: match options.muon {
                        0.0 => Optimizer::default(),
                        factor => Optimizer::Muon(Muon { factor, ..Muon::default() }),
                    },
                    augment: Augment {
                        crop_padding: 4,
                        horizontal_flip: true,
                        cutout: options.cutout,
                        mixup: options.mixup,
                        cutmix: options.cutmix,
                        ..Augment::default()
                    },
                    label_smoothing: 0.1,
                    ema: options.ema,
                    ..FitConfig::default()
                })
            }
            Recipe::Keras => Ok(FitConfig {
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
    let job = cfg!(feature = "mpi").then(distributed::init).transpose()?;
    let load = if options.json { cifar10::load } else { cifar10::load_or_shapes };
    let (train, test) = load(&options.data)?;
    let (train, validation) = train.split(train.len().saturating_sub(options.held_out));
    let train = train.take(options.images.unwrap_or(train.len()));
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
    let (begin, minutes) = (Instant::now(), options.minutes.unwrap_or(f64::INFINITY));
    let end: Callback = Box::new(move |_, _| {
        if begin.elapsed().as_secs_f64() < 60.0 * minutes { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let config = FitConfig {
        epochs: options.epochs.unwrap_or(recipe.epochs),
        batch_size,
        seed: Seed(options.seed),
        max_steps: options.max_steps,
        checkpoints: Some(if options.restart { Checkpoints::restart(folder) } else { Checkpoints::resume(folder) }),
        verbosity: if options.json { Verbosity::Silent } else { Verbosity::Auto },
        callbacks: if options.json { vec![print, end] } else { vec![end] },
        ..recipe
    };
    let history = model.fit(&train, &validation, config)?;
    if job.as_ref().is_some_and(|job| !job.is_first()) {
        return Ok(());
    }
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
        job.iter().filter(|job| job.size() > 1).for_each(print_traffic);
        println!("test accuracy {:.4}", plain.accuracy(test.labels())?);
        let both = plain.average(&mirrored)?;
        println!("test accuracy {:.4}, averaged over each image and its mirror image", both.accuracy(test.labels())?);
    }
    Ok(())
}

/// What training on several ranks has cost.
fn print_traffic(job: &Job) {
    let traffic = job.traffic();
    let steps = traffic.steps.max(1) as f64;
    let [sending, waiting] = [traffic.sending, traffic.waiting].map(|time| 1e3 * time.as_secs_f64() / steps);
    println!(
        "{} ranks: {:.1} MB of gradients per step, on their way for {sending:.0} ms, waited for {waiting:.0} ms",
        job.size(),
        traffic.bytes as f64 / steps / 1e6
    );
}
