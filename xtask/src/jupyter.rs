//! JupyterLab's settings in our environment, and `cargo xtask lab`, `new` and `kernel`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use xshell::{Shell, cmd};

use crate::{kernel, root, setup};

/// Writes the settings into `folder`/config: no pop-up with Jupyter's news, and pages of HTML that show all pictures.
pub fn configure(folder: &Path) -> Result<()> {
    let config = folder.join("config");
    fs::create_dir_all(config.join("labconfig"))?;
    let news = json!({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}});
    fs::write(config.join("labconfig").join("page_config.json"), news.to_string())?;
    let scripts = serde_json::to_string(&root().join("xtask").to_string_lossy())?;
    let text = format!("import sys\nsys.path.insert(0, {scripts})\nimport pictures\npictures.configure(c)\n");
    Ok(fs::write(config.join("jupyter_server_config.py"), text)?)
}

/// Opens JupyterLab on a folder: notebooks/ if none is given.
pub fn lab(folder: Option<&Path>, args: &[String]) -> Result<()> {
    let sh = Shell::new()?;
    let environment = setup::environment(&sh)?;
    let folder = folder.map_or_else(|| root().join("notebooks"), Path::to_owned);
    let folder = folder.canonicalize().with_context(|| format!("there is no folder {}", folder.display()))?;
    sh.change_dir(&folder);
    let python = environment.python();
    let mut jupyter = cmd!(sh, "{python} -m jupyterlab --ServerApp.root_dir={folder}");
    if is_root() && !args.iter().any(|arg| arg.starts_with("--allow-root")) {
        println!("You are root, as in a container, so JupyterLab is started with --allow-root");
        jupyter = jupyter.arg("--allow-root");
    }
    println!("Opening JupyterLab on {}; stop it with Ctrl-C", folder.display());
    become_program(environment.isolated(jupyter).args(args).into())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    cfg!(unix) && id.is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

/// Replaces this process, so that JupyterLab alone receives the terminal's Ctrl-C and asks for confirmation.
#[cfg(unix)]
fn become_program(mut command: Command) -> Result<()> {
    Err(std::os::unix::process::CommandExt::exec(&mut command).into())
}

#[cfg(windows)]
fn become_program(mut command: Command) -> Result<()> {
    ensure!(command.status()?.success(), "JupyterLab ended with an error");
    Ok(())
}

/// Makes a notebook that works: `folder`/`name`.ipynb.
pub fn new(name: &str, folder: &Path) -> Result<()> {
    let stem = name.strip_suffix(".ipynb").unwrap_or(name);
    ensure!(
        !stem.is_empty() && !stem.contains(['/', '\\']) && !stem.starts_with('.'),
        "{name} is not a name for a notebook; give the folder after it: cargo xtask new pets my/folder"
    );
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let folder = folder.canonicalize()?;
    let file = folder.join(format!("{stem}.ipynb"));
    ensure!(!file.exists(), "{} exists already", file.display());
    let library = path_between(&folder, &root().canonicalize()?.join("vgg_lib"));
    fs::write(&file, notebook(stem, &library)?).with_context(|| format!("cannot write {}", file.display()))?;
    println!("{}", file.display());
    println!("To open it: cargo xtask lab {}", folder.display());
    Ok(())
}

/// `library` as seen from `folder`: relative within the clone, so that the clone can be moved.
fn path_between(folder: &Path, library: &Path) -> PathBuf {
    let clone = library.parent().unwrap_or(library);
    match folder.strip_prefix(clone) {
        Ok(below) => below.components().map(|_| Path::new("..")).collect::<PathBuf>().join("vgg_lib"),
        Err(_) => library.to_owned(),
    }
}

/// A notebook as JupyterLab writes it, so that opening it changes nothing.
fn notebook(title: &str, library: &Path) -> Result<String> {
    let library = library.to_string_lossy().replace('\\', "/");
    let example = "let mut model = Sequential::new((32, 32, 3), Seed(0));\n\
        model.push(\"conv\", conv2d(16).relu())?;\n\
        model.push(\"pool\", max_pool2d())?;\n\
        model.push(\"flatten\", flatten())?;\n\
        model.push(\"predictions\", linear(10))?;\n\
        model.summary((32, 32, 3))";
    let first = format!("{}\nuse vgg_lib::prelude::*;", kernel::dep(&library));
    let code = |id: &str, text: &str| json!({"cell_type": "code", "execution_count": null, "id": id, "metadata": {}, "outputs": [], "source": lines(text)});
    let notebook = json!({
        "cells": [
            {"cell_type": "markdown", "id": "title", "metadata": {}, "source": lines(&format!("# {title}"))},
            code("library", &first),
            code("model", example),
        ],
        "metadata": {
            "kernelspec": {"display_name": "Rust", "language": "rust", "name": "rust"},
            "language_info": {
                "codemirror_mode": "rust", "file_extension": ".rs", "mimetype": "text/rust", "name": "Rust",
                "pygment_lexer": "rust", "version": "",
            },
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    });
    // Indented by one space per level, as Jupyter does.
    let text = serde_json::to_string_pretty(&notebook)?;
    Ok(text.lines().map(|line| format!("{}\n", &line[(line.len() - line.trim_start().len()) / 2..])).collect())
}

/// The lines of a cell, each with its line break.
fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_is_found_from_any_folder() {
        let library = Path::new("/home/a/clone/vgg_lib");
        let from = |folder| path_between(Path::new(folder), library);
        assert_eq!(from("/home/a/clone/notebooks"), Path::new("../vgg_lib"));
        assert_eq!(from("/home/a/clone/notebooks/pets"), Path::new("../../vgg_lib"));
        assert_eq!(from("/home/a/clone"), Path::new("vgg_lib"));
        assert_eq!(from("/home/a/pets"), library);
    }

    #[test]
    fn a_new_notebook_begins_as_all_others_do() {
        let temp = tempfile::tempdir_in(root().join("target")).unwrap();
        new("pets.ipynb", temp.path()).unwrap();
        let text = fs::read_to_string(temp.path().join("pets.ipynb")).unwrap();
        let notebook: serde_json::Value = serde_json::from_str(&text).unwrap();
        let first = &notebook["cells"][1]["source"];
        assert_eq!(first[0].as_str().unwrap().trim_end(), kernel::dep("../../vgg_lib"));
        assert_eq!(first[1], "use vgg_lib::prelude::*;");
        assert!(text.ends_with("}\n") && text.contains("\n \"cells\": ["), "as nbformat writes it");
    }

    #[test]
    fn a_new_notebook_replaces_nothing_and_has_a_name() {
        let temp = tempfile::tempdir().unwrap();
        new("pets", temp.path()).unwrap();
        assert!(new("pets", temp.path()).unwrap_err().to_string().ends_with("pets.ipynb exists already"));
        for name in ["", "a/b", "..", ".hidden"] {
            assert!(new(name, temp.path()).unwrap_err().to_string().contains("is not a name"), "{name}");
        }
    }
}
