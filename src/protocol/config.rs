//! What the doors take in: how much, how long, from whom; every value with its unit and its reason.

use super::openai;
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bounds and rules of the HTTP and gRPC doors. Every field has a default; unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of one HTTP request body, before and after inflation.
    pub body_bytes_max: usize,
    /// Bytes of all requests held at once, over HTTP and gRPC; one more is refused with 503.
    pub inflight_bytes_max: usize,
    /// Bytes of one request's tensors after decoding.
    pub decoded_bytes_max: usize,
    /// How many times its own size a compressed body may grow to.
    pub inflate_ratio_max: usize,
    /// How deep arrays and objects may nest in a JSON body.
    pub json_depth_max: usize,
    /// Bytes of all header names and values of one request.
    pub header_bytes_max: usize,
    /// Headers of one request.
    pub header_count_max: usize,
    /// Inference requests worked on at once over all models and both doors; one more is refused with 503.
    pub inflight_max: usize,
    /// Connections open at once, per door; more wait in the kernel's backlog.
    pub connections_max: usize,
    /// Seconds a client may take to send its headers, and to stay idle between two requests.
    pub header_read_timeout_s: u64,
    /// Seconds a client may take to send its body.
    pub body_read_timeout_s: u64,
    /// The domain below which services have their hosts: `iris.default.example.com`.
    pub default_domain: String,
    /// The path below which every service is reached on any host; empty switches it off.
    pub path_template: String,
    /// The key every caller must show, as `Authorization: Bearer KEY` or `x-api-key: KEY`.
    pub api_key: Option<ApiKey>,
    /// Listen beyond loopback without an API key.
    pub allow_unauthenticated: bool,
    /// Host names, besides the known ones, that requests on loopback may carry. `*.lan` covers what is below `lan`.
    pub allowed_hosts: Vec<String>,
    /// Web origins that may call from a browser, e.g. `http://localhost:3000`.
    pub allowed_origins: Vec<String>,
    /// Compress JSON answers for clients that accept it.
    pub compression: bool,
    /// Bytes from which on an answer is compressed.
    pub compress_bytes_min: usize,
    /// Bytes of one gRPC message, both ways.
    pub grpc_message_bytes_max: usize,
    /// Inferences of one gRPC stream worked on at once; the next message waits in the client.
    pub stream_inflight_max: usize,
    /// Streams one HTTP/2 connection may have open.
    pub http2_streams_max: u32,
    /// Bytes one HTTP/2 stream may send ahead.
    pub http2_stream_window_bytes: u32,
    /// Bytes one HTTP/2 connection may send ahead, over all its streams.
    pub http2_connection_window_bytes: u32,
    /// Tensors in the memory of clients on this machine.
    pub shared_memory: SharedMemory,
    /// The OpenAI endpoints.
    pub openai: openai::Config,
}

/// Triton's system shared memory extension. For callers on this machine only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SharedMemory {
    /// Whether clients may register shared memory objects that this process can open.
    pub enabled: bool,
    /// Regions registered at once.
    pub regions_max: usize,
    /// Bytes of one region.
    pub region_bytes_max: u64,
}

impl Default for SharedMemory {
    /// Off. 1024 regions are some for each of hundreds of clients; 1 GiB is what all bodies may hold.
    fn default() -> Self {
        Self { enabled: false, regions_max: 1024, region_bytes_max: 1 << 30 }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_bytes_max: body_bytes_max(),
            inflight_bytes_max: inflight_bytes_max(),
            decoded_bytes_max: decoded_bytes_max(),
            inflate_ratio_max: inflate_ratio_max(),
            json_depth_max: json_depth_max(),
            header_bytes_max: header_bytes_max(),
            header_count_max: header_count_max(),
            inflight_max: inflight_max(),
            connections_max: connections_max(),
            header_read_timeout_s: header_read_timeout_s(),
            body_read_timeout_s: body_read_timeout_s(),
            default_domain: default_domain(),
            path_template: path_template(),
            api_key: None,
            allow_unauthenticated: false,
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
            compression: true,
            compress_bytes_min: compress_bytes_min(),
            grpc_message_bytes_max: grpc_message_bytes_max(),
            stream_inflight_max: stream_inflight_max(),
            http2_streams_max: http2_streams_max(),
            http2_stream_window_bytes: http2_stream_window_bytes(),
            http2_connection_window_bytes: http2_connection_window_bytes(),
            shared_memory: SharedMemory::default(),
            openai: openai::Config::default(),
        }
    }
}

