//! The doors from outside: one table of requests for both, sockets with bad clients, and what they share.

mod generate;
mod graphs;
mod grpc_logs;
mod http;
mod sockets;
mod streams;
pub(super) mod support;
mod table;
