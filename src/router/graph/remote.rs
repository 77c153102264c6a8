//! A step by `serviceUrl`: one HTTP call with the graph's deadline and the headers that go along.

use super::{Config, Failure};
use crate::causes;
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Client;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How many graphs stand behind a call; a daemon that calls itself in a circle finds out by it.
pub const DEPTH: HeaderName = HeaderName::from_static("x-kserved-graph-depth");

/// The web, for steps. The client behind it starts with the first call.
#[derive(Debug)]
pub(super) struct Remote {
    client: OnceLock<Result<Client, String>>,
    connect_timeout: Duration,
    answer_bytes_max: usize,
}

/// One call.
#[derive(Debug)]
pub(super) struct Call<'c> {
    pub(super) url: &'c str,
    pub(super) body: Bytes,
    pub(super) headers: HeaderMap,
    pub(super) depth: usize,
    pub(super) deadline: Instant,
}

impl Remote {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            client: OnceLock::new(),
            connect_timeout: Duration::from_secs(config.connect_timeout_s),
            answer_bytes_max: config.answer_bytes_max,
        }
    }

    /// Posts a body; the status and the body of the answer, whatever the status is.
    ///
    /// # Errors
    /// No answer: refused, too late, too large.
    pub(super) async fn post(&self, mut call: Call<'_>) -> Result<(u16, Bytes), Failure> {
        call.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        call.headers.insert(DEPTH, call.depth.into());
        let (url, deadline) = (call.url, call.deadline);
        match timeout_at(deadline, self.answer(call)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(cause)) => Err(Failure::of(format!("Post \"{url}\": {cause}"))),
            Err(_) => Err(Failure::of(format!("Post \"{url}\": no answer in time"))),
        }
    }

    async fn answer(&self, call: Call<'_>) -> Result<(u16, Bytes), String> {
        let client = self.client()?;
        let request = client.post(call.url).headers(call.headers).body(call.body);
        let mut response = request.send().await.map_err(|error| causes::in_one_line(&error.without_url()))?;
        let status = response.status().as_u16();
        let too_large = || format!("the answer is larger than {} bytes", self.answer_bytes_max);
        if response.content_length().is_some_and(|length| length > self.answer_bytes_max as u64) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| causes::in_one_line(&error.without_url()))? {
            if body.len() + chunk.len() > self.answer_bytes_max {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, body.freeze()))
    }

    fn client(&self) -> Result<&Client, String> {
        let build = || Client::builder().connect_timeout(self.connect_timeout).build().map_err(|error| causes::in_one_line(&error));
        self.client.get_or_init(build).as_ref().map_err(String::clone)
    }
}
