//! SockJS as text: URLs, frames, the info and iframe pages. No I/O.
