//! The API in process: a server on a socket of its own, and a scripted loop behind it.

mod access;
mod alerts;
mod compare;
mod discovery;
mod double;
mod http;
mod limits;
mod metrics;
mod profiles;
mod server;
mod tls;
mod watches;
