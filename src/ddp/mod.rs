//! DDP messages: what one is about, by its first bytes, and the few that are read or written whole.

pub mod envelope;
pub mod framing;
pub mod login;
pub mod message;
mod object;
pub mod published;
pub mod reply;
pub mod request;
mod scan;
mod usual;

pub use envelope::{Envelope, Kind, peek};
pub use framing::{
    Framing, Sender, messages_from_client, messages_from_streamer, single_message, wrap_for_client,
    wrap_for_streamer,
};
pub use login::{LoginReply, resume_token};
pub use message::{Connect, Connected, SyntaxError};
pub use published::Published;
pub use reply::ids;
pub use request::Request;
