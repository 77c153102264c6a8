//! Which revision gets how many of the requests: KServe's `canaryTrafficPercent` as a state machine.
//!
//! Pure: what was rolled out before, what the spec asks for and what is ready give the targets, and the targets give
//! what is remembered. KServe takes one of these steps each time it reconciles; [`settle`] takes them until nothing
//! changes any more.
//!
//! Source: reference 1.8; KServe `ksvc_reconciler.go` (targets), `inference_service_status.go` (what is remembered).

use super::revision::RevisionName;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The names in front of a host that reach one revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tag {
    /// The newest ready revision, where `serving.kserve.io/enable-tag-routing` asks for it.
    Latest,
    /// The one that it is to replace, as long as requests are split.
    Prev,
}

impl Tag {
    /// The word in hosts and in the status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latest => "latest",
            Self::Prev => "prev",
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is remembered of a component's revisions between two changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Book {
    /// The last revision that had all the requests.
    pub latest_rolledout: Option<RevisionName>,
    /// The one that had them before.
    pub previous_rolledout: Option<RevisionName>,
}

/// The newest revision that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latest<'a> {
    /// Its name.
    pub ready: &'a RevisionName,
    /// Whether there is no newer one that is not ready (KServe: `latestCreatedRevision` is `latestReadyRevision`).
    pub is_newest: bool,
}

/// What the spec asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// `canaryTrafficPercent`.
    pub percent: Option<u32>,
    /// Whether the newest revision has a tag.
    pub tag_latest: bool,
}

/// The part of the requests that goes to one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The revision.
    pub revision: RevisionName,
    /// Whether the target follows the newest ready revision.
    pub latest: bool,
    /// 0 to 100; all shares of a service together are 100.
    pub percent: u32,
    /// The name in front of its host.
    pub tag: Option<Tag>,
}

/// The targets that follow from what is remembered. Where nothing was rolled out yet, the percentage says nothing.
#[must_use]
pub fn targets(book: &Book, ready: &RevisionName, wish: Wish) -> Vec<Share> {
    let tag = wish.tag_latest.then_some(Tag::Latest);
    let latest = |percent| Share { revision: ready.clone(), latest: true, percent, tag };
    match (wish.percent.map(|percent| percent.min(100)), &book.latest_rolledout) {
        (Some(percent), Some(rolledout)) if percent < 100 => {
            let rest = Share { revision: rolledout.clone(), latest: false, percent: 100 - percent, tag: Some(Tag::Prev) };
            vec![latest(percent), rest]
        }
        _ => vec![latest(100)],
    }
}

impl Book {
    /// What is remembered once these targets are in place.
    #[must_use]
    pub fn noted(&self, shares: &[Share], latest: Latest<'_>) -> Self {
        let Some(share) = shares.iter().find(|share| share.latest && share.revision == *latest.ready) else { return self.clone() };
        if self.latest_rolledout.as_ref() != Some(latest.ready) {
            return if share.percent == 100 { self.rolled_out(latest.ready) } else { self.clone() };
        }
        // The newest revision had all requests and is to have fewer: it is rolled back to the one before it. With a
        // newer one on its way it is that one which the percentage is meant for.
        let on_it: u32 = shares.iter().filter(|share| share.revision == *latest.ready).map(|share| share.percent).sum();
        match &self.previous_rolledout {
            Some(previous) if latest.is_newest && share.percent < 100 && on_it == 100 => {
                Self { latest_rolledout: Some(previous.clone()), ..self.clone() }
            }
            _ => self.clone(),
        }
    }

    fn rolled_out(&self, ready: &RevisionName) -> Self {
        Self { latest_rolledout: Some(ready.clone()), previous_rolledout: self.latest_rolledout.clone() }
    }

    /// Whether a revision may be asked for again.
    #[must_use]
    pub fn names(&self, revision: &RevisionName) -> bool {
        [&self.latest_rolledout, &self.previous_rolledout].into_iter().flatten().any(|name| name == revision)
    }
}

