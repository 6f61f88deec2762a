//! How many logins may be in flight: learned from how long they take.

/// Additive increase, multiplicative decrease, as TCP does it.
///
/// Logins are numbered in the order of their beginning. A window is as many answers as the limit
/// when it begins. When a quarter of a window's answers were bad (late or failed), the limit is
/// halved at once, and what was in flight by then has no say any more: one moment of trouble halves
/// the limit once and not once per login. A window with a tenth of bad answers at most raises the
/// limit by a twentieth of the maximum (or by one), but only if the limit had been reached: answers
/// that come easily at half the limit say nothing about all of it.
///
/// A share rather than a single late answer decides, because behind the limit for the whole there
/// are streamers, one of which may be ill: its logins, held to its own limit, must not make all the
/// others wait.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    value: u32,
    most: u32,
    window: Window,
}

#[derive(Clone, Debug, Default)]
struct Window {
    /// Answers to logins that began earlier do not count.
    from: u64,
    answers: u32,
    bad: u32,
    reached: bool,
}

impl Limit {
    /// Begins at a fifth of `most`; `next` is the number of the next login.
    pub(super) fn new(most: u32, next: u64) -> Self {
        let most = most.max(1);
        Self {
            value: start(most),
            most,
            window: Window {
                from: next,
                ..Window::default()
            },
        }
    }

    /// Logins that may be in flight; at least 1.
    pub(super) fn value(&self) -> u32 {
        self.value
    }

    /// Another maximum; what was learned stays as far as it goes.
    pub(super) fn set_most(&mut self, most: u32) {
        self.most = most.max(1);
        self.value = self.value.min(self.most);
    }

    /// Back to the beginning, unless it is below that: what is known is no longer true.
    pub(super) fn restart(&mut self, next: u64) {
        let value = self.value.min(start(self.most));
        *self = Self::new(self.most, next);
        self.value = value;
    }

    /// A login began, and `in_flight` are now, of as many as may be.
    pub(super) fn began(&mut self, in_flight: u32, most: u32) {
        self.window.reached |= in_flight >= most;
    }

    /// Login number `login` was answered; `next` is the number of the next one.
    pub(super) fn answered(&mut self, login: u64, good: bool, next: u64) {
        let window = &mut self.window;
        if login < window.from {
            return;
        }
        window.answers += 1;
        window.bad += u32::from(!good);
        if window.bad.saturating_mul(4) >= self.value && window.bad > 0 {
            self.value = (self.value / 2).max(1);
            self.window = Window {
                from: next,
                ..Window::default()
            };
        } else if window.answers >= self.value {
            if window.reached && window.bad.saturating_mul(10) <= self.value {
                self.value = self.value.saturating_add(step(self.most)).min(self.most);
            }
            self.window = Window {
                from: window.from,
                ..Window::default()
            };
        }
    }
}

/// What a streamer that nothing is known of gets.
pub(super) fn start(most: u32) -> u32 {
    (most / 5).max(1)
}

/// From the start to the maximum in sixteen windows at most, whatever the maximum is.
fn step(most: u32) -> u32 {
    most.div_ceil(20)
}
