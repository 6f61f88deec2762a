//! An embedded deployment to try the gateway with.
