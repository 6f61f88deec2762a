//! Streamers: who they are, how they are, who gets a place on one. No I/O.
