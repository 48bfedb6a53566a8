//! The rules of the source tree, checked on the text of `src/`:
//!
//! - each folder imports only from those above it in [`ORDER`];
//! - no function outside tests is longer than [`LONGEST`] lines.
//!
//! The check knows just enough Rust for this: comments, strings and everything that is `#[cfg(test)]` are blanked out,
//! then it looks for `crate::` and `super::` paths, for `fn`, and for matching braces.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{fs, iter};

/// The folders of `src/`, and `vgg.rs`, from the bottom up. The other files beside `lib.rs` are the ground, below all
/// of these: errors, tensor types, text, files.
const ORDER: [&str; 13] = [
    "distributed",
    "kernel",
    "model",
    "engine",
    "ops",
    "data",
    "optim",
    "formats",
    "naming",
    "train",
    "inspect",
    "plot",
    "notebook",
];
const TOP: &str = "vgg";
const GROUND: &str = "the ground";

/// Lines of a function, from `fn` to its closing brace.
const LONGEST: usize = 60;

/// Longer functions that read well as they are: file, function, and why.
const LONG: [(&str, &str, &str); 0] = [];

#[test]
fn each_folder_imports_only_from_those_above_it() {
    let sources = sources();
    let ground = ground(&sources);
    let found: Vec<String> = sources.iter().flat_map(|source| imports_against_the_order(source, &ground)).collect();
    assert!(found.is_empty(), "{} imports against the order:\n{}", found.len(), found.join("\n"));
}

#[test]
fn no_function_needs_scrolling() {
    let sources = sources();
    let long: Vec<Function> = sources.iter().flat_map(long_functions).collect();
    let allowed = |function: &Function| LONG.iter().any(|(file, name, _)| (*file, *name) == function.key());
    let mut found = String::new();
    for function in long.iter().filter(|function| !allowed(function)) {
        writeln!(found, "{}:{}: {} has {} lines", function.file, function.line, function.name, function.lines).unwrap();
    }
    assert!(found.is_empty(), "more than {LONGEST} lines:\n{found}");
    for (file, name, _) in LONG {
        assert!(
            long.iter().any(|function| function.key() == (file, name)),
            "{file}: {name} is short; take it off LONG"
        );
    }
}

/// The package has its own copies of the licenses: cargo packs no files from outside, except the README.
#[test]
fn the_licenses_of_the_package_are_those_of_the_workspace() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    for license in ["LICENSE-MIT", "LICENSE-APACHE"] {
        let read = |folder: &Path| fs::read_to_string(folder.join(license)).unwrap();
        assert_eq!(read(package), read(&package.join("..")), "{license}");
    }
}

/// A file of `src/` with its path there, as `kernel/gemm.rs`.
struct Source {
    path: String,
    code: String,
}

/// All files in order, without `lib.rs` and without those that are only tests.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![];
    collect(&root, &mut files);
    files.sort();
    let mut sources = vec![];
    for path in files {
        let parts: Vec<&str> = path.strip_prefix(&root).unwrap().iter().map(|part| part.to_str().unwrap()).collect();
        if parts != ["lib.rs"] && !is_test(&parts) {
            sources.push(Source::new(&parts.join("/"), &fs::read_to_string(&path).unwrap()));
        }
    }
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// `tests/…`, `tests.rs`, `real_data_tests.rs`.
fn is_test(parts: &[&str]) -> bool {
    parts.iter().any(|part| *part == "tests" || part.ends_with("tests.rs"))
}

/// The modules of the ground: files at the top that are not in the order.
fn ground(sources: &[Source]) -> Vec<&str> {
    let top = sources.iter().filter_map(|source| source.path.strip_suffix(".rs"));
    top.filter(|name| !name.contains('/') && *name != TOP).collect()
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_string(), code: without_tests(&bare(text)) }
    }

    /// The folder, or the file at the top.
    fn module(&self) -> &str {
        self.path.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// How many `super::` lead to the crate.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { parts - 1 } else { parts }
    }

    fn line(&self, at: usize) -> usize {
        1 + self.code[..at].matches('\n').count()
    }
}

/// Position in the order; `None` if this is no module of the house.
fn rank(module: &str, ground: &[&str]) -> Option<usize> {
    let order = ORDER.iter().chain([&TOP]);
    if ground.contains(&module) { Some(0) } else { order.zip(1..).find(|(name, _)| **name == module).map(|(_, r)| r) }
}

