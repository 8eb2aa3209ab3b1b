//! Tables of results that came without one: a table for each list of objects, and one of names and
//! values for each object. What is nested in a row is named with dots; what finds no place is named
//! below the table.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::{Map, Value};

use super::html::escaped;

/// Most rows of a table made from JSON: more is for programs.
const ROW_COUNT_MAX: usize = 200;

/// Most columns of one: more is not read on a screen.
const COLUMN_COUNT_MAX: usize = 40;

/// Most values of a list that stand in one cell: the rounds of a long run.
const LIST_LEN_MAX: usize = 16;

/// Most parts of a name with dots.
const DEPTH_MAX: usize = 3;

/// What a name stands for.
struct Cell {
    /// With dots.
    name: String,
    shown: String,
    is_word: bool,
}

/// Tables of everything in a result that is neither a scalar nor its provenance, which stand above.
pub(super) fn tables(result: &Value) -> String {
    let nothing = Map::new();
    let mut text = String::new();
    for (name, value) in result.as_object().unwrap_or(&nothing) {
        match value {
            _ if name == "provenance" => {}
            Value::Array(list) if list.iter().any(Value::is_object) => {
                text += &of_list(name, list);
            }
            Value::Array(list) if list.is_empty() => {}
            Value::Array(list) => {
                let _ = writeln!(text, "{}<p>{}</p>", heading(name), escaped(&brief(list)));
            }
            Value::Object(fields) if !fields.is_empty() => text += &of_object(name, fields),
            _ => {}
        }
    }
    text
}

/// Of the objects in a list: columns are what occurs in any of them, words first, for they say what a row
/// is of.
fn of_list(name: &str, list: &[Value]) -> String {
    let objects: Vec<_> = list.iter().filter_map(Value::as_object).collect();
    let mut unshown = BTreeSet::new();
    let rows: Vec<_> = objects
        .iter()
        .take(ROW_COUNT_MAX)
        .map(|row| flattened(row, &mut unshown))
        .collect();
    let mut columns: Vec<&str> = Vec::new();
    let mut words = BTreeSet::new();
    for cell in rows.iter().flatten() {
        if cell.is_word {
            words.insert(cell.name.as_str());
        }
        if !columns.contains(&cell.name.as_str()) {
            columns.push(&cell.name);
        }
    }
    columns.sort_by_key(|name| !words.contains(name));
    for name in columns.iter().skip(COLUMN_COUNT_MAX) {
        unshown.insert((*name).to_owned());
    }
    columns.truncate(COLUMN_COUNT_MAX);
    let cell = |row: &[Cell], column: &str| -> String {
        let cell = row.iter().find(|cell| cell.name == column);
        cell.map_or_else(String::new, |cell| cell.shown.clone())
    };
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| columns.iter().map(|column| cell(row, column)).collect())
        .collect();
    let rows_left = objects.len().saturating_sub(ROW_COUNT_MAX);
    let without_fields = list.len() - objects.len();
    heading(name) + &table(&columns, &rows) + &left_out((rows_left, without_fields), &unshown)
}

/// Of an object: a row for each name.
fn of_object(name: &str, fields: &Map<String, Value>) -> String {
    let mut unshown = BTreeSet::new();
    let cells = flattened(fields, &mut unshown);
    let rows: Vec<Vec<String>> = cells
        .iter()
        .take(ROW_COUNT_MAX)
        .map(|cell| vec![cell.name.clone(), cell.shown.clone()])
        .collect();
    let rows_left = cells.len() - rows.len();
    heading(name) + &table(&["name", "value"], &rows) + &left_out((rows_left, 0), &unshown)
}

fn heading(name: &str) -> String {
    format!("<h3>{}</h3>\n", escaped(name))
}

