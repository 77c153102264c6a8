//! Who holds which block of keys and values, and which blocks hold what many prompts begin with.
//!
//! A full block is known by its tokens and all before them. When nobody needs it any more it stays, until its room is
//! wanted: the longest unused goes first, and of one sequence the end before the beginning.

use super::kernels::BLOCK_TOKENS;
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;

/// What a full block holds: its tokens, and by the block before it all that went before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Content {
    /// The identity of the content before it; 0 at the beginning of a sequence.
    before: u64,
    tokens: [u32; BLOCK_TOKENS],
}

#[derive(Debug, Clone, Default)]
struct Block {
    users: u32,
    held: Option<(Content, u64)>,
    /// Which of its entries in the line of free blocks counts.
    stamp: u64,
}

/// All blocks of one model.
#[derive(Debug)]
pub(super) struct Blocks {
    all: Vec<Block>,
    known: HashMap<Content, u32>,
    /// Blocks that nobody uses, the first to go in front; entries whose stamp has passed count for nothing.
    free: VecDeque<(u32, u64)>,
    free_count: usize,
    stamps: u64,
    identities: RandomState,
}

impl Blocks {
    pub(super) fn new(count: usize) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let all = vec![Block::default(); count as usize];
        let free = (0..count).map(|block| (block, 0)).collect();
        Self { all, known: HashMap::new(), free, free_count: count as usize, stamps: 0, identities: RandomState::new() }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Blocks that nobody uses, whatever they hold.
    pub(super) const fn free(&self) -> usize {
        self.free_count
    }

    /// A block for new content; nothing where all are used.
    pub(super) fn take(&mut self) -> Option<u32> {
        loop {
            let (id, stamp) = self.free.pop_front()?;
            let block = &mut self.all[id as usize];
            if block.users > 0 || block.stamp != stamp {
                continue;
            }
            if let Some((content, _)) = block.held.take() {
                self.known.remove(&content);
            }
            block.users = 1;
            self.free_count -= 1;
            return Some(id);
        }
    }

    /// The blocks that hold the beginning of some tokens already, as many as there are; they are used from now on.
    pub(super) fn reuse(&mut self, tokens: &[u32]) -> Vec<u32> {
        let (mut found, mut before) = (Vec::new(), 0);
        for tokens in tokens.as_chunks::<BLOCK_TOKENS>().0 {
            let Some(&id) = self.known.get(&Content { before, tokens: *tokens }) else { break };
            let block = &mut self.all[id as usize];
            before = block.held.map_or(0, |(_, identity)| identity);
            if block.users == 0 {
                self.free_count -= 1;
            }
            block.users += 1;
            found.push(id);
        }
        found
    }

    /// Blocks that a sequence holds are used by another one as well.
    pub(super) fn share(&mut self, blocks: &[u32]) -> Vec<u32> {
        for &id in blocks {
            self.all[id as usize].users += 1;
        }
        blocks.to_vec()
    }

    /// Makes the full block `at` of a sequence known by its tokens. Where another block holds the same, that one stays known.
    pub(super) fn publish(&mut self, blocks: &[u32], at: usize, tokens: &[u32]) {
        let before = match at.checked_sub(1) {
            None => 0,
            // The one before is known to nobody: then this one never can be.
            Some(before) => match self.all[blocks[before] as usize].held {
                Some((_, identity)) => identity,
                None => return,
            },
        };
        let Some(tokens) = tokens[at * BLOCK_TOKENS..].first_chunk::<BLOCK_TOKENS>() else { return };
        let content = Content { before, tokens: *tokens };
        let identity = match self.known.get(&content) {
            Some(&twin) => self.all[twin as usize].held.map_or(0, |(_, identity)| identity),
            None => self.identities.hash_one(content) | 1,
        };
        let block = &mut self.all[blocks[at] as usize];
        if block.held.is_none() {
            block.held = Some((content, identity));
            self.known.entry(content).or_insert(blocks[at]);
        }
    }

