//! Where an edge node is reached.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;

/// Longest URL; some come from servers.
const URL_BYTES_MAX: usize = 2048;

/// How it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In clear.
    Http,
    /// Over TLS.
    Https,
}

/// The base URL of an edge node's HTTP side, such as `http://10.0.0.7:8000`.
///
/// A `/v1` at its end, as OpenAI's clients want it, is taken off.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EdgeUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    /// Without a slash at its end.
    path: String,
}

/// A text is no URL of an edge node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EdgeUrlError {
    /// It cannot be read.
    #[error("that is no URL like http://10.0.0.7:8000")]
    Malformed,
    /// Another scheme, or none.
    #[error("the URL of an edge node begins with http:// or https://")]
    Scheme,
    /// It has a name and a password, or a query.
    #[error("the URL of an edge node has neither user nor query")]
    Parts,
}

impl EdgeUrl {
    /// How it is spoken to.
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host; an IPv6 address has its brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// The path of an endpoint such as `/v1/models`.
    pub(crate) fn path_of(&self, endpoint: &str) -> String {
        format!("{}{endpoint}", self.path)
    }
}

impl FromStr for EdgeUrl {
    type Err = EdgeUrlError;

    fn from_str(text: &str) -> Result<Self, EdgeUrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(EdgeUrlError::Malformed);
        }
        let uri: Uri = text.trim().parse().map_err(|_| EdgeUrlError::Malformed)?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(EdgeUrlError::Scheme),
        };
        let authority = uri.authority().ok_or(EdgeUrlError::Malformed)?;
        if authority.as_str().contains('@') || uri.query().is_some() {
            return Err(EdgeUrlError::Parts);
        }
        // What follows the host is a port, or nothing.
        let has_port = authority.as_str().len() > authority.host().len();
        let port = authority.port_u16();
        if authority.host().is_empty() || has_port != port.is_some() {
            return Err(EdgeUrlError::Malformed);
        }
        let path = uri.path().trim_end_matches('/');
        Ok(Self {
            scheme,
            host: authority.host().to_lowercase(),
            port: port.unwrap_or(match scheme {
                Scheme::Http => 80,
                Scheme::Https => 443,
            }),
            path: path.strip_suffix("/v1").unwrap_or(path).to_owned(),
        })
    }
}

impl fmt::Display for EdgeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_one_edge_are_equal() {
        let parsed: EdgeUrl = "http://Edge-1:8000".parse().unwrap();
        for same in [
            "http://edge-1:8000/",
            "http://edge-1:8000/v1",
            " http://edge-1:8000/v1/ ",
        ] {
            assert_eq!(same.parse(), Ok(parsed.clone()), "{same}");
        }
        assert_eq!(parsed.to_string(), "http://edge-1:8000");
        let proxied: EdgeUrl = "https://[::1]/edges/1".parse().unwrap();
        assert_eq!(proxied.to_string(), "https://[::1]:443/edges/1");
        assert_eq!(proxied.path_of("/v1/models"), "/edges/1/v1/models");
    }

    #[test]
    fn what_is_no_url_is_refused() {
        use EdgeUrlError::{Malformed, Parts, Scheme};
        let check =
            |text: &str, expected| assert_eq!(text.parse::<EdgeUrl>(), Err(expected), "{text}");
        check("edge-1:8000", Scheme);
        check("ftp://edge-1", Scheme);
        check("/v1", Scheme);
        check("http://me:secret@edge-1", Parts);
        check("http://edge-1/?x=1", Parts);
        check("http://edge 1", Malformed);
        check("http://edge-1:", Malformed);
        check("http://edge-1:99999999", Malformed);
        check(&format!("http://{}", "x".repeat(URL_BYTES_MAX)), Malformed);
    }
}
