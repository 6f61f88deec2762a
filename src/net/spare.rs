//! Descriptors that are kept for the moment when the system has no others to give.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::{Domain, Socket, Type};

/// Descriptors of no use but that one that is given up makes room for a client, who can then be told
/// that there is no room.
#[derive(Debug)]
pub(super) struct Spares(Mutex<Vec<Socket>>);

/// The room of one; a spare again when dropped, after whatever took it.
#[derive(Debug)]
pub(super) struct Room(Arc<Spares>);

impl Spares {
    /// As many of [`MOST`] as the system gives.
    pub(super) fn new() -> Arc<Self> {
        let spares = Arc::new(Self(Mutex::new(Vec::with_capacity(MOST))));
        spares.refill();
        spares
    }

    /// Gives one up. `None`: all are.
    pub(super) fn make_room(self: &Arc<Self>) -> Option<Room> {
        let given_up = self.kept().pop();
        given_up.map(|_| Room(self.clone()))
    }

    /// Takes again what had to be given up for good.
    pub(super) fn refill(&self) {
        let mut kept = self.kept();
        while kept.len() < MOST {
            // Neither a file nor an address is needed for this kind.
            match Socket::new(Domain::UNIX, Type::DGRAM, None) {
                Ok(socket) => kept.push(socket),
                Err(_) => return,
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Socket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.refill();
    }
}

/// Clients that are told so at the same time, for each listener.
pub(super) const MOST: usize = 8;

#[cfg(test)]
mod tests {
    use super::{MOST, Spares};

    #[test]
    fn what_is_given_up_comes_back() {
        let spares = Spares::new();
        assert_eq!(spares.kept().len(), MOST);
        let rooms: Vec<_> = (0..MOST).map(|_| spares.make_room().unwrap()).collect();
        assert_eq!(spares.kept().len(), 0);
        drop(rooms);
        assert_eq!(spares.kept().len(), MOST);
    }
}