/// "model/layer.rs:12: model imports train, which is below it"
fn imports_against_the_order(source: &Source, ground: &[&str]) -> Vec<String> {
    let from = source.module();
    let place = |at| format!("{}:{}", source.path, source.line(at));
    let Some(own) = rank(from, ground) else { return vec![format!("{}: {from} is not in the order", source.path)] };
    let name =
        |module: &str| if ground.contains(&module) { format!("{GROUND} ({module})") } else { module.to_string() };
    let mut found = vec![];
    for (at, module) in imports(source) {
        let place = place(at);
        match rank(&module, ground) {
            Some(rank) if rank <= own => {}
            Some(_) => found.push(format!("{place}: {} imports {module}, which is below it", name(from))),
            // A type that lib.rs shows by itself, as crate::Error, or a macro.
            None if module.starts_with(char::is_uppercase) || source.code[at..].starts_with(&format!("{module}!")) => {}
            None => found.push(format!("{place}: {} imports {module}, which is not in the order", name(from))),
        }
    }
    found
}

/// The modules that follow `crate::`, or as many `super::` as lead to the crate, and where they stand.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let code = &source.code;
    let to_crate = "super::".repeat(source.depth());
    let mut found = vec![];
    for prefix in ["crate::", &to_crate] {
        for (at, _) in code.match_indices(prefix) {
            if !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                found.extend(first_segments(code, at + prefix.len()));
            }
        }
    }
    found.sort();
    found
}

/// The first segment of the path at `at`, or of each path in the braces there.
fn first_segments(code: &str, at: usize) -> Vec<(usize, String)> {
    let rest = &code[at..];
    if !rest.starts_with('{') {
        let segment: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        return vec![(at, segment)];
    }
    let (mut depth, mut starts) = (0, vec![]);
    for (i, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && (c == '{' || c == ',') {
            let start = rest[i + 1..].find(|c: char| !c.is_whitespace()).map_or(i + 1, |blank| i + 1 + blank);
            starts.push(at + start);
        }
    }
    starts.retain(|start| code[*start..].starts_with(|c: char| c.is_alphabetic() || c == '_'));
    starts.into_iter().flat_map(|start| first_segments(code, start)).collect()
}

struct Function {
    file: String,
    name: String,
    line: usize,
    lines: usize,
}

impl Function {
    fn key(&self) -> (&str, &str) {
        (&self.file, &self.name)
    }
}

fn long_functions(source: &Source) -> Vec<Function> {
    let code = &source.code;
    let mut found = vec![];
    for (at, _) in code.match_indices("fn ") {
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let is_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let Some(end) = end_of_item(code, at).filter(|_| is_word && !name.is_empty()) else { continue };
        let (line, lines) = (source.line(at), 1 + code[at..end].matches('\n').count());
        if lines > LONGEST {
            found.push(Function { file: source.path.clone(), name, line, lines });
        }
    }
    found
}

/// The position of the brace or semicolon that ends the item at `at`.
fn end_of_item(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0;
    for (i, c) in code[at..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        // `use a::{b, c};` ends in a semicolon, too; what stays of it does no harm.
        if depth == 0 && (c == '}' || c == ';') || depth < 0 {
            return Some(at + i);
        }
    }
    None
}

/// Blanks out what is only compiled for tests: each `#[cfg(test)]` or `#[cfg(all(test, …))]` and the item after it.
fn without_tests(code: &str) -> String {
    let mut out = code.to_string();
    for start in ["#[cfg(test)]", "#[cfg(all(test"] {
        while let Some(at) = out.find(start) {
            let item = at + out[at..].find(']').unwrap();
            let end = end_of_item(&out, item + 1).unwrap_or(out.len() - 1);
            out.replace_range(at..=end, &blank(&out[at..=end]));
        }
    }
    out
}

/// Spaces of the same length in bytes, with the line ends kept.
fn blank(text: &str) -> String {
    text.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect()
}

/// The text with comments, strings and characters blanked out.
fn bare(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let skipped = comment(rest).or_else(|| string(rest, out.chars().next_back())).or_else(|| character(rest));
        let len = skipped.unwrap_or_else(|| rest.chars().next().map_or(1, char::len_utf8));
        match skipped {
            Some(_) => out += &blank(&rest[..len]),
            None => out += &rest[..len],
        }
        rest = &rest[len..];
    }
    out
}

/// The length of the comment that the text starts with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    let inner = text.strip_prefix("/*")?;
    Some(inner.find("*/").map_or(text.len(), |end| end + 4)) // nested ones do not occur
}

/// The length of the string that the text starts with, also if it is raw or of bytes.
fn string(text: &str, before: Option<char>) -> Option<usize> {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let start = ["\"", "b\"", "c\""].into_iter().find(|start| text.starts_with(start));
    if let Some(start) = start.filter(|start| !in_word || start.len() == 1) {
        let mut escaped = false;
        let end = text[start.len()..].bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        return Some(end.map_or(text.len(), |end| start.len() + end + 1));
    }
    let raw = text.strip_prefix("br").or_else(|| text.strip_prefix('r')).filter(|_| !in_word)?;
    let hashes = raw.bytes().take_while(|byte| *byte == b'#').count();
    let inner = raw[hashes..].strip_prefix('"')?;
    let close: String = iter::once('"').chain(iter::repeat_n('#', hashes)).collect();
    let end = inner.find(&close).map_or(inner.len(), |end| end + close.len());
    Some(text.len() - inner.len() + end)
}

