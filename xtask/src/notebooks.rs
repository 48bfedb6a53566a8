//! `cargo xtask notebooks`: runs the notebooks.
//!
//! They run in a copy, target/notebooks/run/notebooks/, with links to vgg_lib, data and docs beside it. So nothing that
//! they write changes the working tree, except checkpoints. evcxr resolves the links, so vgg_lib is the workspace's.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::{check, root, setup};

/// Runs the notebooks in the folder `source`.
pub fn run(source: &Path, names: &[String], quick: bool, in_place: bool) -> Result<()> {
    let start = Instant::now();
    let out = root().join("target").join("notebooks");
    let chosen = choose(notebooks_in(source)?, names)?;
    let sh = Shell::new()?;
    let environment = setup::environment(&sh)?;

    fs::create_dir_all(out.join("plots"))?;
    let _lock = setup::lock(&out.join("lock"), "another `cargo xtask notebooks` runs here; waiting for it")?;
    let work = work_folder(source, &out.join("run"))?;

    sh.change_dir(&work);
    let (runner, python) = (root().join("xtask").join("run_notebook.py"), environment.python());
    let checks = root().join("xtask").join("checks.json");
    let mut failed = Vec::new();
    for name in &chosen {
        println!("\n{name}{}", if quick { " (quick)" } else { "" });
        let begun = Instant::now();
        let (executed, html) = (out.join(format!("{name}.ipynb")), out.join(format!("{name}.html")));
        let committed = out.join("run").join(format!("{name}.ipynb"));
        let notebook = format!("{name}.ipynb");
        let mut command =
            cmd!(sh, "{python} {runner} {notebook} --executed {executed} --html {html} --checks {checks}");
        if in_place {
            command = command.arg("--committed").arg(&committed);
        }
        command = environment.isolated(command);
        if quick {
            command = command.env("VGG_QUICK", "1");
        }
        let ok = command.quiet().run().is_ok();
        println!("{name}: {} after {:.0} s", if ok { "ok" } else { "FAILED" }, begun.elapsed().as_secs_f64());
        println!("  {}\n  {}", executed.display(), html.display());
        for plot in files_in(&work.join("plots"))? {
            copy_into(&plot, &out.join("plots"))?;
            if in_place && ok {
                refresh(&plot, &root().join("docs").join("plots"))?;
            }
            fs::remove_file(&plot)?;
        }
        if !ok {
            failed.push(name.as_str());
        } else if in_place {
            let found = check::violations(&fs::read_to_string(&committed)?);
            ensure!(found.is_empty(), "{name} is not written back, because it {}", found.join("; "));
            copy_into(&committed, source)?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    ensure!(failed.is_empty(), "{} of {} notebooks failed: {}", failed.len(), chosen.len(), failed.join(", "));
    println!("\n{} notebooks in {seconds:.0} s; plots in {}", chosen.len(), out.join("plots").display());
    Ok(())
}

/// The names of the notebooks in a folder, without `.ipynb`, sorted.
fn notebooks_in(folder: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = files_in(folder)?
        .iter()
        .filter(|path| path.extension() == Some("ipynb".as_ref()))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

/// The notebooks of `all` that `asked` names: each by its name, the start of its name, or its path.
fn choose(all: Vec<String>, asked: &[String]) -> Result<Vec<String>> {
    if asked.is_empty() {
        // Notebooks that readers make beside those of the project have no number.
        let numbered = |name: &String| name.starts_with(|first: char| first.is_ascii_digit());
        let any = all.iter().any(numbered);
        return Ok(all.into_iter().filter(|name| !any || numbered(name)).collect());
    }
    let stem = |name: &String| {
        let file = Path::new(name).file_name().and_then(|file| file.to_str()).unwrap_or(name);
        file.strip_suffix(".ipynb").unwrap_or(file).to_owned()
    };
    let asked: Vec<String> = asked.iter().map(stem).collect();
    for name in &asked {
        if !all.iter().any(|notebook| notebook.starts_with(name)) {
            bail!("no notebook is called {name}; there are: {}", all.join(", "));
        }
    }
    Ok(all.into_iter().filter(|notebook| asked.iter().any(|name| notebook.starts_with(name))).collect())
}

/// Copies the notebooks to a new folder `run/notebooks`, with everything that they reach by `../` beside it.
pub fn work_folder(source: &Path, run: &Path) -> Result<PathBuf> {
    let work = run.join("notebooks");
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    fs::create_dir_all(work.join("plots"))?;
    copy_into(&root().join("notebooks").join("evcxr.toml"), &work)?;
    for file in files_in(source)? {
        copy_into(&file, &work)?;
    }
    for name in ["vgg_lib", "data", "docs"] {
        link(&root().join(name), &run.join(name))?;
    }
    // A training run that was interrupted in JupyterLab resumes here, and the other way round.
    let checkpoints = source.join("checkpoints");
    fs::create_dir_all(&checkpoints)?;
    link(&checkpoints, &work.join("checkpoints"))?;
    Ok(work)
}

/// The regular files of a folder; none if the folder does not exist.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read {}", folder.display()))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

/// Copies a file into a folder if the folder has a file of that name: README shows some of the plots.
fn refresh(file: &Path, folder: &Path) -> Result<()> {
    let name = file.file_name().context("a file has a name")?;
    if folder.join(name).is_file() { copy_into(file, folder) } else { Ok(()) }
}

fn copy_into(file: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let to = folder.join(file.file_name().context("a file has a name")?);
    fs::copy(file, &to).with_context(|| format!("cannot copy {} to {}", file.display(), to.display()))?;
    Ok(())
}

#[cfg(unix)]
fn link(target: &Path, at: &Path) -> Result<()> {
    match fs::remove_file(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(std::os::unix::fs::symlink(target, at)?),
    }
}

/// A junction: unlike a symbolic link, it needs no privilege.
#[cfg(windows)]
fn link(target: &Path, at: &Path) -> Result<()> {
    if at.exists() {
        fs::remove_dir(at)?;
    }
    let status = std::process::Command::new("cmd").args(["/c", "mklink", "/J"]).args([at, target]).status()?;
    ensure!(status.success(), "cannot make the junction {}", at.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(asked: &[&str]) -> Result<Vec<String>> {
        let all = ["01_cifar10", "02_dogs", "03_dogs"].map(String::from);
        choose(all.into(), &asked.iter().map(|name| name.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn notebooks_are_chosen_by_name_or_start_or_path_in_their_own_order() {
        assert_eq!(chosen(&[]).unwrap(), ["01_cifar10", "02_dogs", "03_dogs"]);
        assert_eq!(chosen(&["03", "01_cifar10.ipynb"]).unwrap(), ["01_cifar10", "03_dogs"]);
        assert_eq!(chosen(&["notebooks/02_dogs.ipynb"]).unwrap(), ["02_dogs"]);
    }

    #[test]
    fn notebooks_without_a_number_run_only_if_they_are_named() {
        let chosen = |all: &[&str], asked: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
            choose(owned(all), &owned(asked)).unwrap()
        };
        assert_eq!(chosen(&["01_cifar10", "pets"], &[]), ["01_cifar10"]);
        assert_eq!(chosen(&["01_cifar10", "pets"], &["pets"]), ["pets"]);
        assert_eq!(chosen(&["across_cells", "monitor"], &[]), ["across_cells", "monitor"]);
    }

    #[test]
    fn an_unknown_notebook_is_an_error_that_lists_the_others() {
        let error = chosen(&["01", "04"]).unwrap_err().to_string();
        assert_eq!(error, "no notebook is called 04; there are: 01_cifar10, 02_dogs, 03_dogs");
    }

    #[test]
    fn only_the_plots_that_are_committed_already_are_refreshed() {
        let temp = tempfile::tempdir().unwrap();
        let (plots, shown) = (temp.path().join("plots"), temp.path().join("shown"));
        for (folder, names) in [(&plots, &["a.png", "b.png"][..]), (&shown, &["a.png"])] {
            fs::create_dir(folder).unwrap();
            names.iter().for_each(|name| fs::write(folder.join(name), folder.to_str().unwrap()).unwrap());
        }
        files_in(&plots).unwrap().iter().for_each(|plot| refresh(plot, &shown).unwrap());
        assert_eq!(files_in(&shown).unwrap(), [shown.join("a.png")]);
        assert_eq!(fs::read_to_string(shown.join("a.png")).unwrap(), plots.to_str().unwrap());
    }

    #[test]
    fn the_work_folder_is_fresh_and_links_to_the_workspace() {
        let temp = tempfile::tempdir().unwrap();
        let (source, run) = (temp.path().join("source"), temp.path().join("run"));
        fs::create_dir_all(source.join("plots")).unwrap();
        fs::write(source.join("a.ipynb"), "1").unwrap();
        fs::write(source.join("plots").join("old.png"), "1").unwrap();
        for _ in 0..2 {
            let work = work_folder(&source, &run).unwrap();
            assert_eq!(files_in(&work).unwrap(), [work.join("a.ipynb"), work.join("evcxr.toml")]);
            assert!(files_in(&work.join("plots")).unwrap().is_empty(), "plots of earlier runs are left out");
            assert!(work.join("../vgg_lib/Cargo.toml").is_file());
            fs::write(work.join("left-over"), "").unwrap();
            fs::write(work.join("checkpoints").join("kept"), "").unwrap();
        }
        assert!(source.join("checkpoints").join("kept").is_file(), "checkpoints outlive the folder");
        assert!(root().join("vgg_lib/Cargo.toml").is_file(), "the link is deleted, not its target");
    }
}
