//! WebSocket frames as bytes: headers, masks, closes, the two handshakes (RFC 6455). No I/O.