fn table(columns: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() || columns.is_empty() {
        return String::new();
    }
    let mut text = "<div class=\"scroll\"><table>\n<tr>".to_owned();
    for column in columns {
        let _ = write!(text, "<th>{}</th>", escaped(column));
    }
    text += "</tr>\n";
    for row in rows {
        text += "<tr>";
        for cell in row {
            let _ = write!(text, "<td>{}</td>", escaped(cell));
        }
        text += "</tr>\n";
    }
    text + "</table></div>\n"
}

/// What the JSON file has beyond a table.
fn left_out((rows, without_fields): (usize, usize), names: &BTreeSet<String>) -> String {
    let mut left = Vec::new();
    if rows > 0 {
        left.push(format!("more rows: {rows}"));
    }
    if without_fields > 0 {
        left.push(format!("entries that are no objects: {without_fields}"));
    }
    if !names.is_empty() {
        let count = names.len();
        let names = names.iter().take(LIST_LEN_MAX).map(String::as_str);
        let mut names = names.collect::<Vec<_>>().join(", ");
        if count > LIST_LEN_MAX {
            let _ = write!(names, " and {} more", count - LIST_LEN_MAX);
        }
        left.push(names);
    }
    match left.is_empty() {
        true => String::new(),
        false => format!(
            "<p>only in the JSON file: {}</p>\n",
            escaped(&left.join("; "))
        ),
    }
}

/// The cells of an object, in its order; names of what is too deep or a list of objects go to
/// `unshown`. Nothing is said of null: an empty cell says the same.
fn flattened(fields: &Map<String, Value>, unshown: &mut BTreeSet<String>) -> Vec<Cell> {
    let mut cells = Vec::new();
    flatten(("", 0), fields, &mut (&mut cells, unshown));
    cells
}

fn flatten(
    (prefix, depth): (&str, usize),
    fields: &Map<String, Value>,
    into: &mut (&mut Vec<Cell>, &mut BTreeSet<String>),
) {
    for (name, value) in fields {
        let name = format!("{prefix}{name}");
        match value {
            Value::Null => {}
            // It is that of the run, and stands above where there is one run.
            Value::Object(_) if depth + 1 == DEPTH_MAX || name == "provenance" => {
                into.1.insert(name);
            }
            Value::Object(fields) => flatten((&format!("{name}."), depth + 1), fields, into),
            Value::Array(list) if !list.iter().all(is_scalar) => {
                into.1.insert(name);
            }
            value => into.0.push(Cell {
                name,
                shown: shown(value),
                is_word: value.is_string(),
            }),
        }
    }
}

/// The beginning of a list, and how much it goes on.
fn brief(list: &[Value]) -> String {
    let words = list.iter().take(LIST_LEN_MAX).map(shown);
    let mut text = words.collect::<Vec<_>>().join(" ");
    if list.len() > LIST_LEN_MAX {
        let _ = write!(text, " and {} more", list.len() - LIST_LEN_MAX);
    }
    text
}

pub(super) const fn is_scalar(value: &Value) -> bool {
    !matches!(value, Value::Array(_) | Value::Object(_))
}

