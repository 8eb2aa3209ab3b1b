//! `benchmarks report`: one HTML page from the files of a result folder, with every plot, every table and
//! where each comes from. The page loads nothing from elsewhere.

mod html;
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::result_dir::ResultDirArgs;

/// Largest file that is read: detailed results of long runs have tens of megabytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Arguments of `benchmarks report`.
#[derive(Args)]
pub(crate) struct ReportArgs {
    /// The page's name in the folder
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    output: PathBuf,
    #[command(flatten)]
    results: ResultDirArgs,
}

/// What belongs to one JSON file.
#[derive(Default)]
struct Section {
    result: Value,
    /// The table as the benchmark wrote it.
    table: Option<String>,
    /// Names and SVG files.
    plots: Vec<(String, String)>,
}

/// Writes the page and says where it is.
pub(crate) fn run(args: &ReportArgs) -> Result<()> {
    let dir = args.results.open()?;
    let sections = read(dir.path())?;
    ensure!(
        !sections.is_empty(),
        "there are no results in {}: run a benchmark first",
        dir.path().display()
    );
    let name = args.output.to_string_lossy();
    let path = dir.write(&name, &html::page(&sections))?;
    let plots: usize = sections.values().map(|it| it.plots.len()).sum();
    println!(
        "{} results and {plots} plots are in {}",
        sections.len(),
        path.display()
    );
    Ok(())
}

/// Every result of a folder by its name, with what belongs to it.
fn read(dir: &Path) -> Result<BTreeMap<String, Section>> {
    let entries = fs::read_dir(dir).with_context(|| format!("{} is not read", dir.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry?.path());
    }
    paths.sort();
    let with = |extension: &'static str| {
        let paths = paths.iter();
        paths.filter(move |path| path.extension().is_some_and(|it| it == extension))
    };
    let mut sections = BTreeMap::new();
    for path in with("json") {
        let result = values(&text(path)?);
        let section = Section {
            result: result.with_context(|| format!("{} is no JSON", path.display()))?,
            ..Section::default()
        };
        sections.insert(stem(path), section);
    }
    for path in with("md") {
        if let Some(section) = sections.get_mut(&stem(path)) {
            section.table = Some(text(path)?);
        }
    }
    for path in with("svg") {
        let plot = stem(path);
        // The longest name that it begins with: `a-b-plot` is of `a-b`, not of `a`.
        let mut owners: Vec<_> = sections
            .keys()
            .filter(|name| plot.starts_with(name.as_str()))
            .cloned()
            .collect();
        owners.sort_by_key(String::len);
        let owner = owners.pop().unwrap_or_else(|| "other plots".to_owned());
        let section = sections.entry(owner).or_default();
        section.plots.push((plot, text(path)?));
    }
    Ok(sections)
}

/// What is in a file: a result, or several, as `serve --append-result` writes them.
fn values(text: &str) -> serde_json::Result<Value> {
    let values = serde_json::Deserializer::from_str(text).into_iter();
    let mut values: Vec<Value> = values.collect::<Result<_, _>>()?;
    match values.len() {
        // Says that there is nothing.
        0 => serde_json::from_str(text),
        1 => Ok(values.remove(0)),
        _ => Ok(json!({ "results": values })),
    }
}

fn text(path: &Path) -> Result<String> {
    let unread = || format!("{} is not read", path.display());
    let bytes = fs::metadata(path).with_context(unread)?.len();
    ensure!(
        bytes <= FILE_BYTES_MAX,
        "{} has {bytes} bytes: a result has at most {FILE_BYTES_MAX}",
        path.display()
    );
    fs::read_to_string(path).with_context(unread)
}

fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_together_is_together() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("a.json", r#"{"rows":[{"mode":"x <y>","n":1}]}"#);
        write("a-b.json", r#"{"provenance":{"commit":"abc"}}"#);
        write("a-b.md", "| x |");
        write("a-b-plot.svg", "<svg>1 & 2%</svg>");
        write("a-c.svg", "<svg/>");
        write("z.svg", "<svg/>");
        write("note.txt", "nothing");
        let sections = read(dir.path()).unwrap();
        let plots = |name: &str| -> Vec<String> {
            let plots = sections[name].plots.iter();
            plots.map(|plot| plot.0.clone()).collect()
        };
        assert_eq!(plots("a-b"), ["a-b-plot"]);
        assert_eq!(plots("a"), ["a-c"]);
        assert_eq!(plots("other plots"), ["z"]);
        assert_eq!(sections["a-b"].table.as_deref(), Some("| x |"));

        let page = html::page(&sections);
        for words in [
            "x &lt;y&gt;",
            "<td>1</td>",
            "abc",
            "data:image/svg+xml,%3Csvg%3E1 &amp; 2%25",
        ] {
            assert!(page.contains(words), "{words} in {page}");
        }
        let elsewhere = ["http://", "https://", "<script", "src=\"/"];
        assert!(elsewhere.iter().all(|it| !page.contains(it)));
    }

    #[test]
    fn results_that_were_appended_are_rows() {
        let dir = tempfile::tempdir().unwrap();
        let lines = "{\"label\":\"a\",\"completed\":3}\n{\"label\":\"b\",\"completed\":4}";
        fs::write(dir.path().join("runs.json"), lines).unwrap();
        let page = html::page(&read(dir.path()).unwrap());
        let row = |label: &str, count: u32| format!("<tr><td>{label}</td><td>{count}</td></tr>");
        assert!(
            page.contains(&row("a", 3)) && page.contains(&row("b", 4)),
            "{page}"
        );
    }

    #[test]
    fn the_command_line_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let words: Vec<_> = (0..40).map(|index| format!("--w{index}")).collect();
        let result = json!({"provenance": {"command_line": words}});
        fs::write(dir.path().join("a.json"), result.to_string()).unwrap();
        assert!(html::page(&read(dir.path()).unwrap()).contains(&words.join(" ")));
    }

    #[test]
    fn a_file_that_is_no_result_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["{", "", "{} {"] {
            fs::write(dir.path().join("broken.json"), text).unwrap();
            let error = read(dir.path()).err().unwrap();
            assert!(format!("{error:#}").contains("broken.json is no JSON"));
        }
    }
}
