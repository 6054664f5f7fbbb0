//! The API in process: a server on a socket of its own, and a scripted loop behind it.

mod access;
mod compare;
mod discovery;
mod double;
mod http;
mod limits;
mod alerts;
mod metrics;
mod profiles;
mod server;
mod watches;
