//! `cargo xtask bench`: times vgg_lib, and with `--peers` other frameworks at the same work.
//!
//! vgg_lib and one peer at a time are kept warm and run in turns, so that other load on the machine affects both. The
//! numbers are medians. The peers' networks are in bench_peers.py, ours are in vgg_lib/examples/bench.rs.

mod notebook;
mod worker;

use std::{env, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xshell::{Shell, cmd};

use crate::{root, setup};
use worker::{Worker, compare};

#[derive(clap::Args)]
pub struct Options {
    /// The work to time, by the start of its name: train, train-augmented, load, infer, vgg16-8, vgg16-1, features
    /// (default: all)
    works: Vec<String>,
    /// Time other frameworks, too; installs them first (a few GB)
    #[arg(long)]
    peers: bool,
    /// Compare only with the peers whose names start with this, such as torch or gemm-peak
    #[arg(long)]
    only: Option<String>,
    /// Threads per process
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Fewer rounds
    #[arg(long)]
    quick: bool,
    /// Time a notebook instead: `:dep` with nothing compiled yet, `:dep` later, and the median cell
    #[arg(long, conflicts_with_all = ["works", "peers", "only", "threads", "quick"])]
    notebook: bool,
}

/// Work to be timed. A bar is the smallest ratio (their time ÷ ours) that the project aims for.
struct Work {
    name: &'static str,
    /// GFLOP of its convolutions, computed directly; 0 if this number means nothing for the work.
    gflop: f64,
    /// For our f32 against their f32, our f32 against their bf16, and our bf16 against their bf16.
    bars: [Option<f64>; 3],
    peers: &'static [&'static str],
}

const TRAINING: &[&str] = &[
    "torch-f32",
    "torch-f32-channels-last",
    "torch-f32-channels-last-compiled",
    "torch-bf16-channels-last",
    "torch-bf16-channels-last-compiled",
    "keras-f32",
    "keras-bf16",
];
const INFERENCE: &[&str] = &[
    "torch-f32",
    "torch-f32-channels-last",
    "torch-f32-channels-last-compiled",
    "torch-bf16-channels-last",
    "torch-bf16-channels-last-compiled",
    "onnxruntime-f32",
    "openvino-f32",
    "openvino-bf16",
];

fn works() -> [Work; 7] {
    let inference =
        |name, gflop, f32, bf16| Work { name, gflop, bars: [Some(f32), None, Some(bf16)], peers: INFERENCE };
    let own = |name| Work { name, gflop: 0.0, bars: [None; 3], peers: &[] };
    [
        // Backward takes two convolutions for each one forward.
        Work { name: "train", gflop: 3.0 * gflop(32, 128), bars: [3.0, 2.0, 5.0].map(Some), peers: TRAINING },
        own("train-augmented"),
        own("load"),
        inference("infer", gflop(32, 128), 2.5, 2.0),
        inference("vgg16-8", gflop(224, 8), 2.0, 1.15),
        inference("vgg16-1", gflop(224, 1), 2.0, 1.15),
        inference("features", gflop(224, 20), 2.0, 1.15),
    ]
}

/// GFLOP of VGG16's convolutions, computed directly, for a batch of square RGB images.
fn gflop(mut side: usize, batch: usize) -> f64 {
    let (mut flop, mut channels) = (0, 3);
    for (convolutions, filters) in [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)] {
        for _ in 0..convolutions {
            flop += 2 * 9 * side * side * channels * filters;
            channels = filters;
        }
        side /= 2;
    }
    (batch * flop) as f64 / 1e9
}

/// A process that vgg_lib is compared with.
struct Peer {
    name: &'static str,
    command: Command,
    /// The factor that its milliseconds are multiplied by.
    scale: f64,
    bar: Option<f64>,
}

/// The result of a comparison. Times are in milliseconds, memory is in MiB.
struct Row {
    /// With " bf16" if that is what vgg_lib computes with.
    work: String,
    peer: &'static str,
    ours: f64,
    theirs: f64,
    bar: Option<f64>,
    /// The share of the GEMM peak that each reaches. Operations are counted as for direct convolution, so a faster
    /// algorithm can exceed 1.
    shares: Option<(f64, f64)>,
    memory: Option<f64>,
}