    /// A sequence lets go of its blocks.
    pub(super) fn release(&mut self, blocks: &mut Vec<u32>) {
        for id in blocks.drain(..).rev() {
            let block = &mut self.all[id as usize];
            block.users -= 1;
            if block.users > 0 {
                continue;
            }
            self.stamps += 1;
            block.stamp = self.stamps;
            self.free_count += 1;
            // What nobody can find again goes first.
            match block.held {
                Some((content, _)) if self.known.get(&content) == Some(&id) => self.free.push_back((id, self.stamps)),
                _ => {
                    block.held = None;
                    self.free.push_front((id, self.stamps));
                }
            }
        }
        self.tidy();
    }

    /// Drops entries that count for nothing, once they are the larger part.
    fn tidy(&mut self) {
        if self.free.len() > 2 * self.all.len() + 64 {
            let all = &self.all;
            self.free.retain(|(id, stamp)| all[*id as usize].users == 0 && all[*id as usize].stamp == *stamp);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(count: u32, salt: u32) -> Vec<u32> {
        (0..count).map(|token| token * 7 + salt).collect()
    }

    /// Takes and publishes blocks for all full blocks of some tokens.
    fn remember(blocks: &mut Blocks, tokens: &[u32]) -> Vec<u32> {
        let mut held = blocks.reuse(tokens);
        for at in held.len()..tokens.len() / BLOCK_TOKENS {
            held.push(blocks.take().expect("there is room"));
            blocks.publish(&held, at, tokens);
        }
        held
    }

    #[test]
    fn what_two_prompts_begin_with_is_held_once() {
        let mut blocks = Blocks::new(8);
        let (first, mut second) = (tokens(48, 1), tokens(48, 1));
        second[40] = 9999;
        let (mut one, mut other) = (remember(&mut blocks, &first), remember(&mut blocks, &second));
        assert_eq!((one[..2] == other[..2], one[2] == other[2], blocks.free()), (true, false, 4));
        blocks.release(&mut one);
        assert_eq!(blocks.free(), 5);
        blocks.release(&mut other);
        assert_eq!(blocks.free(), 8);
        assert_eq!(blocks.reuse(&first).len(), 3, "nobody needs them, and still they are there");
    }

    #[test]
    fn blocks_that_two_share_are_free_once_both_let_go() {
        let mut blocks = Blocks::new(4);
        let mut one = vec![blocks.take().unwrap(), blocks.take().unwrap()];
        let mut other = blocks.share(&one);
        assert_eq!((&other, blocks.free()), (&one, 2));
        blocks.release(&mut one);
        assert_eq!(blocks.free(), 2);
        blocks.release(&mut other);
        assert_eq!(blocks.free(), 4);
    }

    #[test]
    fn the_same_tokens_behind_others_are_not_the_same() {
        let mut blocks = Blocks::new(8);
        let first = tokens(32, 1);
        remember(&mut blocks, &first);
        let mut moved = tokens(16, 99);
        moved.extend(&first[16..]);
        assert!(blocks.reuse(&moved).is_empty());
    }

    #[test]
    fn when_room_is_wanted_the_longest_unused_goes_first_and_ends_before_beginnings() {
        let mut blocks = Blocks::new(4);
        let (old, new) = (tokens(32, 1), tokens(32, 2));
        let mut held = remember(&mut blocks, &old);
        blocks.release(&mut held);
        let mut held = remember(&mut blocks, &new);
        blocks.release(&mut held);
        let mut room = vec![blocks.take().unwrap()];
        let mut left = blocks.reuse(&old);
        assert_eq!(left.len(), 1, "the end of the older one went");
        blocks.release(&mut left);
        room.extend([blocks.take().unwrap(), blocks.take().unwrap(), blocks.take().unwrap()]);
        assert_eq!((blocks.take(), blocks.free()), (None, 0));
        assert!(blocks.reuse(&old).is_empty() && blocks.reuse(&new).is_empty());
        blocks.release(&mut room);
        assert_eq!(blocks.free(), 4);
    }

    #[test]
    fn blocks_come_and_go_for_ever_in_bounded_room() {
        let mut blocks = Blocks::new(4);
        for round in 0..2000 {
            let mut held = remember(&mut blocks, &tokens(32 + 16 * (round % 2), round % 5));
            blocks.release(&mut held);
            assert_eq!(blocks.free(), 4);
        }
        assert!(blocks.free.len() <= 2 * 4 + 64 + 4 && blocks.known.len() <= 4);
    }
}
