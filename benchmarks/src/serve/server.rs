//! The measured server: where it is, what it is called, how it counts tokens.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use edgeprompt_kv::TokenId;
use edgeprompt_model::TextTokenizer;
use edgeprompt_transport::{TlsConnector, Trust};
use hyper::Uri;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::http::HttpClient;

/// Which of OpenAI's two shapes requests have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// `/v1/completions`.
    #[value(alias = "vllm")]
    Openai,
    /// `/v1/chat/completions`.
    OpenaiChat,
}

impl Backend {
    /// As the result says it.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::OpenaiChat => "openai-chat",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Openai => "/v1/completions",
            Self::OpenaiChat => "/v1/chat/completions",
        }
    }
}

/// The server and the way to it.
#[derive(Args)]
pub(crate) struct ServerArgs {
    /// The shape of requests: openai for text completions, openai-chat for chats
    #[arg(long, value_enum, default_value = "openai")]
    pub(crate) backend: Backend,
    /// URL of the server, in place of --host and --port
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Host of the server
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port of the server
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Path that is asked; the backend's unless given
    #[arg(long, value_name = "PATH")]
    endpoint: Option<String>,
    /// Key that the server wants; better in the variable, where other users do not see it
    #[arg(
        long,
        value_name = "KEY",
        env = "OPENAI_API_KEY",
        hide_env_values = true
    )]
    api_key: Option<String>,
    /// Headers of every request, as NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE", num_args = 1..)]
    header: Vec<String>,
    /// PEM file of the authorities whose word is taken for the server's certificate, in place of
    /// those that browsers trust
    #[arg(long, value_name = "FILE")]
    ca_cert: Option<PathBuf>,
    /// Name of the model; the first of /v1/models unless given
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// What requests call the model, where that is not --model, which then only the result has
    #[arg(long, value_name = "NAME")]
    served_model_name: Option<String>,
    /// A tokenizer.json, or the folder of one, to count tokens with; the server's /tokenize unless given
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<PathBuf>,
}

/// A server that has answered.
#[derive(Clone)]
pub(crate) struct Server {
    /// The way to it.
    pub(crate) client: HttpClient,
    /// Path that is asked.
    pub(crate) path: String,
    /// What it calls its model.
    pub(crate) model: String,
}

/// How tokens are counted.
pub(crate) enum TokenCounter {
    /// By the model's tokenizer here.
    File(Box<TextTokenizer>),
    /// By the server.
    Server(Box<Server>, TokenizeShape),
}

/// What `/tokenize` of a server understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenizeShape {
    /// vLLM's, and an edge node's.
    Vllm,
    /// llama.cpp's.
    LlamaCpp,
}

impl ServerArgs {
    /// The way to the server; nothing is sent yet.
    ///
    /// # Errors
    /// If the arguments are wrong.
    pub(crate) fn client(&self) -> Result<HttpClient> {
        let base = base_url(&self.url(), &self.path())?;
        Ok(HttpClient::new(
            base.text,
            self.headers()?,
            self.tls(base.scheme)?,
        ))
    }

    /// Finds out what the server calls its model, if that is not given.
    ///
    /// # Errors
    /// If the server does not answer.
    pub(crate) async fn find(&self, client: HttpClient) -> Result<Server> {
        let given = self.served_model_name.as_ref().or(self.model.as_ref());
        let model = match given {
            Some(model) => model.clone(),
            None => first_model(&client).await?,
        };
        Ok(Server {
            client,
            path: self.path(),
            model,
        })
    }

    /// What the result calls the model of a server that was found.
    pub(crate) fn model_id<'a>(&'a self, server: &'a Server) -> &'a str {
        self.model.as_deref().unwrap_or(&server.model)
    }

    /// The tokenizer of `--tokenizer`, if it is given.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn tokenizer(&self) -> Result<Option<TokenCounter>> {
        let Some(path) = &self.tokenizer else {
            return Ok(None);
        };
        let file = match path.is_dir() {
            true => path.join("tokenizer.json"),
            false => path.clone(),
        };
        let tokenizer = TextTokenizer::open(&file, usize::MAX)?;
        Ok(Some(TokenCounter::File(Box::new(tokenizer))))
    }

    fn path(&self) -> String {
        let path = self.endpoint.as_deref();
        let path = path.unwrap_or_else(|| self.backend.path());
        format!("/{}", path.trim_start_matches('/'))
    }

    fn url(&self) -> String {
        let made = || match self.host.contains(':') {
            true => format!("http://[{}]:{}", self.host, self.port),
            false => format!("http://{}:{}", self.host, self.port),
        };
        self.base_url.clone().unwrap_or_else(made)
    }

    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        if let Some(key) = &self.api_key {
            let value = HeaderValue::from_str(&format!("Bearer {key}"));
            let mut value = value
                .ok()
                .context("the API key cannot be sent in a header")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        for given in &self.header {
            let pair = given.split_once('=').and_then(|(name, value)| {
                let name = HeaderName::try_from(name.trim()).ok()?;
                Some((name, HeaderValue::from_str(value.trim()).ok()?))
            });
            // Its value may be a secret.
            let (name, value) = pair.context("a --header is not of the form NAME=VALUE")?;
            headers.insert(name, value);
        }
        Ok(headers)
    }

    fn tls(&self, scheme: Scheme) -> Result<Option<TlsConnector>> {
        if scheme == Scheme::Http {
            return Ok(None);
        }
        let trust = self.ca_cert.as_deref();
        let trust = trust.map_or(Trust::Browsers, Trust::File);
        Ok(Some(TlsConnector::new(trust)?))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

#[derive(Debug, PartialEq, Eq)]
struct BaseUrl {
    scheme: Scheme,
    /// Without a slash at its end.
    text: String,
}

/// Checks a URL to which `path` is appended. The `/v1` that OpenAI's clients want at its end may be
/// there.
fn base_url(given: &str, path: &str) -> Result<BaseUrl> {
    let mut text = given.trim_end_matches('/');
    if path.starts_with("/v1/") {
        text = text.strip_suffix("/v1").unwrap_or(text);
    }
    let uri: Uri = text
        .parse()
        .with_context(|| format!("{text:?} is no URL"))?;
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        Some(_) | None => {
            bail!("{text:?} is no URL of an HTTP server: http://HOST:PORT is expected")
        }
    };
    ensure!(
        !uri.authority().is_some_and(|it| it.as_str().contains('@')),
        "a URL with a name and a password is not sent: use --api-key or --header"
    );
    ensure!(
        uri.query().is_none(),
        "{text:?} has a query: --base-url has none"
    );
    Ok(BaseUrl {
        scheme,
        text: text.to_owned(),
    })
}

