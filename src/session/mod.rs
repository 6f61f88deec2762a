//! One client as the gateway sees it, as a machine without I/O.
