//! Building, reloading and ending the process.