pub fn run(options: &Options) -> Result<()> {
    if options.notebook {
        return notebook::run();
    }
    let works = works();
    let chosen = |work: &&Work| options.works.is_empty() || options.works.iter().any(|w| work.name.starts_with(w));
    let chosen: Vec<&Work> = works.iter().filter(chosen).collect();
    ensure!(!chosen.is_empty(), "no work has this name; there are: {}", works.map(|w| w.name).join(", "));

    let sh = Shell::new()?;
    sh.change_dir(root());
    cmd!(sh, "cargo build --quiet --package vgg_lib --features bench --example bench").run()?;
    let bench = Bench {
        example: env::current_exe()?.with_file_name("examples").join(format!("bench{}", env::consts::EXE_SUFFIX)),
        python: if options.peers { Some(setup::peers(&sh)?) } else { None },
        logs: root().join("target").join("bench"),
        options,
    };
    fs::create_dir_all(&bench.logs)?;
    let precisions = bench.precisions()?;

    println!(
        "{}",
        line(["work", "against", "ours", "theirs", "ratio", "bar", "", "of the GEMM peak"].map(String::from))
    );
    let (mut results, mut rows) = (Vec::new(), Vec::new());
    for work in chosen {
        for precision in &precisions {
            let done = bench.time(work, precision)?;
            results.extend(done.iter().map(Row::json));
            rows.extend(done);
        }
    }
    let file = root().join("target").join("bench.json");
    fs::write(&file, serde_json::to_string_pretty(&results)?)?;
    println!(
        "\n{}, {} threads; times in ms, medians; ratio: theirs ÷ ours. Also in {}",
        cpu(),
        options.threads,
        file.display()
    );
    Ok(())
}

/// The name of the CPU, and whether it has AMX.
fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| info.lines().find(|line| line.starts_with(key)).and_then(|line| line.split(": ").nth(1));
    let amx = value("flags").is_some_and(|flags| flags.contains("amx_bf16"));
    format!("{} {}", value("model name").unwrap_or("CPU").trim(), if amx { "with AMX" } else { "without AMX" })
}

struct Bench<'a> {
    options: &'a Options,
    /// vgg_lib/examples/bench.rs, built.
    example: PathBuf,
    /// The Python that has the peers installed.
    python: Option<PathBuf>,
    logs: PathBuf,
}

