//! Building, reloading and ending the process.
pub mod pool_task;
