//! The page, as text.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value};

use super::Section;
use super::tables::{is_scalar, shown, tables};
use crate::plot::svg;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1f2328;--muted:#59636e;--page:#ffffff;--line:#d1d9e0;--panel:#f6f8fa}
@media (prefers-color-scheme:dark){:root{--ink:#f0f6fc;--muted:#9198a1;--page:#0d1117;--line:#3d444d;--panel:#151b23}}
body{margin:0 auto;padding:24px;max-width:1000px;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
h1{font-size:24px}h2{margin-top:48px;border-bottom:1px solid var(--line)}
img{max-width:100%;height:auto;display:block;margin:16px 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;color:var(--muted);font-size:13px}
dd{margin:0;overflow-wrap:anywhere}
pre,.scroll{overflow-x:auto}pre{background:var(--panel);padding:12px;font-size:13px}
table{border-collapse:collapse;font-size:13px}td,th{border:1px solid var(--line);padding:4px 8px;text-align:left}";

/// The whole page.
pub(super) fn page(sections: &BTreeMap<String, Section>) -> String {
    let mut body = String::new();
    for (name, section) in sections {
        let _ = writeln!(body, "<h2 id=\"{0}\">{0}</h2>", escaped(name));
        body += &origin(&section.result);
        for (name, plot) in &section.plots {
            let (name, source) = (escaped(name), data_url(plot));
            let _ = writeln!(body, "<img alt=\"{name}\" src=\"{source}\">");
        }
        match &section.table {
            Some(table) => {
                let _ = writeln!(body, "<pre>{}</pre>", escaped(table));
            }
            None => body += &tables(&section.result),
        }
    }
    let links = sections.keys().map(|name| {
        let name = escaped(name);
        format!("<a href=\"#{name}\">{name}</a>")
    });
    let links: Vec<_> = links.collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>edgeprompt benchmarks</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>edgeprompt benchmarks</h1>\n<p>{}</p>\n{body}</body>\n</html>\n",
        links.join(" · ")
    )
}

/// Where a result comes from, and what it was measured with.
fn origin(result: &Value) -> String {
    let mut facts = String::new();
    let nothing = Map::new();
    let provenance = result.get("provenance").and_then(Value::as_object);
    let top = result.as_object().unwrap_or(&nothing);
    let scalars = top.iter().filter(|(_, value)| is_scalar(value));
    for (name, value) in provenance.unwrap_or(&nothing).iter().chain(scalars) {
        let (name, value) = (escaped(name), escaped(&whole(value)));
        let _ = writeln!(facts, "<dt>{name}</dt><dd>{value}</dd>");
    }
    match facts.is_empty() {
        true => facts,
        false => format!("<dl>\n{facts}</dl>\n"),
    }
}

/// A value with all of a list: a command line that ends early is none.
fn whole(value: &Value) -> String {
    let Value::Array(values) = value else {
        return shown(value);
    };
    let words: Vec<_> = values.iter().map(shown).collect();
    words.join(" ")
}

/// An SVG file as an address that holds it: its style cannot reach the page's, nor the page's it.
fn data_url(svg: &str) -> String {
    // Its name space is the only address in it, and no page may seem to load from there.
    let mut url = "data:image/svg+xml,".to_owned();
    for character in svg.chars() {
        match character {
            '%' => url += "%25",
            '#' => url += "%23",
            '<' => url += "%3C",
            '>' => url += "%3E",
            '"' => url += "%22",
            ':' => url += "%3A",
            '\n' => url += "%0A",
            '&' => url += "&amp;",
            other => url.push(other),
        }
    }
    url
}

/// Text for an element or for an attribute.
pub(super) fn escaped(text: &str) -> String {
    svg::escaped(text).replace('"', "&quot;")
}