/// A value as people read it: numbers with at most four decimals, or four digits where those would be
/// none; lists with spaces between.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap_or_default();
            if number != 0.0 && number.abs() < 1e-3 {
                return format!("{number:.3e}");
            }
            let text = format!("{number:.4}");
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        Value::Array(values) => brief(values),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(cells: &[&str]) -> String {
        let cells = cells.iter().map(|cell| format!("<td>{cell}</td>"));
        format!("<tr>{}</tr>", cells.collect::<String>())
    }

    fn head(cells: &[&str]) -> String {
        row(cells).replace("td>", "th>")
    }

    fn has(result: &Value, expected: &[String]) {
        let page = tables(result);
        for words in expected {
            assert!(page.contains(words.as_str()), "{words} in {page}");
        }
    }

    #[test]
    fn decode_shows_rates_and_ratios_of_each_mode() {
        let decode = json!({
            "provenance": {"commit": "abc", "load_average": [1.0, 2.0, 3.0]},
            "model": "110m", "device": "flex", "threads": 2, "cloud_len": 1024, "edge_len": 64,
            "rows": [
                {"batch": 32, "mode": "relay", "output_throughput": [348.14, 324.0],
                 "ratio": {"median": 2.53, "min": 2.28, "max": 3.15}, "same_steps": 73, "steps": 73},
                {"batch": 32, "mode": "paged", "output_throughput": [138.4, 118.9],
                 "ratio": null, "same_steps": 73, "steps": 73},
            ],
        });
        let columns = [
            "mode",
            "batch",
            "output_throughput",
            "ratio.max",
            "ratio.median",
            "ratio.min",
            "same_steps",
            "steps",
        ];
        has(
            &decode,
            &[
                head(&columns),
                row(&[
                    "relay",
                    "32",
                    "348.14 324",
                    "3.15",
                    "2.53",
                    "2.28",
                    "73",
                    "73",
                ]),
                row(&["paged", "32", "138.4 118.9", "", "", "", "73", "73"]),
            ],
        );
        let page = tables(&decode);
        assert!(!page.contains("abc"), "provenance stands above: {page}");
        assert!(!page.contains("only in"), "nothing is left out: {page}");
    }

    #[test]
    fn first_token_shows_times_and_says_that_samples_are_elsewhere() {
        let sample = json!({"ttft_ms": 131.6, "cloud_bytes": 118_784, "kv_source": "cloud"});
        let first_token = json!({
            "model_digest": "d", "cloud_token_count": 58, "link": null, "seed": 1,
            "rows": [{"request": "first request", "samples": [sample, sample],
                "ttft_ms": {"median": 135.4, "min": 131.6, "max": 159.12346}}],
        });
        has(
            &first_token,
            &[
                head(&["request", "ttft_ms.max", "ttft_ms.median", "ttft_ms.min"]),
                row(&["first request", "159.1235", "135.4", "131.6"]),
                "<p>only in the JSON file: samples</p>".to_owned(),
            ],
        );
    }

    #[test]
    fn codecs_show_harm_and_speeds() {
        let codecs = json!({
            "device": "flex", "threads": 2, "seed": 0,
            "harm_per_cent": {"f32": 0.0, "int8": 0.26},
            "rows": [{"model": "built-in", "text": "shop desk", "codec": "int8",
                "kl_mean": 0.000_105, "ratio": 3.71, "right_answers": [200, 200]}],
            "speeds": [{"codec": "f32", "encoded_gb_per_s": 2.26}],
        });
        has(
            &codecs,
            &[
                "<h3>harm_per_cent</h3>".to_owned(),
                row(&["int8", "0.26"]),
                head(&[
                    "codec",
                    "model",
                    "text",
                    "kl_mean",
                    "ratio",
                    "right_answers",
                ]),
                row(&[
                    "int8",
                    "built-in",
                    "shop desk",
                    "1.050e-4",
                    "3.71",
                    "200 200",
                ]),
                row(&["f32", "2.26"]),
            ],
        );
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let wide: Map<String, Value> = (0..COLUMN_COUNT_MAX + 2)
            .map(|index| (format!("k{index:02}"), json!(index)))
            .collect();
        let rows: Vec<_> = (0..ROW_COUNT_MAX + 3).map(|_| json!(wide)).collect();
        let mut list = rows;
        list.push(Value::Null);
        let deep = json!({"a": {"b": {"c": {"d": 1}}}, "near": {"by": 2}});
        let numbers: Vec<_> = (0..LIST_LEN_MAX + 5).collect();
        let page = tables(&json!({"rows": list, "deep": deep, "ttfts": numbers, "none": []}));
        for words in [
            "more rows: 3; entries that are no objects: 1; k40, k41",
            "only in the JSON file: a.b.c",
            &row(&["near.by", "2"]),
            "14 15 and 5 more",
        ] {
            assert!(page.contains(words), "{words} in {page}");
        }
        assert_eq!(page.matches("<th>k").count(), COLUMN_COUNT_MAX);
        assert!(!page.contains("none"), "{page}");
    }
}
