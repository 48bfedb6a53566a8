//! Whatever a public function returns can be the value of a notebook's variable. evcxr has to name the type of each, and
//! only a real kernel shows whether it can: `cargo xtask test` runs xtask/notebooks/every_value.ipynb. Here the text of
//! that notebook is compared with the text of `src/`, so that no function is missing there.

use std::fs;
use std::path::Path;

/// Files whose functions no notebook can call: what is public there is public within the crate.
const PRIVATE: [&str; 11] = [
    "distributed", // for programs that `mpirun` starts
    "kernel",
    "tests",
    "engine/laps.rs",
    "engine/portable",
    "engine/cpu",
    "engine/gpu",
    "naming/",
    "formats/",
    "notebook/progress.rs",
    "notebook/show.rs",
];
/// Of those folders, the files with functions for notebooks.
const PUBLIC: [&str; 6] = [
    "formats/onnx/mod.rs",
    "formats/coreml/mod.rs",
    "naming/mod.rs",
    "naming/options.rs",
    "naming/pixels.rs",
    "naming/whole.rs",
];
/// Functions that give what others in the notebook give too, or that no notebook calls.
const EXEMPT: [&str; 16] = [
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "pretrained_or_shapes",
    "features_or_shapes",
    "Loader::new(",
    "fit_with",
    "precompute_with",
    "lr_find_with",
    "load_fashion",
    "load_coarse",
    "sample",
];

/// A public function.
#[derive(Debug)]
struct Function {
    file: String,
    /// As a notebook calls it: `.predict(`, `Dataset::new(`, `read_image(`.
    call: String,
    name: String,
    returns: String,
}

#[test]
fn every_value_that_a_public_function_returns_is_bound_in_a_real_kernel() {
    let cells = cells();
    let lets: Vec<&str> = cells.iter().flat_map(|cell| cell.lines()).filter(|line| line.starts_with("let ")).collect();
    let functions: Vec<Function> = sources().iter().flat_map(|(file, text)| functions(file, text)).collect();
    assert!(functions.len() > 100, "{functions:?}");
    let missing: Vec<String> = functions
        .iter()
        .filter(|function| has_a_type_to_name(&function.returns))
        .filter(|function| !EXEMPT.iter().any(|exempt| [&function.name, &function.call].contains(&&exempt.to_string())))
        .filter(|function| !lets.iter().any(|line| line.contains(&function.call)))
        .map(|Function { file, call, returns, .. }| format!("{file}: {call}) -> {returns}"))
        .collect();
    assert!(missing.is_empty(), "no cell of every_value.ipynb binds the values of:\n{}", missing.join("\n"));
}

#[test]
fn every_variable_of_that_notebook_is_used_in_a_later_cell() {
    let cells = cells();
    for (i, cell) in cells.iter().enumerate() {
        for name in cell.lines().filter(|line| line.starts_with("let ")).flat_map(variables) {
            let used = cells[i + 1..].iter().any(|later| words(later).any(|word| word == name));
            assert!(used, "`{name}` is bound, but no later cell of every_value.ipynb uses it");
        }
    }
}

/// The code cells of the notebook.
fn cells() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../xtask/notebooks/every_value.ipynb");
    let notebook: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let code = notebook["cells"].as_array().unwrap().iter().filter(|cell| cell["cell_type"] == "code");
    code.map(|cell| cell["source"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect()).collect()
}

/// Pairs of a path below `src/` and the text before the tests.
fn sources() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.clone()];
    let mut found = vec![];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let name = path.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
                let text = fs::read_to_string(&path).unwrap();
                found.push((name, text.split("#[cfg(test)]\nmod ").next().unwrap().to_string()));
            }
        }
    }
    found.sort();
    found.retain(|(file, _)| PUBLIC.contains(&file.as_str()) || !PRIVATE.iter().any(|folder| file.starts_with(folder)));
    found
}

fn functions(file: &str, text: &str) -> Vec<Function> {
    let mut found = vec![];
    let mut of = None;
    let mut at = 0;
    for line in text.lines() {
        if line.starts_with("impl ") {
            of = line.trim_end_matches(" {").split_whitespace().last().map(|name| name.split('<').next().unwrap());
        } else if line == "}" {
            of = None;
        }
        if let Some(rest) = line.trim_start().strip_prefix("pub fn ")
            && !rest.starts_with('$')
        {
            let signature = text[at..].split(" {\n").next().unwrap().split_once("pub fn ").unwrap().1;
            let name = signature.split(['(', '<']).next().unwrap();
            let (_, returns) = signature.rsplit_once("-> ").unwrap_or_default();
            let arguments = signature.split_once('(').unwrap().1.trim_start();
            let method = ["self", "&self", "mut self", "&mut self"].iter().any(|own| arguments.starts_with(own));
            let call = match of {
                _ if method => format!(".{name}("),
                Some(own) => format!("{own}::{name}("),
                None => format!("{name}("),
            };
            let returns = returns.replace("Self", of.unwrap_or("Self"));
            found.push(Function { file: file.to_string(), call, name: name.to_string(), returns });
        }
        at += line.len() + 1;
    }
    found
}

/// Whether evcxr has to name a type other than the standard library's. A reference cannot be the value of a variable.
fn has_a_type_to_name(returns: &str) -> bool {
    const STANDARD: [&str; 5] = ["Vec", "Option", "Result", "String", "Box"];
    let own = |word: &str| word.starts_with(char::is_uppercase) && !STANDARD.contains(&word);
    !returns.contains('&') && words(returns).any(own)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The names that a line such as `let (mut a, b) = …` binds.
fn variables(line: &str) -> Vec<&str> {
    let pattern = line["let ".len()..].split(['=', ':']).next().unwrap();
    words(pattern).filter(|word| *word != "mut").collect()
}
