//! One file on this disk while it comes: which of its bytes were written, which are on their way, which were hashed.

use super::super::source::{Ask, Digest, Refusal, RemoteFile};
use super::ledger::Note;
use super::ranges::Ranges;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A file as far as it came. Shared by all who write it.
#[derive(Debug)]
pub(super) struct Body {
    /// The path below the model's folder.
    pub(super) name: String,
    state: Mutex<State>,
}

/// What is known of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// Where the bytes lie; another place for each version, so that a late write of an old one never meets the new one.
    pub(super) place: Option<PathBuf>,
    /// How often the file was begun anew.
    pub(super) epoch: u32,
    /// Of which version the bytes are.
    pub(super) validator: Option<String>,
    /// Bytes of the whole file.
    pub(super) total: Option<u64>,
    /// Bytes that were written.
    pub(super) written: Ranges,
    /// Bytes that were written or that someone is to write.
    pub(super) claimed: Ranges,
    /// Bytes handed to the hashing thread, from the first on.
    pub(super) hashed: u64,
    /// The server sends the whole file whatever is asked for.
    pub(super) ranges_ignored: bool,
    /// What the whole file hashes to.
    pub(super) sha256: Option<[u8; 32]>,
    /// Something changed since it was last noted on disk.
    pub(super) dirty: bool,
}

/// What an answer says before its bytes.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) offset: u64,
    pub(super) total: Option<u64>,
    pub(super) validator: Option<String>,
    pub(super) digest: Option<Digest>,
}

/// Bytes that one request is to bring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) from: u64,
    /// Where it ends; `u64::MAX` while nobody knows the length.
    pub(super) until: u64,
    /// The request goes to the end of the file, so the claim may grow while it runs.
    pub(super) open: bool,
}

