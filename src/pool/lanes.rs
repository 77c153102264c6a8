//! Who waits, by priority, and who goes next: the highest first, and now and then the one that waits longest.

use super::batch::{self, Batching};
use super::queue::Entry;
use crate::inference::Priority;
use std::collections::VecDeque;
use std::time::Instant;

/// Each so many runs the longest waiting entry goes first, so that none waits for ever behind those of higher priority.
const TURN_OF_THE_OLDEST: u32 = 8;
/// Entries looked at when a batch is put together.
const COMPANY_MAX: usize = 1024;

/// The waiting entries; the lane of the highest priority comes first.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: [VecDeque<Entry>; Priority::COUNT],
    taken: u32,
}

impl Lanes {
    pub(super) fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.lanes[entry.priority.lane()].push_back(entry);
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.lanes.iter_mut().for_each(|lane| lane.retain(&keep));
    }

    pub(super) fn drain(&mut self) -> Vec<Entry> {
        self.lanes.iter_mut().flat_map(|lane| lane.drain(..)).collect()
    }

    /// How many go before a new entry of that priority.
    pub(super) fn ahead_of(&self, priority: Priority) -> usize {
        self.lanes[..=priority.lane()].iter().map(VecDeque::len).sum()
    }

    /// Takes out the newest entry of the lowest priority below that one.
    pub(super) fn displace(&mut self, priority: Priority) -> Option<Entry> {
        self.lanes[priority.lane() + 1..].iter_mut().rev().find_map(VecDeque::pop_back)
    }

    /// The entry that goes next.
    pub(super) fn leader(&self) -> Option<&Entry> {
        self.lanes[self.leading_lane()?].front()
    }

    fn leading_lane(&self) -> Option<usize> {
        let mut waiting = (0..self.lanes.len()).filter_map(|lane| Some((lane, self.lanes[lane].front()?.queued_at)));
        let first = waiting.next()?;
        if !(self.taken + 1).is_multiple_of(TURN_OF_THE_OLDEST) {
            return Some(first.0);
        }
        Some(waiting.fold(first, |oldest, other| if other.1 < oldest.1 { other } else { oldest }).0)
    }

    /// The rows that would run with the leader, and the first deadline among them.
    pub(super) fn company(&self, leader: &Entry, batching: &Batching) -> (usize, Instant) {
        let mut group = batch::Group::of(leader);
        let mut deadline = leader.deadline;
        let others = self.lanes.iter().flatten().filter(|entry| !std::ptr::eq(*entry, leader)).take(COMPANY_MAX);
        for entry in others {
            if group.admit(leader, entry, batching) {
                deadline = deadline.min(entry.deadline);
            }
        }
        (group.rows(), deadline)
    }

    /// Moves the leader, and those that can run with it, to `batch`.
    pub(super) fn take(&mut self, batching: Option<&Batching>, batch: &mut Vec<Entry>) {
        let Some(lane) = self.leading_lane() else { return };
        self.taken = self.taken.wrapping_add(1);
        let Some(leader) = self.lanes[lane].pop_front() else { return };
        batch.push(leader);
        let Some(batching) = batching.filter(|_| !batch::is_alone(&batch[0])) else { return };
        let mut group = batch::Group::of(&batch[0]);
        for lane in &mut self.lanes {
            let mut at = 0;
            while at < lane.len().min(COMPANY_MAX) && group.rows() < batching.instances_max {
                if group.admit(&batch[0], &lane[at], batching) {
                    batch.extend(lane.remove(at));
                } else {
                    at += 1;
                }
            }
        }
    }
}
