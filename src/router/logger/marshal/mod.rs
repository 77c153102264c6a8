//! Records as files: JSON, CSV or Parquet as KServe's marshaller writes them, or by a marshaller of the user's own.

mod columns;
mod go;

use super::attempts::Failure;
use super::config::Config;
use super::http_sink::{answered, client, unsent};
use super::record::Record;
use crate::resolve::logging::{FileSink, LogFormat, LoggingSpec, Marshalling};
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use reqwest::Client;

/// The header by which a marshaller says how a file's name ends.
const EXTENSION: &str = "x-log-marshal-extension";
/// Characters of that end.
const EXTENSION_CHARS_MAX: usize = 32;

/// A batch as a file.
pub(super) struct Marshalled {
    pub(super) file: Bytes,
    /// How its name ends, after the dot.
    pub(super) extension: String,
}

/// Turns batches into files.
pub(super) struct Marshaller<'a> {
    spec: &'a LoggingSpec,
    sink: &'a FileSink,
    how: How<'a>,
}

enum How<'a> {
    Own(LogFormat),
    By { url: &'a str, client: Result<Client, String>, bytes_max: usize },
}

impl<'a> Marshaller<'a> {
    pub(super) fn new(spec: &'a LoggingSpec, sink: &'a FileSink, config: &Config) -> Self {
        let how = match &sink.marshalling {
            Marshalling::Own(format) => How::Own(*format),
            Marshalling::By(url) => How::By { url, client: client(&sink.tls, config), bytes_max: config.service_bytes_max },
        };
        Self { spec, sink, how }
    }

    /// A batch as one file; a marshaller of the user's own is asked once.
    pub(super) async fn marshal(&self, batch: &[Record]) -> Result<Marshalled, Failure> {
        match &self.how {
            How::Own(format) => {
                let file = match format {
                    LogFormat::Json => go::file(self.spec, self.sink, batch),
                    LogFormat::Csv => columns::as_csv(self.spec, self.sink, batch),
                    LogFormat::Parquet => columns::as_parquet(self.spec, self.sink, batch),
                };
                Ok(Marshalled { file: file.into(), extension: format.extension().to_owned() })
            }
            How::By { client: Err(error), .. } => Err(Failure::Final(error.clone())),
            How::By { url, client: Ok(client), bytes_max } => {
                let body = go::batch(self.spec, self.sink, batch);
                ask(client, url, body.into(), *bytes_max).await
            }
        }
    }
}

async fn ask(client: &Client, url: &str, body: Bytes, bytes_max: usize) -> Result<Marshalled, Failure> {
    let mut response = client.post(url).header(CONTENT_TYPE, "application/json").body(body).send().await.map_err(unsent)?;
    answered("the marshaller", response.status())?;
    let told = response.headers().get(EXTENSION).and_then(|value| value.to_str().ok());
    let extension = told.filter(|end| !end.is_empty()).unwrap_or("json").to_owned();
    if extension.len() > EXTENSION_CHARS_MAX || !extension.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.') {
        return Err(Failure::Final(format!("the marshaller names no end of a file's name: `{EXTENSION}: {}`", extension.escape_debug())));
    }
    let mut file = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(unsent)? {
        if file.len() + piece.len() > bytes_max {
            return Err(Failure::Final(format!("the marshaller's file has more than `logger.service_bytes_max` bytes: {bytes_max}")));
        }
        file.extend_from_slice(&piece);
    }
    Ok(Marshalled { file: file.freeze(), extension })
}
