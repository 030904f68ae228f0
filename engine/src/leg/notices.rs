//! What a leg has to say before `poll_output` goes on: a queue as long as one drain can fill.

use super::LegEvent;
use crate::prefetch::prefetch;

/// Events between two drains: each kind happens at most once there, `IceNominated` twice (a browser may move at once).
const NOTICES_MAX: usize = 8;

/// Events waiting for `poll_output`. A ninth would be lost; the end of the leg never is, since it takes the last place.
#[derive(Debug, Default)]
pub(super) struct Notices {
    events: [Option<LegEvent>; NOTICES_MAX],
    count: usize,
}

impl Notices {
    /// Asks for what `is_empty` reads.
    pub(super) fn prefetch(&self) {
        prefetch(&self.count);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn push(&mut self, event: LegEvent) {
        if let LegEvent::Ended(_) = event {
            self.count = self.count.min(NOTICES_MAX - 1);
        }
        if let Some(place) = self.events.get_mut(self.count) {
            *place = Some(event);
            self.count += 1;
        }
    }

    pub(super) fn pop(&mut self) -> Option<LegEvent> {
        let first = self.events[0].take()?;
        self.events.rotate_left(1);
        self.count -= 1;
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Cause;

    #[test]
    fn events_come_out_in_order_and_the_end_always_finds_room() {
        let mut notices = Notices::default();
        for _ in 0..20 {
            notices.push(LegEvent::FirstSent);
        }
        notices.push(LegEvent::Ended(Cause::Closed));
        let said: Vec<_> = core::iter::from_fn(|| notices.pop()).collect();
        assert_eq!(said.len(), NOTICES_MAX);
        assert!(said[..7].iter().all(|event| *event == LegEvent::FirstSent));
        assert_eq!(said[7], LegEvent::Ended(Cause::Closed));
        notices.push(LegEvent::FirstReceived);
        assert_eq!(notices.pop(), Some(LegEvent::FirstReceived));
        assert_eq!(notices.pop(), None);
    }
}
