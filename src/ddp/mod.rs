//! DDP messages: what one is about, by its first bytes, and the few that are read or written whole.
