//! Properties over random input. An independent implementation is the oracle where there is one.

mod balance;
mod ddp;
mod emptying;
mod frames;
mod journal;
mod logins;
mod peer;
mod pool;
mod portable;
mod quotas;
mod replicas;
mod requests;
mod stream;
mod text;
