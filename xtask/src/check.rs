//! The rules for committed notebooks.

use serde_json::Value;

/// The tag of cells whose output shows images of a dataset.
const TAG: &str = "dataset-images";
const MAX_BYTES: usize = 1_500_000;
/// As JupyterLab shows a picture.
const MAX_WIDTH: u64 = 800;

/// The rules that a notebook breaks, one sentence each. `json` is its content.
pub fn violations(json: &str) -> Vec<String> {
    let mut found = Vec::new();
    if json.len() > MAX_BYTES {
        found.push(format!("is {:.1} MB; at most 1.5 MB are committed", json.len() as f64 / 1e6));
    }
    let Ok(notebook) = serde_json::from_str::<Value>(json) else {
        found.push("is not JSON".into());
        return found;
    };
    let Some(cells) = notebook["cells"].as_array() else {
        found.push("has no cells".into());
        return found;
    };
    for (number, cell) in (1..).zip(cells.iter().filter(|cell| cell["cell_type"] == "code")) {
        if cell["execution_count"].as_u64() != Some(number) {
            found.push(format!("code cell {number} has execution count {}", cell["execution_count"]));
        }
        let outputs = cell["outputs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let tags = cell["metadata"]["tags"].as_array().map(Vec::as_slice).unwrap_or_default();
        if tags.iter().any(|tag| tag == TAG) && outputs.iter().any(|output| output["output_type"] != "display_data") {
            found.push(format!("code cell {number} is tagged `{TAG}` and shows more than a sentence"));
        }
        let pictures = outputs.iter().filter(|output| !output["data"]["image/png"].is_null());
        for picture in pictures.map(|output| &output["metadata"]["image/png"]) {
            if picture["alt"].as_str().is_none_or(str::is_empty) {
                found.push(format!("code cell {number} shows a picture that its metadata do not describe: add `alt`"));
            }
            if picture["width"].as_u64().is_none_or(|width| width > MAX_WIDTH) {
                found.push(format!("code cell {number} shows a picture without a width of at most {MAX_WIDTH} pixels"));
            }
        }
        if outputs.iter().any(|output| output.to_string().contains("<img class=\\\"vgg-dataset-images")) {
            found.push(format!("code cell {number} shows images of a dataset"));
        }
        if outputs.iter().any(|output| output["data"]["text/plain"].to_string().contains("Figure of ")) {
            found.push(format!(
                "code cell {number} prints a figure instead of showing it: its last line moves a variable"
            ));
        }
        if outputs.iter().any(|output| output.to_string().contains("<script")) {
            found.push(format!("code cell {number} shows a live page; a picture of it is committed"));
        }
        if outputs.iter().any(|output| output["output_type"] == "error" || output["name"] == "stderr") {
            found.push(format!("code cell {number} failed"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cell(count: impl Into<Value>, tags: &[&str], outputs: Value) -> Value {
        json!({"cell_type": "code", "execution_count": count.into(), "metadata": {"tags": tags}, "outputs": outputs})
    }

    fn broken(cells: &[Value]) -> Vec<String> {
        violations(&json!({"cells": cells}).to_string())
    }

    #[test]
    fn committed_notebooks_follow_the_rules() {
        let Ok(folder) = std::fs::read_dir(crate::root().join("notebooks")) else { return };
        for path in folder.map(|entry| entry.unwrap().path()).filter(|path| path.extension() == Some("ipynb".as_ref()))
        {
            let found = violations(&std::fs::read_to_string(&path).unwrap());
            assert!(
                found.is_empty(),
                "{}: {}\nwrite it with `cargo xtask notebooks --in-place`",
                path.display(),
                found.join("; ")
            );
        }
    }

    #[test]
    fn a_notebook_run_from_top_to_bottom_is_accepted() {
        let markdown = json!({"cell_type": "markdown", "metadata": {}, "source": "text"});
        let text = json!([{"output_type": "stream", "name": "stdout", "text": "1"}]);
        assert!(broken(&[cell(1, &[], text), markdown, cell(2, &[TAG], json!([]))]).is_empty());
    }

    fn picture(metadata: Value) -> Value {
        json!([{"output_type": "execute_result", "data": {"image/png": ""}, "metadata": {"image/png": metadata}}])
    }

    #[test]
    fn a_tagged_cell_has_a_sentence_and_no_other_output() {
        let picture = picture(json!({"alt": "cats", "width": 720}));
        let sentence = json!([{"output_type": "display_data", "data": {"text/markdown": "*Run this cell.*"}}]);
        let cells = [cell(1, &[], picture.clone()), cell(2, &["other", TAG], picture), cell(3, &[TAG], sentence)];
        assert_eq!(broken(&cells), ["code cell 2 is tagged `dataset-images` and shows more than a sentence"]);
    }

    #[test]
    fn pictures_have_alternative_text_and_a_width() {
        let found = |metadata| broken(&[cell(1, &[], picture(metadata))]);
        assert!(found(json!({"alt": "curves", "width": 800})).is_empty());
        let no_alt = "code cell 1 shows a picture that its metadata do not describe: add `alt`";
        let wide = "code cell 1 shows a picture without a width of at most 800 pixels";
        assert_eq!(found(json!({"width": 800})), [no_alt]);
        assert_eq!(found(json!({"alt": "", "width": 801})), [no_alt, wide]);
        assert_eq!(found(json!({"alt": "curves"})), [wide]);
    }

    #[test]
    fn examples_of_a_dataset_are_refused() {
        let table =
            json!([{"output_type": "execute_result", "data": {"text/html": ["<img class=\"vgg-dataset-images\">"]}}]);
        assert_eq!(broken(&[cell(1, &[], table)]), ["code cell 1 shows images of a dataset"]);
    }

    #[test]
    fn printed_figures_are_refused() {
        let text =
            json!([{"output_type": "execute_result", "data": {"text/plain": ["Figure of 720×432 pixels: dots"]}}]);
        let printed = "code cell 1 prints a figure instead of showing it: its last line moves a variable";
        assert_eq!(broken(&[cell(1, &[], text)]), [printed]);
    }

    #[test]
    fn live_pages_are_refused() {
        let page = json!([{"output_type": "execute_result", "data": {"text/html": ["<div>\n", "<script>"]}}]);
        assert_eq!(broken(&[cell(1, &[], page)]), ["code cell 1 shows a live page; a picture of it is committed"]);
    }

    #[test]
    fn execution_counts_out_of_order_are_refused() {
        let counts = |counts: [Value; 2]| broken(&counts.map(|count| cell(count, &[], json!([])))).len();
        assert_eq!(counts([1.into(), 2.into()]), 0);
        assert_eq!(counts([2.into(), 1.into()]), 2);
        assert_eq!(counts([1.into(), 3.into()]), 1);
        assert_eq!(counts([1.into(), Value::Null]), 1);
    }

    #[test]
    fn failed_cells_are_refused() {
        for output in [json!({"output_type": "error"}), json!({"output_type": "stream", "name": "stderr"})] {
            assert_eq!(broken(&[cell(1, &[], json!([output]))]), ["code cell 1 failed"]);
        }
    }

    #[test]
    fn more_than_1_5_mb_are_refused() {
        let notebook = |bytes| {
            let text = "x".repeat(bytes);
            violations(&json!({"cells": [{"cell_type": "markdown", "source": text}]}).to_string())
        };
        assert!(notebook(1_400_000).is_empty());
        assert_eq!(notebook(1_500_001).len(), 1);
    }

    #[test]
    fn other_files_are_refused() {
        assert_eq!(violations("<html>"), ["is not JSON"]);
        assert_eq!(violations("{}"), ["has no cells"]);
    }
}
