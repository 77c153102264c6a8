//! Delivery to a web server: a few records at once, each tried a few times within its deadline.

use super::attempts::{Failure, try_often};
use super::config::Config;
use super::events;
use super::news::News;
use super::record::Record;
use crate::resolve::logging::{HttpSink, LoggingSpec, Tls};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header::CONTENT_LENGTH;
use reqwest::{Certificate, Client, StatusCode, redirect};
use std::error::Error;
use std::time::{Duration, SystemTime};
use url::Url;

/// What a sink's server may send back and is read, so that its connection can be used again.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// Delivers records until there are no more.
pub(super) async fn deliver(spec: &LoggingSpec, sink: &HttpSink, config: &Config, news: &News, records: impl Stream<Item = Record>) {
    let (client, shown) = (&client(&sink.tls, config), &shown(&sink.url));
    let deliver_one = |record: Record| async move {
        let outcome = match client {
            Ok(client) => deliver_one(client, spec, sink, config, &record).await,
            Err(error) => Err(error.clone()),
        };
        match outcome {
            Ok(()) => news.delivered(1),
            Err(error) => news.undelivered(shown, 1, &error),
        }
    };
    records.for_each_concurrent(config.deliveries_max.max(1), deliver_one).await;
}

/// A client for a logger's servers.
pub(super) fn client(tls: &Tls, config: &Config) -> Result<Client, String> {
    let mut builder = Client::builder()
        .user_agent(concat!("kserved/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(config.deliveries_max)
        .tls_danger_accept_invalid_certs(tls.skip_verify);
    if let Some(pem) = &tls.certificates_pem {
        let certificates =
            Certificate::from_pem_bundle(pem.as_bytes()).map_err(|error| format!("the logger's certificates: {}", chain(&error)))?;
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| chain(&error))
}

async fn deliver_one(client: &Client, spec: &LoggingSpec, sink: &HttpSink, config: &Config, record: &Record) -> Result<(), String> {
    let deadline = record.queued + Duration::from_secs(config.deadline_s);
    let body = record.bytes();
    try_often(config, Some(deadline), || post(client, spec, sink, record, body.clone())).await
}

async fn post(client: &Client, spec: &LoggingSpec, sink: &HttpSink, record: &Record, body: Bytes) -> Result<(), Failure> {
    let headers = events::headers(spec, record, SystemTime::now());
    // Said also of a body without a byte: some servers wait for it.
    let length = body.len();
    let sent = client.post(&sink.url).headers(headers).header(CONTENT_LENGTH, length).body(body).send().await;
    let mut response = sent.map_err(unsent)?;
    let status = response.status();
    let mut read = 0;
    while let Ok(Some(piece)) = response.chunk().await {
        read += piece.len();
        if read > REPLY_BYTES_MAX {
            break;
        }
    }
    answered("the sink", status)
}

/// What an error before the answer means.
pub(super) fn unsent(error: reqwest::Error) -> Failure {
    let builder = error.is_builder();
    let text = chain(&error.without_url());
    if builder { Failure::Final(text) } else { Failure::MayPass(text) }
}

/// What a status means; `who` answered.
pub(super) fn answered(who: &str, status: StatusCode) -> Result<(), Failure> {
    let text = || format!("{who} answered {status}");
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(Failure::MayPass(text())),
        status if status.is_server_error() => Err(Failure::MayPass(text())),
        _ => Err(Failure::Final(text())),
    }
}

/// An address without what may be secret in it: user, password and query.
pub(super) fn shown(url: &str) -> String {
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