/// Targets and what is remembered, once KServe's steps change nothing any more.
#[must_use]
pub fn settle(book: &Book, latest: Latest<'_>, wish: Wish) -> (Book, Vec<Share>) {
    let mut book = book.clone();
    loop {
        let shares = targets(&book, latest.ready, wish);
        let noted = book.noted(&shares, latest);
        // It ends: a roll-out and a roll-back cannot follow from one percentage, and each happens once.
        if noted == book {
            return (book, shares);
        }
        book = noted;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn revision(number: u64) -> RevisionName {
        RevisionName { component: "iris-predictor".to_owned(), number }
    }

    /// A component that lives through changes, as KServe's does.
    #[derive(Debug, Default)]
    struct Life {
        book: Book,
        ready: u64,
        created: u64,
    }

    impl Life {
        /// A new model that becomes ready.
        fn rolls_out(&mut self, percent: Option<u32>) -> String {
            self.created += 1;
            self.ready = self.created;
            self.asks(percent)
        }

        /// A new model that does not become ready.
        fn fails(&mut self, percent: Option<u32>) -> String {
            self.created += 1;
            self.asks(percent)
        }

        /// The same model with another percentage: `revision:percent:tag` of each target, then what is remembered.
        fn asks(&mut self, percent: Option<u32>) -> String {
            let (ready, is_newest) = (revision(self.ready), self.ready == self.created);
            let (book, shares) = settle(&self.book, Latest { ready: &ready, is_newest }, Wish { percent, tag_latest: false });
            self.book = book;
            let number = |name: &Option<RevisionName>| name.as_ref().map_or(0, |name| name.number);
            let tag = |share: &Share| share.tag.map_or(String::new(), |tag| format!(":{tag}"));
            let shares = shares.iter().map(|share| format!("{}:{}{}", share.revision.number, share.percent, tag(share)));
            let (rolledout, previous) = (number(&self.book.latest_rolledout), number(&self.book.previous_rolledout));
            format!("{} | {rolledout} {previous}", shares.collect::<Vec<_>>().join(" "))
        }
    }

    #[test]
    fn the_first_revision_gets_all_requests_whatever_the_percentage() {
        assert_eq!(Life::default().rolls_out(None), "1:100 | 1 0");
        let ready = revision(1);
        let first = targets(&Book::default(), &ready, Wish { percent: Some(10), tag_latest: false });
        assert_eq!((first.len(), first[0].percent), (1, 100));
        // From then on the percentage splits the first revision from itself, as it does in KServe.
        assert_eq!(Life::default().rolls_out(Some(10)), "1:10 1:90:prev | 1 0");
    }

    #[test]
    fn a_new_model_with_a_percentage_takes_that_share_and_the_old_one_the_rest() {
        let mut life = Life::default();
        life.rolls_out(None);
        assert_eq!(life.rolls_out(Some(10)), "2:10 1:90:prev | 1 0");
        assert_eq!(life.asks(Some(30)), "2:30 1:70:prev | 1 0");
        assert_eq!(life.rolls_out(Some(30)), "3:30 1:70:prev | 1 0", "the second canary replaces the first");
    }

    #[test]
    fn a_dark_launch_gets_nothing() {
        let mut life = Life::default();
        life.rolls_out(None);
        assert_eq!(life.rolls_out(Some(0)), "2:0 1:100:prev | 1 0");
    }

    #[test]
    fn without_the_field_or_with_a_hundred_a_canary_is_promoted() {
        for promoted in [None, Some(100)] {
            let mut life = Life::default();
            life.rolls_out(None);
            life.rolls_out(Some(10));
            assert_eq!(life.asks(promoted), "2:100 | 2 1");
            assert_eq!(life.asks(promoted), "2:100 | 2 1", "once");
        }
    }

    #[test]
    fn zero_rolls_a_canary_back() {
        let mut life = Life::default();
        life.rolls_out(None);
        life.rolls_out(Some(50));
        assert_eq!(life.asks(Some(0)), "2:0 1:100:prev | 1 0");
    }

    #[test]
    fn a_promoted_revision_is_rolled_back_to_the_one_before_it_and_can_be_promoted_again() {
        let mut life = Life::default();
        life.rolls_out(None);
        life.rolls_out(None);
        assert_eq!(life.asks(Some(0)), "2:0 1:100:prev | 1 1");
        assert_eq!(life.asks(Some(20)), "2:20 1:80:prev | 1 1");
        assert_eq!(life.asks(None), "2:100 | 2 1");
    }

    #[test]
    fn a_revision_that_is_not_ready_moves_no_requests() {
        let mut life = Life::default();
        life.rolls_out(None);
        assert_eq!(life.fails(Some(10)), "1:10 1:90:prev | 1 0");
        let mut life = Life::default();
        life.rolls_out(None);
        life.rolls_out(None);
        assert_eq!(life.fails(Some(10)), "2:10 2:90:prev | 2 1", "this is no roll-back: a newer revision is on its way");
        let mut life = Life::default();
        life.rolls_out(None);
        life.rolls_out(Some(10));
        assert_eq!(life.fails(Some(40)), "2:40 1:60:prev | 1 0", "the canary before it goes on");
    }

    #[test]
    fn the_newest_revision_has_its_tag_only_where_it_is_asked_for() {
        let (first, second) = (revision(1), revision(2));
        let book = Book { latest_rolledout: Some(first), previous_rolledout: None };
        let tags =
            |tag_latest, percent| targets(&book, &second, Wish { percent, tag_latest }).iter().map(|share| share.tag).collect::<Vec<_>>();
        assert_eq!(tags(true, Some(10)), [Some(Tag::Latest), Some(Tag::Prev)]);
        assert_eq!(tags(false, Some(10)), [None, Some(Tag::Prev)]);
        assert_eq!(tags(true, None), [Some(Tag::Latest)]);
    }

    proptest! {
        #[test]
        fn whatever_happens_the_shares_are_a_hundred_and_only_ready_revisions_have_any(
            steps in prop::collection::vec((0_u8..3, prop::option::of(0_u32..=100)), 1..40)
        ) {
            let (mut book, mut ready, mut created, mut were_ready) = (Book::default(), 0, 0, vec![]);
            for (step, percent) in steps {
                if step > 0 || ready == 0 {
                    created += 1;
                }
                if step < 2 && ready != created {
                    ready = created;
                    were_ready.push(revision(ready));
                }
                let Some(name) = were_ready.last() else { continue };
                let (next, shares) = settle(&book, Latest { ready: name, is_newest: ready == created }, Wish { percent, tag_latest: true });
                prop_assert_eq!(shares.iter().map(|share| share.percent).sum::<u32>(), 100);
                prop_assert!(shares.iter().all(|share| were_ready.contains(&share.revision)));
                prop_assert_eq!(shares.iter().filter(|share| share.latest).count(), 1);
                book = next;
            }
        }
    }
}
