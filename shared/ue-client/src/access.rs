//! What a client shows to servers, and whose certificates it trusts.

use std::fmt;

use edgeprompt_transport::TlsConnector;
use hyper::header::{HeaderValue, InvalidHeaderValue};

/// A key, if servers want one, and TLS for those whose URL says `https`.
#[derive(Clone, Default)]
pub struct Access {
    authorization: Option<HeaderValue>,
    tls: Option<TlsConnector>,
}

impl Access {
    /// Shows an API key to every server that is asked, also to those that a session moves to.
    ///
    /// # Errors
    /// If the key cannot be sent in a header.
    pub fn with_key(mut self, key: &str) -> Result<Self, InvalidHeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {key}"))?;
        value.set_sensitive(true);
        self.authorization = Some(value);
        Ok(self)
    }

    /// Speaks TLS where a URL says so; without it, `https` cannot be reached.
    #[must_use]
    pub fn with_tls(mut self, tls: TlsConnector) -> Self {
        self.tls = Some(tls);
        self
    }

    pub(crate) const fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    pub(crate) const fn tls(&self) -> Option<&TlsConnector> {
        self.tls.as_ref()
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("has_key", &self.authorization.is_some())
            .field("has_tls", &self.tls.is_some())
            .finish()
    }
}
