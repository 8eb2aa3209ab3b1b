//! What an edge node's operator does: lists sessions and moves them.

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::Access;
use crate::edge_url::EdgeUrl;
use crate::http::{self, HttpError};

/// Sessions that a node moves at a time.
const BATCH_LEN: usize = 256;

/// An edge node whose sessions are to move.
#[derive(Clone, Debug)]
pub struct Edge {
    url: EdgeUrl,
    access: Access,
}

/// A session at a node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SessionEntry {
    /// Its name.
    pub id: String,
    /// Tokens of its answer so far.
    pub token_count: u64,
    /// `here`, `moved`, `ended` or `broken`.
    pub state: String,
    /// Where it moved to, as nodes reach it.
    pub node: Option<String>,
}

/// A session that has moved.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Handover {
    /// Its name.
    pub id: String,
    /// Where it is now, as nodes reach it.
    pub target: String,
    /// And as users do, if the target said so.
    pub url: Option<String>,
    /// How it moved: `token`, `cache`, `joint`, `stream` or `precopy`.
    pub strategy: String,
    /// How long nobody was expected to emit, in milliseconds.
    pub predicted_ms: f64,
    /// From the last token at the source until the target had all it needed, in milliseconds.
    pub switch_ms: f64,
    /// The whole move, in milliseconds.
    pub took_ms: f64,
    /// Tokens that the target was to compute.
    #[serde(rename = "handover_tokens_prefilled")]
    pub tokens_prefilled: u64,
    /// Tokens whose keys and values were sent.
    #[serde(rename = "handover_tokens_sent")]
    pub tokens_sent: u64,
    /// Bytes of them.
    #[serde(rename = "handover_bytes")]
    pub bytes: u64,
}

/// A session that has not moved.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NotMoved {
    /// Its name.
    pub id: String,
    /// Why, in the node's words.
    pub error: String,
    /// Why, in one word, such as `session_ended`.
    pub code: Option<String>,
}

/// What became of one of several sessions.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Tried {
    /// It is at the target.
    Moved(Handover),
    /// It is where it was, or nowhere.
    NotMoved(NotMoved),
}

#[derive(Deserialize)]
struct List<T> {
    data: Vec<T>,
}

impl Edge {
    /// The edge node at a URL.
    pub const fn new(url: EdgeUrl, access: Access) -> Self {
        Self { url, access }
    }

    /// The sessions of this key.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn sessions(&self) -> Result<Vec<SessionEntry>, HttpError> {
        let reply = http::send(
            &self.url,
            &self.access,
            (Method::GET, "/v1/sessions"),
            "".into(),
        );
        let list: List<_> = self.parse(reply.await?.json().await?)?;
        Ok(list.data)
    }

    /// Moves a session to the node that listens for sessions at `target`.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn hand_over(&self, id: &str, target: &str) -> Result<Handover, HttpError> {
        let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_id {
            // As the node would say, which must not get it as a path.
            return Err(HttpError::Refused {
                url: self.url.clone(),
                status: 404,
                code: "session_not_found".to_owned(),
                message: String::new(),
            });
        }
        let path = format!("/v1/sessions/{id}/handover");
        self.parse(self.post(&path, &json!({ "target": target })).await?)
    }

    /// Moves all sessions of this key that are generated at the node.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn hand_over_all(&self, target: &str) -> Result<Vec<Tried>, HttpError> {
        let sessions = self.sessions().await?;
        let here = sessions.into_iter().filter(|it| it.state == "here");
        let here: Vec<_> = here.map(|session| session.id).collect();
        let mut all = Vec::new();
        // A node moves only so many at a time.
        for ids in here.chunks(BATCH_LEN) {
            match self.hand_over_some(ids, target).await {
                Ok(tried) => all.extend(tried),
                Err(error) if all.is_empty() => return Err(error),
                // What has moved has moved.
                Err(error) => all.extend(ids.iter().map(|id| {
                    Tried::NotMoved(NotMoved {
                        id: id.clone(),
                        error: error.to_string(),
                        code: None,
                    })
                })),
            }
        }
        Ok(all)
    }

    async fn hand_over_some(&self, ids: &[String], target: &str) -> Result<Vec<Tried>, HttpError> {
        let body = json!({ "target": target, "sessions": ids });
        let list: List<_> = self.parse(self.post("/v1/handovers", &body).await?)?;
        Ok(list.data)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value, HttpError> {
        let body = body.to_string().into();
        let reply = http::send(&self.url, &self.access, (Method::POST, path), body);
        reply.await?.json().await
    }

    fn parse<T: for<'a> Deserialize<'a>>(&self, value: Value) -> Result<T, HttpError> {
        let url = || self.url.clone();
        serde_json::from_value(value).map_err(|_| HttpError::Nonsense { url: url() })
    }
}
