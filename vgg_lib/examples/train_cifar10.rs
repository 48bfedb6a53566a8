//! Trains document 000's network on CIFAR-10, or on the embedded `shapes` images where there is none.
//!
//!     cargo run --release -p vgg_lib --example train_cifar10 -- --data data --epochs 3
//!
//! Weights, history and curves go to `--out` (default `target/cifar10`). With `--json` each epoch is a line
//! of JSON on stdout: `{"epoch","seconds","images_per_second","lr","loss","acc","val_loss","val_acc"}`.

use clap::Parser;
use std::ops::ControlFlow;
use std::path::PathBuf;
use vgg_lib::Result;
use vgg_lib::prelude::*;

#[derive(Parser)]
struct Options {
    /// Folder with `cifar-10-batches-bin` or `cifar-10-binary.tar.gz`.
    #[arg(long, default_value = "data")]
    data: PathBuf,
    #[arg(long, default_value_t = 250)]
    epochs: usize,
    #[arg(long, default_value_t = 128)]
    batch_size: usize,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Steps an epoch at the most; validation is then cut to as many batches.
    #[arg(long)]
    max_steps: Option<usize>,
    /// Where weights, history and curves go.
    #[arg(long, default_value = "target/cifar10")]
    out: PathBuf,
    /// One line of JSON an epoch, and nothing else.
    #[arg(long)]
    json: bool,
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
    let stats = Normalization::fit(&train);
    let (train, mut test) = (stats.apply(&train), stats.apply(&test));
    if let Some(steps) = options.max_steps {
        test = test.take(steps * options.batch_size);
    }
    let mut model = vgg::cifar_vgg16(Seed(options.seed));
    let print: Callback = Box::new(|epoch, _| {
        println!("{}", serde_json::to_string(epoch).expect("numbers are JSON"));
        ControlFlow::Continue(())
    });
    let augment =
        Augment { rotation: 15.0, width_shift: 0.1, height_shift: 0.1, horizontal_flip: true, ..Augment::default() };
    let config = FitConfig {
        epochs: options.epochs,
        batch_size: options.batch_size,
        augment,
        seed: Seed(options.seed),
        max_steps: options.max_steps,
        verbosity: if options.json { Verbosity::Silent } else { Verbosity::Auto },
        callbacks: if options.json { vec![print] } else { vec![] },
        ..FitConfig::default()
    };
    let history = model.fit(&train, &test, config)?;
    model.save_weights(options.out.join("cifar10vgg.safetensors"))?;
    history.save_csv(options.out.join("history.csv"))?;
    history.save_json(options.out.join("history.json"))?;
    plot::accuracy(&history).save(options.out.join("accuracy"))?;
    plot::loss(&history).save(options.out.join("loss"))?;
    Ok(())
}
