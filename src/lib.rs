//! kserved serves KServe resources on one machine, without Kubernetes.
//!
//! The house has floors. A file uses its own folder and lower floors only; `tests/it/floors.rs` keeps it.
//!
//! ```text
//! 7  house      server  config  telemetry  shutdown  cli  main      builds everything, knows everyone
//! 6  doors|mind protocol/            |  control/                    neighbours that never see each other
//! 5  roads      router/                                             names -> something that answers
//! 4  work       pool/                                               queue, workers
//! 3  hands      storage/             |  engine/                     the only ones that touch model files
//! 2  rules      manifest validate store resolve/ codec/             pure: no I/O, no tokio, no clock
//! 1  words      api/   inference                                    KServe's nouns, the request and its answer
//! 0  ground     tensor/   place   observe   causes                  bytes, places in files, metric names, errors in words
//! ```

pub mod causes;
pub mod observe;
pub mod place;
pub mod tensor;

pub mod api;
pub mod inference;

pub mod codec;
pub mod manifest;
pub mod resolve;
pub mod store;
pub mod validate;

pub mod engine;
pub mod storage;

pub mod pool;

pub mod router;

pub mod control;
pub mod protocol;

pub mod cli;
pub mod config;
pub mod server;
pub mod shutdown;
pub mod telemetry;
