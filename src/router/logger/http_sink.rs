//! Delivery to a web server: a few records at once, each tried a few times within its deadline.

use super::config::Config;
use super::events;
use super::news::News;
use super::record::Record;
use crate::resolve::logging::{HttpSink, LoggingSpec};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::CONTENT_LENGTH;
use reqwest::{Certificate, Client, StatusCode, redirect};
use std::error::Error;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use url::Url;

/// What a sink's server may send back and is read, so that its connection can be used again.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// Why a try failed.
enum Failure {
    /// Trying again may help.
    MayPass(String),
    /// It would not.
    Final(String),
}

/// Delivers records until there are no more.
pub(super) async fn deliver(spec: &LoggingSpec, sink: &HttpSink, config: &Config, news: &News, records: impl Stream<Item = Record>) {
    let (client, shown) = (&client(sink, config), &shown(&sink.url));
    let deliver_one = |record: Record| async move {
        let outcome = match client {
            Ok(client) => try_often(client, spec, sink, config, &record).await,
            Err(error) => Err(error.clone()),
        };
        match outcome {
            Ok(()) => news.delivered(1),
            Err(error) => news.undelivered(shown, 1, &error),
        }
    };
    records.for_each_concurrent(config.deliveries_max.max(1), deliver_one).await;
}

fn client(sink: &HttpSink, config: &Config) -> Result<Client, String> {
    let mut builder = Client::builder()
        .user_agent(concat!("kserved/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(config.deliveries_max)
        .tls_danger_accept_invalid_certs(sink.tls.skip_verify);
    if let Some(pem) = &sink.tls.certificates_pem {
        let certificates =
            Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| format!("the logger's certificates: {}", chain(&error)))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| chain(&error))
}

async fn try_often(client: &Client, spec: &LoggingSpec, sink: &HttpSink, config: &Config, record: &Record) -> Result<(), String> {
    let deadline = record.queued + Duration::from_secs(config.deadline_s);
    let (body, mut pause) = (record.bytes(), Duration::from_millis(config.retry_first_ms));
    let mut last = "it was not its turn within the deadline".to_owned();
    for attempt in 1..=config.attempts_max.max(1) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let within = left.min(Duration::from_secs(config.attempt_timeout_s));
        match tokio::time::timeout(within, post(client, spec, sink, record, body.clone())).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Failure::Final(error))) => return Err(error),
            Ok(Err(Failure::MayPass(error))) => last = error,
            Err(_) => last = format!("no answer within {} s", within.as_secs()),
        }
        if attempt < config.attempts_max {
            tokio::time::sleep_until((Instant::now() + pause).min(deadline)).await;
            pause *= 2;
        }
    }
    Err(last)
}

async fn post(client: &Client, spec: &LoggingSpec, sink: &HttpSink, record: &Record, body: Bytes) -> Result<(), Failure> {
    let headers = events::headers(spec, record, SystemTime::now());
    // Said also of a body without a byte: some servers wait for it.
    let length = body.len();
    let sent = client.post(&sink.url).headers(headers).header(CONTENT_LENGTH, length).body(body).send().await;
    let mut response = sent.map_err(|error| {
        let error_text = |error: reqwest::Error| chain(&error.without_url());
        if error.is_builder() { Failure::Final(error_text(error)) } else { Failure::MayPass(error_text(error)) }
    })?;
    let status = response.status();
    let mut read = 0;
    while let Ok(Some(piece)) = response.chunk().await {
        read += piece.len();
        if read > REPLY_BYTES_MAX {
            break;
        }
    }
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(Failure::MayPass(format!("the sink answered {status}"))),
        status if status.is_server_error() => Err(Failure::MayPass(format!("the sink answered {status}"))),
        status => Err(Failure::Final(format!("the sink answered {status}"))),
    }
}

/// An address without what may be secret in it: user, password and query.
fn shown(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return String::new() };
    // They fail for addresses that can have neither.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}

/// An error and what it comes from, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_tells_no_password() {
        assert_eq!(shown("https://me:word@sink/a?token=x"), "https://sink/a");
    }
}