impl Body {
    /// A file of which `note` says what is on disk already.
    pub(super) fn new(remote: &RemoteFile, note: Option<(PathBuf, Note)>) -> Self {
        let state = note.map_or_else(|| State::fresh(remote), |(place, note)| State::of_note(place, note));
        Self { name: remote.path.clone(), state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes bytes that were written to `place` and tells how many of them are new; bytes of an older version count for nothing.
    pub(super) fn wrote(&self, place: &Path, from: u64, until: u64) -> u64 {
        let mut state = self.state();
        if state.place.as_deref() != Some(place) {
            return 0;
        }
        let before = state.written.bytes();
        state.written.insert(from, until);
        state.claimed.insert(from, until);
        state.dirty = true;
        state.written.bytes() - before
    }
}

impl State {
    pub(super) fn fresh(remote: &RemoteFile) -> Self {
        Self { validator: remote.validator.clone(), total: remote.size_bytes, ..Self::default() }
    }

    /// The same file with nothing of it here, after `self`.
    pub(super) fn anew(&self, remote: &RemoteFile) -> Self {
        Self { epoch: self.epoch + 1, dirty: true, ..Self::fresh(remote) }
    }

    fn of_note(place: PathBuf, note: Note) -> Self {
        Self {
            place: Some(place),
            validator: note.validator,
            total: note.total,
            claimed: note.written.clone(),
            written: note.written,
            sha256: note.sha256,
            ..Self::default()
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.total.is_some_and(|total| self.written.covers(total))
    }

    /// Whether several requests may share the file.
    pub(super) fn comes_in_parts(&self, part_bytes: u64) -> bool {
        !self.ranges_ignored && self.validator.is_some() && self.total.is_some_and(|total| total >= part_bytes.saturating_mul(2))
    }

    /// The first bytes that nobody brings yet.
    pub(super) fn claim(&mut self, part_bytes: u64) -> Option<Claim> {
        let (from, next) = self.claimed.first_gap();
        let end = next.or(self.total).unwrap_or(u64::MAX);
        if from >= end {
            return None;
        }
        let until = if self.comes_in_parts(part_bytes) { end.min(part_end(from, part_bytes)) } else { end };
        self.claimed.insert(from, until);
        Some(Claim { from, until, open: until == self.total.unwrap_or(u64::MAX) })
    }

    /// Lets a running request bring the next part too, if nobody else does.
    pub(super) fn extend(&mut self, claim: &mut Claim, part_bytes: u64) -> bool {
        let end = self.total.unwrap_or(u64::MAX);
        if !claim.open || claim.until >= end || self.claimed.contains(claim.until) {
            return false;
        }
        let next = part_end(claim.until, part_bytes).min(end);
        self.claimed.insert(claim.until, next);
        claim.until = next;
        true
    }

    /// Gives back what a request did not bring.
    pub(super) fn release(&mut self, claim: &Claim) {
        self.claimed.remove(claim.from, claim.until);
        self.claimed.absorb(&self.written);
    }

    pub(super) fn ask(&self, claim: &Claim) -> Ask {
        Ask { from: claim.from, until: (!claim.open).then_some(claim.until), validator: self.validator.clone() }
    }

    /// Takes an answer to `claim`, or says why its bytes do not go with what is here.
    pub(super) fn begin(&mut self, claim: &mut Claim, answer: &Head, part_bytes: u64) -> Result<(), Refusal> {
        let changed = |what: &str| Err(Refusal::Restart(format!("the file changed while it came: another {what}")));
        let differ = |one: &Option<String>, two: &Option<String>| one.is_some() && two.is_some() && one != two;
        let begun = self.written.bytes() > 0 || answer.offset > 0;
        if begun && differ(&self.validator, &answer.validator) {
            return changed("version");
        }
        if self.total.is_some() && answer.total.is_some() && self.total != answer.total {
            return changed("length");
        }
        if answer.offset != claim.from {
            self.take_whole(claim, answer)?;
        }
        if self.written.bytes() == 0 || self.validator.is_none() {
            self.validator = answer.validator.clone().or(self.validator.take());
        }
        self.total = self.total.or(answer.total);
        self.narrow(claim, part_bytes);
        Ok(())
    }

    /// The server sent the whole file though a part was asked for. Of the same version it is good to have.
    fn take_whole(&mut self, claim: &mut Claim, answer: &Head) -> Result<(), Refusal> {
        let same = answer.validator.is_some() && answer.validator == self.validator;
        if answer.offset != 0 || !same {
            return Err(Refusal::Restart("the server sent another part than it was asked for".to_owned()));
        }
        self.ranges_ignored = true;
        self.release(claim);
        let others_come = self.claimed != self.written;
        *claim = Claim { from: 0, until: if others_come { 0 } else { self.total.unwrap_or(u64::MAX) }, open: !others_come };
        self.claimed.insert(claim.from, claim.until);
        Ok(())
    }

    /// With the length known, an open claim takes one part at a time and leaves the others to whoever comes.
    fn narrow(&mut self, claim: &mut Claim, part_bytes: u64) {
        let Some(total) = self.total else { return };
        if !claim.open {
            return;
        }
        let until = if self.comes_in_parts(part_bytes) { part_end(claim.from, part_bytes).min(total) } else { total };
        self.claimed.remove(until.min(claim.until), claim.until);
        self.claimed.absorb(&self.written);
        claim.until = claim.until.min(until);
    }
}

fn part_end(from: u64, part_bytes: u64) -> u64 {
    (from / part_bytes.max(1) + 1).saturating_mul(part_bytes.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(total: u64) -> State {
        State { validator: Some("a".to_owned()), total: Some(total), ..State::default() }
    }

    fn answer(offset: u64, total: u64, validator: &str) -> Head {
        Head { offset, total: Some(total), validator: Some(validator.to_owned()), digest: None }
    }

    #[test]
    fn parts_are_claimed_in_order_and_given_back() {
        let mut state = known(25);
        let claims: Vec<_> = std::iter::from_fn(|| state.claim(10)).map(|claim| (claim.from, claim.until, claim.open)).collect();
        assert_eq!(claims, [(0, 10, false), (10, 20, false), (20, 25, true)]);
        state.written.insert(10, 14);
        state.release(&Claim { from: 10, until: 20, open: false });
        assert_eq!(state.claim(10), Some(Claim { from: 14, until: 20, open: false }));
    }

    #[test]
    fn a_file_of_unknown_length_is_one_claim_until_its_length_is_known() {
        let mut state = State::default();
        let mut claim = state.claim(10).unwrap();
        assert_eq!((claim.clone(), state.claim(10)), (Claim { from: 0, until: u64::MAX, open: true }, None));
        state.begin(&mut claim, &answer(0, 25, "a"), 10).unwrap();
        assert_eq!(claim.until, 10);
        assert_eq!(state.claim(10).map(|other| other.from), Some(10));
        assert!(!state.extend(&mut claim, 10), "the next part is another's");
    }

    #[test]
    fn a_running_request_goes_on_where_nobody_else_comes() {
        let mut state = State::default();
        let mut claim = state.claim(10).unwrap();
        state.begin(&mut claim, &answer(0, 25, "a"), 10).unwrap();
        assert!(state.extend(&mut claim, 10) && state.extend(&mut claim, 10));
        assert_eq!((claim.until, state.claim(10)), (25, None));
        assert!(!state.extend(&mut claim, 10));
    }

    #[test]
    fn another_version_another_length_and_another_part_begin_the_file_anew() {
        for other in [answer(10, 25, "b"), answer(10, 26, "a"), answer(12, 25, "a"), answer(0, 25, "b")] {
            let mut state = known(25);
            state.written.insert(0, 10);
            state.claimed.insert(0, 10);
            let mut claim = state.claim(10).unwrap();
            assert!(matches!(state.begin(&mut claim, &other, 10), Err(Refusal::Restart(_))));
        }
    }

    #[test]
    fn a_server_that_ignores_ranges_sends_the_file_once() {
        let mut state = known(25);
        state.written.insert(0, 10);
        state.claimed.insert(0, 10);
        let mut claim = state.claim(10).unwrap();
        state.begin(&mut claim, &answer(0, 25, "a"), 10).unwrap();
        assert_eq!((claim.from, claim.until, state.claim(10)), (0, 25, None));
        let mut state = known(25);
        let (_first, mut second) = (state.claim(10).unwrap(), state.claim(10).unwrap());
        state.begin(&mut second, &answer(0, 25, "a"), 10).unwrap();
        assert_eq!((second.from, second.until), (0, 0), "another request brings the file already");
    }
}
