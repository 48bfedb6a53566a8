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
    f32_bar: f64,
    bf16_bar: Option<f64>,
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
    let inference = |name, gflop, f32_bar| Work { name, gflop, f32_bar, bf16_bar: None, peers: INFERENCE };
    let own = |name| Work { name, gflop: 0.0, f32_bar: 0.0, bf16_bar: None, peers: &[] };
    [
        // Backward takes two convolutions for each one forward.
        Work { name: "train", gflop: 3.0 * gflop(32, 128), f32_bar: 3.0, bf16_bar: Some(2.0), peers: TRAINING },
        own("train-augmented"),
        own("load"),
        inference("infer", gflop(32, 128), 2.5),
        inference("vgg16-8", gflop(224, 8), 2.0),
        inference("vgg16-1", gflop(224, 1), 2.0),
        inference("features", gflop(224, 20), 2.0),
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
    work: &'static str,
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

    println!(
        "{}",
        line(["work", "against", "ours", "theirs", "ratio", "bar", "", "of the GEMM peak"].map(String::from))
    );
    let (mut results, mut rows) = (Vec::new(), Vec::new());
    for work in chosen {
        let done = bench.time(work)?;
        results.extend(done.iter().map(Row::json));
        rows.extend(done);
    }
    let file = root().join("target").join("bench.json");
    fs::write(&file, serde_json::to_string_pretty(&results)?)?;
    println!("\n{} threads; times in ms, medians; ratio: theirs ÷ ours. Also in {}", options.threads, file.display());
    Ok(())
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
    /// Compares our time for a work with each peer's, and prints a line for each.
    fn time(&self, work: &Work) -> Result<Vec<Row>> {
        let only = self.options.only.as_deref().unwrap_or_default();
        let peers: Vec<Peer> = self.peers(work).into_iter().filter(|peer| peer.name.starts_with(only)).collect();
        if peers.is_empty() {
            return Ok(Vec::new());
        }
        let (rounds, seconds) = if self.options.quick { (3, 5) } else { (7, 30) };
        let mut ours = Worker::start(self.ours(work.name, self.options.threads), &self.log(work.name))
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
                    println!("{} against {name} could not be timed: {error:#}", work.name);
                    continue;
                }
            };
            let theirs = theirs * scale;
            if name == "gemm-peak" {
                peak = Some(theirs);
            }
            let shares = peak.map(|peak| (peak / ours, peak / theirs));
            let row = Row { work: work.name, peer: name, ours, theirs, bar, shares, memory };
            println!("{}", row.text());
            rows.push(row);
        }
        if let (true, Some(mine)) = (work.name == "train", ours.end()) {
            for row in rows.iter().filter(|row| row.peer.starts_with("torch")) {
                let Some(theirs) = row.memory else { continue };
                println!(
                    "{}",
                    Row { work: "train, peak MiB", ours: mine, theirs, bar: Some(1.0), shares: None, ..*row }.text()
                );
            }
        }
        Ok(rows)
    }

    fn peers(&self, work: &Work) -> Vec<Peer> {
        let threads = self.options.threads;
        let mut peers = Vec::new();
        let mut add = |name, command, scale, bar| peers.push(Peer { name, command, scale, bar });
        if work.gflop > 0.0 {
            let bar = (work.name == "train").then_some(1.0 / 0.6);
            add("gemm-peak", self.ours("gemm", threads), work.gflop, bar);
            if threads > 1 {
                add("one-thread", self.ours(work.name, 1), 1.0, (threads == 2).then_some(1.8));
            }
        } else {
            // At most 3 % of a step.
            let bar = if work.name == "load" { 1.0 / 0.03 } else { 1.0 / 1.03 };
            add("train", self.ours("train", threads), 1.0, Some(bar));
        }
        let Some(python) = &self.python else { return peers };
        for &name in work.peers {
            let mut command = Command::new(python);
            command.arg(root().join("xtask").join("bench_peers.py")).args([name, work.name, "--threads"]);
            command.arg(threads.to_string());
            let bar = if name.contains("bf16") { work.bf16_bar } else { Some(work.f32_bar) };
            add(name, command, 1.0, bar);
        }
        peers
    }

    fn ours(&self, work: &str, threads: usize) -> Command {
        let mut command = Command::new(&self.example);
        // The peers run on the CPU, too; benches/gpu.sh compares on a GPU.
        command.arg(work).env("RAYON_NUM_THREADS", threads.to_string()).env("VGG_DEVICE", "cpu");
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
            "work": self.work,
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
            self.work.into(),
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
        let row =
            Row { work: "infer", peer: "x", ours: 40.0, theirs: 100.0, bar: Some(2.5), shares: None, memory: None };
        assert_eq!(
            row.text(),
            "infer            x                                     40.0     100   2.50  ≥ 2.50 met"
        );
        assert!(Row { ours: 41.0, ..row }.text().ends_with("not met"));
    }
}