impl Bench<'_> {
    /// What vgg_lib can compute with on this CPU.
    fn precisions(&self) -> Result<Vec<String>> {
        let output = Command::new(&self.example).arg("precisions").output().context("the benchmark does not run")?;
        Ok(String::from_utf8(output.stdout)?
            .lines()
            .take(1)
            .flat_map(str::split_whitespace)
            .map(String::from)
            .collect())
    }

    /// Compares our time for a work with each peer's, and prints a line for each.
    fn time(&self, work: &Work, precision: &str) -> Result<Vec<Row>> {
        let only = self.options.only.as_deref().unwrap_or_default();
        let title = if precision == "bf16" { format!("{} bf16", work.name) } else { work.name.to_string() };
        let peers: Vec<Peer> =
            self.peers(work, precision).into_iter().filter(|peer| peer.name.starts_with(only)).collect();
        if peers.is_empty() {
            return Ok(Vec::new());
        }
        let (rounds, seconds) = if self.options.quick { (3, 5) } else { (7, 30) };
        let mut ours = Worker::start(self.ours(work.name, self.options.threads, precision), &self.log(&title))
            .with_context(|| format!("vgg_lib could not do {}", work.name))?;
        let mut rows: Vec<Row> = Vec::new();
        let mut peak = None;
        for Peer { name, command, scale, bar } in peers {
            let compared =
                Worker::start(command, &self.log(&format!("{}-{name}", work.name))).and_then(|mut theirs| {
                    let times = compare(&mut ours, &mut theirs, rounds, Duration::from_secs(seconds))?;
                    Ok((times, theirs.end()))
                });
            let ((ours, theirs), memory) = match compared {
                Ok(done) => done,
                Err(error) => {
                    println!("{title} against {name} could not be timed: {error:#}");
                    continue;
                }
            };
            let theirs = theirs * scale;
            if name == "gemm-peak" {
                peak = Some(theirs);
            }
            let shares = peak.map(|peak| (peak / ours, peak / theirs));
            let row = Row { work: title.clone(), peer: name, ours, theirs, bar, shares, memory };
            println!("{}", row.text());
            rows.push(row);
        }
        if let (true, Some(mine)) = (work.name == "train", ours.end()) {
            for row in rows.iter().filter(|row| row.peer.starts_with("torch")) {
                let Some(theirs) = row.memory else { continue };
                println!(
                    "{}",
                    Row {
                        work: format!("{title}, peak MiB"),
                        ours: mine,
                        theirs,
                        bar: Some(1.0),
                        shares: None,
                        ..*row
                    }
                    .text()
                );
            }
        }
        Ok(rows)
    }

    fn peers(&self, work: &Work, precision: &str) -> Vec<Peer> {
        let threads = self.options.threads;
        let bf16 = precision == "bf16";
        let mut peers = Vec::new();
        let mut add = |name, command, scale, bar| peers.push(Peer { name, command, scale, bar });
        if work.gflop > 0.0 {
            let bar = (work.name == "train" && !bf16).then_some(1.0 / 0.6);
            add("gemm-peak", self.ours("gemm", threads, precision), work.gflop, bar);
            if threads > 1 {
                let bar = (threads == 2 && !bf16).then_some(1.8);
                add("one-thread", self.ours(work.name, 1, precision), 1.0, bar);
            }
            if bf16 {
                add("ours-f32", self.ours(work.name, threads, "f32"), 1.0, None);
            }
        } else {
            // At most 2 % of a step.
            let bar = if work.name == "load" { 1.0 / 0.02 } else { 1.0 / 1.02 };
            add("train", self.ours("train", threads, precision), 1.0, Some(bar));
        }
        let Some(python) = &self.python else { return peers };
        for &name in work.peers {
            let bar = match (bf16, name.contains("bf16")) {
                (true, false) => continue,
                (false, false) => work.bars[0],
                (false, true) => work.bars[1],
                (true, true) => work.bars[2],
            };
            let mut command = Command::new(python);
            command.arg(root().join("xtask").join("bench_peers.py")).args([name, work.name, "--threads"]);
            command.arg(threads.to_string());
            add(name, command, 1.0, bar);
        }
        peers
    }

    fn ours(&self, work: &str, threads: usize, precision: &str) -> Command {
        let mut command = Command::new(&self.example);
        // The peers run on the CPU, too; benches/gpu.sh compares on a GPU.
        let settings =
            [("RAYON_NUM_THREADS", &*threads.to_string()), ("VGG_DEVICE", "cpu"), ("VGG_PRECISION", precision)];
        command.arg(work).envs(settings);
        command
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }
}

impl Row {
    fn ratio(&self) -> f64 {
        self.theirs / self.ours
    }

    fn json(&self) -> Value {
        json!({
            "work": &self.work,
            "peer": self.peer,
            "ours_ms": self.ours,
            "peer_ms": self.theirs,
            "ratio": self.ratio(),
        })
    }

    fn text(&self) -> String {
        let number = |value: f64| if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") };
        let met = |bar| if self.ratio() >= bar { "met" } else { "not met" };
        line([
            self.work.clone(),
            self.peer.into(),
            number(self.ours),
            number(self.theirs),
            format!("{:.2}", self.ratio()),
            self.bar.map_or(String::new(), |bar| format!("≥ {bar:.2}")),
            self.bar.map_or("", met).into(),
            self.shares.map_or(String::new(), |(ours, theirs)| format!("{ours:.2}, theirs {theirs:.2}")),
        ])
    }
}

fn line([work, peer, ours, theirs, ratio, bar, met, shares]: [String; 8]) -> String {
    format!("{work:<16} {peer:<34} {ours:>7} {theirs:>7} {ratio:>6} {bar:>7} {met:<8} {shares}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_convolution_takes_the_published_number_of_operations() {
        assert!((3.0 * gflop(32, 128) - 240.5).abs() < 0.1);
        assert!((gflop(224, 1) - 30.69).abs() < 0.01);
    }

    #[test]
    fn a_row_shows_whether_its_bar_is_met() {
        let row = Row {
            work: "infer".into(),
            peer: "x",
            ours: 40.0,
            theirs: 100.0,
            bar: Some(2.5),
            shares: None,
            memory: None,
        };
        assert_eq!(
            row.text(),
            "infer            x                                     40.0     100   2.50  ≥ 2.50 met"
        );
        assert!(Row { ours: 41.0, ..row }.text().ends_with("not met"));
    }
}
