//! Asks a running daemon over its own HTTP door.

use anyhow::{Context, anyhow, bail};
use clap::Args;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use std::time::Duration;
use url::Url;

/// Seconds until a connection must stand; the daemon is near.
const CONNECT_TIMEOUT_S: u64 = 5;

/// Which daemon.
#[derive(Debug, Clone, Args)]
pub(super) struct Server {
    /// Address of the daemon; the key, if it asks for one, is read from KSERVED_API_KEY
    #[arg(long, value_name = "URL", env = "KSERVED_SERVER", default_value = "http://127.0.0.1:8080")]
    server: Url,
}

/// A way to the daemon.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    server: Url,
    key: Option<String>,
}

impl Server {
    /// The daemon at an address.
    pub(super) fn at(server: Url) -> Self {
        Self { server }
    }

    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("kserved/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(CONNECT_TIMEOUT_S))
            .no_proxy()
            .build()
            .context("cannot start the HTTP client")?;
        if self.server.cannot_be_a_base() || !self.server.has_host() {
            bail!("`--server`: expected an address such as `http://127.0.0.1:8080`: `{}`", self.server);
        }
        Ok(Client { http, server: self.server.clone(), key: std::env::var("KSERVED_API_KEY").ok() })
    }
}

impl Client {
    /// A request for a path such as `/v2/models`, with the key.
    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let base = self.server.as_str().trim_end_matches('/');
        let request = self.http.request(method, format!("{base}{path}"));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// The JSON at a path.
    ///
    /// # Errors
    /// Nobody answers, or the answer is an error: its own sentence.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(self.request(Method::GET, path)).await?.json().await.with_context(|| format!("{path}: the answer is not JSON"))
    }

    /// Sends a request; an answer that is an error becomes one.
    pub(super) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        Err(Refused { code: status.as_u16(), message: sentence(&body).unwrap_or_else(|| format!("the daemon answers {status}")) }.into())
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let server = &self.server;
        if error.is_connect() {
            return anyhow!(
                "no kserved answers at `{server}`\nhint: start one with `kserved serve`, or name another with `--server` or `KSERVED_SERVER`"
            );
        }
        anyhow::Error::from(error.without_url()).context(format!("asking `{server}`"))
    }
}

/// An answer that is an error.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refused {
    /// The HTTP status.
    pub(super) code: u16,
    /// What the daemon says.
    pub(super) message: String,
}

/// What an error says: Kubernetes' `message`, the protocol's `error`, or OpenAI's within it.
fn sentence(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let text = value.get("message").or_else(|| value.pointer("/error/message")).or_else(|| value.get("error"))?;
    Some(text.as_str()?.to_owned())
}

/// Runs a command that asks the daemon.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_every_door_have_a_sentence() {
        assert_eq!(sentence(br#"{"kind":"Status","message":"not found"}"#).as_deref(), Some("not found"));
        assert_eq!(sentence(br#"{"error":"no such model"}"#).as_deref(), Some("no such model"));
        assert_eq!(sentence(br#"{"error":{"message":"wrong field","code":"422"}}"#).as_deref(), Some("wrong field"));
        assert_eq!(sentence(b"<html>"), None);
    }

    #[tokio::test]
    async fn a_daemon_that_is_not_there_is_answered_with_the_next_step() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let message = Server { server: server.parse().unwrap() }.client().unwrap().get("/apis").await.unwrap_err().to_string();
        assert!(message.contains("`kserved serve`") && message.contains("`--server`"), "{message}");
    }
}
