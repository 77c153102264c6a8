//! When the room that a large step needed is given back: prompts are read with hundreds of tokens at once, answers grow by few.

/// Small steps in a row before room is given back.
const SMALL_STEPS: u32 = 32;
/// How much smaller a step is than the room, to count as small.
const SMALLER: usize = 4;

/// The tokens that there is room for, and how long they were far more than needed.
#[derive(Debug, Default)]
pub(in crate::engine::generation) struct Room {
    tokens: usize,
    small_steps: u32,
}

impl Room {
    /// Notes a step; true where the room should be given back before it.
    pub(in crate::engine::generation) const fn is_idle(&mut self, tokens: usize) -> bool {
        if tokens.saturating_mul(SMALLER) > self.tokens {
            self.small_steps = 0;
            if tokens > self.tokens {
                self.tokens = tokens;
            }
            return false;
        }
        self.small_steps += 1;
        let idle = self.small_steps >= SMALL_STEPS;
        if idle {
            (self.small_steps, self.tokens) = (0, tokens);
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_goes_after_many_small_steps_and_not_while_large_ones_come() {
        let mut room = Room::default();
        assert!(!room.is_idle(256));
        for _ in 0..3 {
            assert!((1..SMALL_STEPS).all(|_| !room.is_idle(8)));
            assert!(!room.is_idle(200), "a large one begins the count anew");
        }
        assert!((1..SMALL_STEPS).all(|_| !room.is_idle(8)) && room.is_idle(8));
        assert!((0..100).all(|_| !room.is_idle(8)), "there is nothing left to give back");
    }
}