impl Config {
    pub(super) const fn header_read_timeout(&self) -> Duration {
        Duration::from_secs(self.header_read_timeout_s)
    }

    pub(super) const fn body_read_timeout(&self) -> Duration {
        Duration::from_secs(self.body_read_timeout_s)
    }
}

/// 128 MiB: ten times the largest request of our sample models, JSON included.
const fn body_bytes_max() -> usize {
    128 * MIB
}

/// 1 GiB: eight of the largest bodies, and still a part of a small machine's memory.
const fn inflight_bytes_max() -> usize {
    1024 * MIB
}

/// 256 MiB: a JSON digit and its comma become up to eight bytes, so twice the body's bound.
const fn decoded_bytes_max() -> usize {
    256 * MIB
}

/// 1100: deflate cannot do more than 1032, so this only stops bombs in denser forms.
const fn inflate_ratio_max() -> usize {
    1100
}

/// 64: tensors have a handful of dimensions, and the parser's stack stays small.
const fn json_depth_max() -> usize {
    64
}

/// 32 KiB: twice what common proxies let through.
const fn header_bytes_max() -> usize {
    32 * KIB
}

/// 100, as hyper and most servers have it.
const fn header_count_max() -> usize {
    100
}

/// 4096: far above what one machine works on at a time; the queues of the models bound earlier.
const fn inflight_max() -> usize {
    4096
}

/// 16384: where the system allows fewer open files, accepting backs off instead.
const fn connections_max() -> usize {
    16_384
}

/// 60 s: as long as KServe's server keeps an idle connection.
const fn header_read_timeout_s() -> u64 {
    60
}

/// 60 s: 128 MiB at 20 Mbit/s.
const fn body_read_timeout_s() -> u64 {
    60
}

/// KServe's and Knative's default domain.
fn default_domain() -> String {
    "example.com".to_owned()
}

/// KServe's example of `ingress.pathTemplate`.
fn path_template() -> String {
    "/serving/{namespace}/{name}".to_owned()
}

/// 64 KiB: on one machine smaller answers arrive sooner as they are.
const fn compress_bytes_min() -> usize {
    64 * KIB
}

/// 64 MiB. KServe's 8 MiB refuses a batch of ordinary images.
const fn grpc_message_bytes_max() -> usize {
    64 * MIB
}

/// 64: what one client can keep a machine's workers busy with; more only wait, and their answers with them.
const fn stream_inflight_max() -> usize {
    64
}

/// 256: more concurrent calls than a model's queue holds.
const fn http2_streams_max() -> u32 {
    256
}

/// 8 MiB: HTTP/2's own 64 KiB costs a round trip every 64 KiB of an image.
const fn http2_stream_window_bytes() -> u32 {
    8 * 1024 * 1024
}

/// 32 MiB: four streams may run ahead fully.
const fn http2_connection_window_bytes() -> u32 {
    32 * 1024 * 1024
}

/// A secret that never shows itself: not in logs, not in `config show`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ApiKey(String);

impl ApiKey {
    /// Takes a key as it is.
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// Whether `shown` is this key. Takes as long for a wrong key as for the right one.
    #[must_use]
    pub fn matches(&self, shown: &[u8]) -> bool {
        let key = self.0.as_bytes();
        let differing = shown.iter().zip(key.iter().cycle()).fold(0_u8, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
        // The length is no secret; an empty key matches nothing.
        !key.is_empty() && shown.len() == key.len() && differing == 0
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

impl Serialize for ApiKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("hidden")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_shows_itself_neither_in_logs_nor_in_the_printed_config() {
        let config = Config { api_key: Some(ApiKey::new("s3cret")), ..Config::default() };
        assert!(!format!("{config:?}").contains("s3cret"));
        assert!(!serde_json::to_string(&config).unwrap().contains("s3cret"));
    }

    #[test]
    fn only_the_very_same_key_matches_and_an_empty_one_never() {
        let key = ApiKey::new("abc");
        assert!(key.matches(b"abc"));
        for wrong in [&b""[..], b"ab", b"abd", b"abca", b"abcabc"] {
            assert!(!key.matches(wrong));
        }
        assert!(!ApiKey::new("").matches(b""));
    }

    #[test]
    fn an_unknown_key_of_the_config_is_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"body_bytes_maks": 1}"#).is_err());
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
    }
}
