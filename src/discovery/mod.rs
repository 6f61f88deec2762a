//! Where the streamers are.