async fn first_model(client: &HttpClient) -> Result<String> {
    let listed = client.get_json("/v1/models").await.context(
        "the server does not say what its model is called: is it running there? --model gives the name",
    )?;
    let name = listed["data"][0]["id"].as_str();
    let name = name.context("the server lists no model at /v1/models: --model gives the name")?;
    Ok(name.to_owned())
}

impl TokenCounter {
    /// The way in which a server counts.
    ///
    /// # Errors
    /// If it has none.
    pub(crate) async fn of(server: &Server) -> Result<Self> {
        for shape in [TokenizeShape::Vllm, TokenizeShape::LlamaCpp] {
            let counter = Self::Server(Box::new(server.clone()), shape);
            let counted = counter.count("How many tokens is this?").await;
            if counted.is_ok_and(|count| count > 0) {
                return Ok(counter);
            }
        }
        bail!(
            "the server has no /tokenize that vLLM's or llama.cpp's clients would understand: give --tokenizer FILE, the tokenizer.json of its model"
        )
    }

    /// Tokens of a text, with the special ones that it begins with.
    ///
    /// # Errors
    /// If they cannot be counted; the text is not repeated.
    pub(crate) async fn count(&self, text: &str) -> Result<usize> {
        match self {
            Self::File(tokenizer) => {
                let tokens: Vec<TokenId> = tokenizer.encode(text)?;
                Ok(tokens.len())
            }
            Self::Server(server, shape) => {
                let body = match shape {
                    TokenizeShape::Vllm => {
                        json!({"model": server.model, "prompt": text, "add_special_tokens": true})
                    }
                    TokenizeShape::LlamaCpp => json!({"content": text, "add_special": true}),
                };
                let answer = server.client.post_json("/tokenize", &body).await?;
                let tokens = answer["tokens"].as_array().map(Vec::len);
                let count = answer["count"]
                    .as_u64()
                    .and_then(|it| usize::try_from(it).ok());
                count
                    .or(tokens)
                    .context("the server's /tokenize tells no tokens")
            }
        }
    }

    /// Who counts, in a word.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::File(_) => "tokenizer.json",
            Self::Server(_, TokenizeShape::Vllm) => "the server's /tokenize (vLLM's fields)",
            Self::Server(_, TokenizeShape::LlamaCpp) => {
                "the server's /tokenize (llama.cpp's fields)"
            }
        }
    }
}

/// What `/v1/models` names may go into a file's name: what stands behind the last slash.
pub(crate) fn base_model_id(model: &str) -> &str {
    let last = model.rsplit(['/', '\\']).next();
    last.filter(|name| !name.is_empty()).unwrap_or("model")
}

/// Sampling parameters and the like, merged into every request.
pub(crate) fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("a JSON object is expected".to_owned()),
        Err(error) => Err(format!("this is not JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(given: &str, path: &str) -> String {
        base_url(given, path).unwrap().text
    }

    #[test]
    fn a_base_url_may_end_as_openais_does() {
        let path = "/v1/completions";
        assert_eq!(text("http://h:1/", path), "http://h:1");
        assert_eq!(text("https://h/v1/", path), "https://h");
        assert_eq!(text("http://h/llm/v1", path), "http://h/llm");
        assert_eq!(text("http://h/v1", "/completion"), "http://h/v1");
        assert_eq!(base_url("https://h", path).unwrap().scheme, Scheme::Https);
        for wrong in [
            "h:1",
            "ftp://h",
            "http://me:pw@h",
            "http://h?x=1",
            "",
            "/v1",
        ] {
            let error = base_url(wrong, path).unwrap_err().to_string();
            assert!(!error.contains("pw"), "{error}");
        }
    }

    #[test]
    fn a_models_name_makes_a_files() {
        assert_eq!(base_model_id("meta/llama"), "llama");
        assert_eq!(base_model_id("llama"), "llama");
        assert_eq!(base_model_id("/srv/x.gguf"), "x.gguf");
        assert_eq!(base_model_id("../"), "model");
    }
}
