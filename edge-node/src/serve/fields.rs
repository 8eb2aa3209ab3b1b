//! The fields of a JSON request, read one by one, so that an error names the field and never
//! repeats what was in it.

use serde_json::{Map, Value};

use crate::serve::api_error::ApiError;

/// A request's JSON object. Deliberately not `Debug`: it holds a private prompt.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Parses a body.
    ///
    /// # Errors
    /// [`ApiError`] if it is not a JSON object.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(ApiError::request("the body is not a JSON object")),
            // The library's sentence may quote the body.
            Err(error) => Err(ApiError::request(format!(
                "the body is not JSON: line {}, column {}",
                error.line(),
                error.column()
            ))),
        }
    }

    /// An object within a request.
    ///
    /// # Errors
    /// [`ApiError`] if it is there and not an object.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>, ApiError> {
        self.read(name, "a JSON object", |value| {
            value.as_object().cloned().map(Self)
        })
    }

    /// A field that is there and not `null`.
    pub(crate) fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A field as `read` understands it, which `expected` describes.
    ///
    /// # Errors
    /// [`ApiError`] if it is there and not understood.
    pub(crate) fn read<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let understood = read(value).map(Some);
        understood.ok_or_else(|| ApiError::field(name, format!("{name} must be {expected}")))
    }

    /// A number.
    ///
    /// # Errors
    /// As [`Fields::read`].
    #[expect(
        clippy::cast_possible_truncation,
        reason = "parameters are f32 to the engine"
    )]
    pub(crate) fn number(&self, name: &str) -> Result<Option<f32>, ApiError> {
        self.read(name, "a number", |value| Some(value.as_f64()? as f32))
    }

    /// A whole number, not negative.
    ///
    /// # Errors
    /// As [`Fields::read`].
    pub(crate) fn count(&self, name: &str) -> Result<Option<usize>, ApiError> {
        let read = |value: &Value| usize::try_from(value.as_u64()?).ok();
        self.read(name, "a whole number, not negative", read)
    }

    /// A text.
    ///
    /// # Errors
    /// As [`Fields::read`].
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, ApiError> {
        self.read(name, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// A flag, off where it is absent.
    ///
    /// # Errors
    /// As [`Fields::read`].
    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self
            .read(name, "true or false", Value::as_bool)?
            .unwrap_or(false))
    }
}