/// The length of the character that the text starts with; `None` for a lifetime.
fn character(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if inner.starts_with('\\') {
        return Some(2 + inner[2..].find('\'').map_or(0, |end| end + 2));
    }
    let c = inner.chars().next()?;
    inner[c.len_utf8()..].starts_with('\'').then_some(2 + c.len_utf8())
}

mod on_small_texts {
    use super::*;

    fn against(path: &str, text: &str) -> Vec<String> {
        imports_against_the_order(&Source::new(path, text), &["error", "tensor", "text"])
    }

    #[test]
    fn imports_from_above_are_fine() {
        let text = "use crate::error::Result;\nuse crate::model::{Layer, Sequential};\nuse super::super::kernel;";
        assert!(against("engine/cpu.rs", text).is_empty());
        assert!(against("engine/cpu/pool.rs", "use super::super::plan;\nuse crate::engine::laps;").is_empty());
        assert!(against("tensor.rs", "use crate::error::Result; use crate::text::size; use crate::Error;").is_empty());
        assert!(against("vgg.rs", "use crate::{model, notebook::Monitor, Error};").is_empty());
        assert!(against("text.rs", "crate::table!(1); my_crate::train::f(); super::text::f()").is_empty());
    }

    #[test]
    fn an_import_from_below_is_named_with_both_folders() {
        assert_eq!(
            against("model/layer.rs", "//! Layers.\n\nuse crate::train::fit;"),
            ["model/layer.rs:3: model imports train, which is below it"]
        );
        assert_eq!(
            against("text.rs", "fn f() {\n    crate::kernel::f();\n}"),
            ["text.rs:2: the ground (text) imports kernel, which is below it"]
        );
        assert_eq!(
            against(
                "ops/mod.rs",
                "use {\n    crate::{\n        error::{self, Error}, model,\n        plot::{Figure, x}\n    },\n};"
            ),
            ["ops/mod.rs:4: ops imports plot, which is below it"]
        );
        assert_eq!(against("notebook/mod.rs", "pub use crate::vgg;").len(), 1);
        assert_eq!(against("data/mod.rs", "use super::train;").len(), 1);
        assert_eq!(against("data/loader.rs", "use super::super::{model, train};").len(), 1);
        assert_eq!(against("data/loader.rs", "use super::{train, super::train};").len(), 0, "the path is data::train");
    }

    #[test]
    fn modules_that_are_not_in_the_order_are_named() {
        assert_eq!(against("nn/mod.rs", ""), ["nn/mod.rs: nn is not in the order"]);
        assert_eq!(
            against("data/mod.rs", "use crate::prelude::*;"),
            ["data/mod.rs:1: data imports prelude, which is not in the order"]
        );
    }

    #[test]
    fn comments_strings_and_tests_do_not_count() {
        let text = r##"
            //! See [`crate::train`].
            /* crate::train */
            const A: &str = "crate::train \" crate::train";
            const B: &[u8] = br#"crate::train " "#;
            const C: [char; 3] = ['"', '\'', '\u{22}'];
            fn f<'a>(text: &'a str) {}
            #[cfg(test)]
            use crate::train::fit;
            #[cfg(all(test, not(feature = "cuda")))]
            #[path = "x.rs"]
            mod tests {
                use crate::train;
                fn f() { if true {} }
            }
            #[cfg(test)]
            thread_local! { static X: u8 = crate::train::X; }
        "##;
        assert!(against("model/layer.rs", text).is_empty(), "{}", Source::new("model/layer.rs", text).code);
        let after = format!("{text}\nuse crate::train;");
        assert_eq!(against("model/layer.rs", &after), ["model/layer.rs:19: model imports train, which is below it"]);
    }

    #[test]
    fn functions_are_counted_from_their_first_line_to_the_last() {
        let long = |text: &str| -> Vec<(String, usize, usize)> {
            let functions = long_functions(&Source::new("a.rs", text));
            functions.into_iter().map(|function| (function.name, function.line, function.lines)).collect()
        };
        let function = |lines: usize| format!("\npub fn f(x: [u8; 3]) {{\n{}}}\n", "    g(); // }\n".repeat(lines - 2));
        assert!(long(&function(60)).is_empty());
        assert_eq!(long(&function(61)), [("f".to_string(), 2, 61)]);
        assert!(long(&format!("#[cfg(test)]\nmod tests {{{}}}", function(100))).is_empty());
        assert!(long(&format!("trait T {{ fn f(); }}\ntype F = fn (u8);{}", function(9).repeat(9))).is_empty());
    }
}
