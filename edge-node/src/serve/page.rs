//! The page at `/`: files that are part of the program, so that it needs no network but this server.
//! What it shows it asks for as any client does, with the caller's key.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::routing::get;

/// What the page may do: load its own files and ask this server, and nothing else at all.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Each file: its path, its type, its text.
const FILES: [(&str, &str, &str); 9] = [
    ("/", HTML, include_str!("page/index.html")),
    ("/page/style.css", CSS, include_str!("page/style.css")),
    ("/page/chart.css", CSS, include_str!("page/chart.css")),
    ("/page/icon.svg", SVG, include_str!("page/icon.svg")),
    ("/page/main.js", JAVASCRIPT, include_str!("page/main.js")),
    ("/page/edge.js", JAVASCRIPT, include_str!("page/edge.js")),
    ("/page/chart.js", JAVASCRIPT, include_str!("page/chart.js")),
    (
        "/page/numbers.js",
        JAVASCRIPT,
        include_str!("page/numbers.js"),
    ),
    ("/page/talk.js", JAVASCRIPT, include_str!("page/talk.js")),
];

const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    ),
    (
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    ),
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    ),
    // Another version of the program has another page.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// Its routes, open to everybody: the files are the same for all and hold nothing of anybody.
pub(crate) fn page<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let add = |router: Router<S>, (path, kind, text): (&str, &'static str, &'static str)| {
        let file = async move || (HEADERS, [(header::CONTENT_TYPE, kind)], text);
        router.route(path, get(file))
    };
    FILES.into_iter().fold(Router::new(), add)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files that a text names.
    fn named(text: &str) -> impl Iterator<Item = &str> {
        let after = text.split("/page/").skip(1);
        after.map(|rest| rest.split(['"', '\'']).next().unwrap_or_default())
    }

    #[test]
    fn every_file_is_named_and_every_named_file_is_there() {
        let (_, _, html) = FILES[0];
        let mut all: Vec<&str> = named(html).collect();
        for (_, kind, text) in FILES {
            let imports = text.split("from \"./").skip(1);
            if kind == JAVASCRIPT {
                all.extend(imports.filter_map(|rest| rest.split('"').next()));
            }
        }
        all.sort_unstable();
        all.dedup();
        let mut files: Vec<&str> = FILES
            .iter()
            .filter_map(|(path, _, _)| path.strip_prefix("/page/"))
            .collect();
        files.sort_unstable();
        assert_eq!(all, files);
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere_and_nothing_is_inline() {
        for (path, _, text) in FILES {
            // The name of a language, not an address that anything is loaded from.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for banned in [
                "http:",
                "https:",
                "ws:",
                "\"//",
                "url(",
                "style=\"",
                "onclick",
                "innerHTML",
            ] {
                assert!(!text.contains(banned), "{path} has {banned}");
            }
            for kept in [
                "localStorage",
                "sessionStorage",
                "indexedDB",
                "document.cookie",
            ] {
                assert!(!text.contains(kept), "{path} has {kept}");
            }
        }
    }
}
