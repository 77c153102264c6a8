//! Requests of one service that go to two revisions or more: which one answers is drawn for each, or follows from a
//! header of the caller's.
//!
//! A draw takes no lock and allocates nothing; a service with one revision never comes here.

use crate::observe::SplitMetrics;
use crate::router::Route;
use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// Bytes of a header's value that decide its side.
const STICKY_BYTES_MAX: usize = 1024;

/// The revisions that share a service's requests.
#[derive(Debug, Clone)]
pub struct Split {
    sides: Vec<Side>,
    sticky: Option<Arc<str>>,
    seed: u64,
}

/// One revision of a split.
#[derive(Debug, Clone)]
struct Side {
    route: Arc<Route>,
    percent: u32,
    requests: SplitMetrics,
}

/// What a request brings that may decide its side: the values of the headers that splits ask for, as hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Caller {
    values: Vec<(Arc<str>, u64)>,
}

impl Caller {
    /// Reads the headers that splits ask for, none of which a request must have.
    #[must_use]
    pub fn read<'a>(headers: &[Arc<str>], value: impl Fn(&str) -> Option<&'a [u8]>) -> Self {
        let hashed = |name: &Arc<str>| value(name).map(|value| (Arc::clone(name), hash(value)));
        // Without splits of that kind nothing is allocated.
        Self { values: headers.iter().filter_map(hashed).collect() }
    }

    fn value(&self, name: &str) -> Option<u64> {
        self.values.iter().find(|(known, _)| &**known == name).map(|(_, value)| *value)
    }
}

impl Split {
    /// Requests go to these routes by percent, which together are 100; each route leads to one revision.
    ///
    /// With `sticky`, a header's name in lower case, requests with the same value go to the same side, and a side that
    /// grows takes callers over without giving any back, as long as the sides' order stays.
    #[must_use]
    pub fn new(sides: Vec<(Arc<Route>, u32)>, sticky: Option<Arc<str>>) -> Self {
        debug_assert_eq!(sides.iter().map(|(_, percent)| percent).sum::<u32>(), 100, "shares are of a hundred");
        // Otherwise the same callers would be the first to try the canary of every service.
        let seed = sides.first().map_or(0, |(route, _)| hash(format!("{}/{}", route.namespace, route.service).as_bytes()));
        let side = |(route, percent): (Arc<Route>, u32)| {
            let revision = route.ready().map(|handle| handle.revision().to_owned()).unwrap_or_default();
            Side { requests: SplitMetrics::new(&route.model_name, &revision), route, percent }
        };
        Self { sides: sides.into_iter().map(side).collect(), sticky, seed }
    }

    /// The route of the revision that answers this request; counted.
    #[must_use]
    pub fn draw(&self, caller: &Caller) -> &Arc<Route> {
        let value = self.sticky.as_ref().and_then(|name| caller.value(name));
        let number = value.map_or_else(random, |value| mixed(value ^ self.seed));
        let side = self.at(of_a_hundred(number));
        side.requests.sent();
        &side.route
    }

    /// The routes of all revisions, in the order they were given.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.sides.iter().map(|side| &side.route)
    }

    /// The route with the largest share, the earlier of two equal ones: what is said of the service where one revision
    /// must speak for all.
    ///
    /// # Panics
    /// Never: a split has sides.
    #[must_use]
    pub fn main(&self) -> &Arc<Route> {
        let largest = self.sides.iter().rev().max_by_key(|side| side.percent);
        &largest.expect("a split has sides because shares are of a hundred").route
    }

    /// The header that decides the side.
    #[must_use]
    pub fn sticky(&self) -> Option<&Arc<str>> {
        self.sticky.as_ref()
    }

    fn at(&self, point: u32) -> &Side {
        let mut below = 0;
        let holds = |side: &&Side| {
            below += side.percent;
            point < below
        };
        self.sides.iter().find(holds).unwrap_or(&self.sides[self.sides.len() - 1])
    }
}

/// A number from 0 to 99; the error is below one in ten million.
fn of_a_hundred(number: u64) -> u32 {
    u32::try_from(((number >> 32) * 100) >> 32).unwrap_or(99)
}

/// The next number of the thread's own generator (splitmix64).
fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish());
    }
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        state.set(next);
        mixed(next)
    })
}

/// Spreads a number over all bits. Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators".
const fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// FNV-1a: the same value has the same side after a restart and in the next version.
fn hash(value: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    value.iter().take(STICKY_BYTES_MAX).fold(0xCBF2_9CE4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::Target;

    fn route(service: &str) -> Arc<Route> {
        Arc::new(Route {
            namespace: "default".to_owned(),
            service: service.to_owned(),
            model_name: service.into(),
            timeout_s: 1,
            batcher_replies: false,
            target: Target::NotReady(String::new()),
        })
    }

    /// A split of one service whose routes are told apart by their addresses.
    fn split(percents: &[u32], sticky: Option<&str>) -> Split {
        Split::new(percents.iter().map(|percent| (route("iris"), *percent)).collect(), sticky.map(Into::into))
    }

    fn side(split: &Split, caller: &Caller) -> usize {
        let drawn = split.draw(caller);
        split.routes().position(|route| Arc::ptr_eq(route, drawn)).unwrap()
    }

    fn user(value: &str) -> Caller {
        Caller::read(&["x-user".into()], |_| Some(value.as_bytes()))
    }

    #[test]
    fn every_point_of_the_hundred_belongs_to_the_side_that_paid_for_it() {
        let split = split(&[10, 0, 90], None);
        let at = |point| split.sides.iter().position(|side| std::ptr::eq(side, split.at(point))).unwrap();
        assert_eq!((at(0), at(9), at(10), at(99)), (0, 0, 2, 2));
        assert_eq!((of_a_hundred(0), of_a_hundred(u64::MAX)), (0, 99));
    }

    #[test]
    fn draws_come_as_often_as_the_percentage_says() {
        const DRAWS: usize = 100_000;
        let split = split(&[10, 90], None);
        let canary = (0..DRAWS).filter(|_| side(&split, &Caller::default()) == 0).count();
        // Seven standard deviations: less than once in 10^11 runs.
        assert!((10_000 - 664..=10_000 + 664).contains(&canary), "{canary} of {DRAWS}");
    }

    #[test]
    fn a_side_without_a_share_is_never_drawn() {
        let split = split(&[0, 100], None);
        assert!((0..10_000).all(|_| side(&split, &Caller::default()) == 1));
    }

    #[test]
    fn a_caller_stays_on_his_side_and_moves_only_to_the_side_that_grows() {
        let users: Vec<Caller> = (0..2000).map(|number| user(&format!("user-{number}"))).collect();
        let sides = |percent| {
            let split = split(&[percent, 100 - percent], Some("x-user"));
            users.iter().map(|user| side(&split, user)).collect::<Vec<_>>()
        };
        let (ten, thirty) = (sides(10), sides(30));
        assert_eq!(ten, sides(10));
        assert!(ten.iter().zip(&thirty).all(|(before, after)| *before == 1 || *after == 0), "nobody is moved back");
        let share = ten.iter().filter(|side| **side == 0).count();
        assert!((120..=280).contains(&share), "{share} of 2000");
    }

    #[test]
    fn services_have_different_callers_try_first() {
        let of = |service: &str| Split::new(vec![(route(service), 10), (route(service), 90)], Some("x-user".into()));
        let first = |split: &Split| (0..500).map(|number| side(split, &user(&number.to_string()))).collect::<Vec<_>>();
        assert_ne!(first(&of("iris")), first(&of("wine")));
    }

    #[test]
    fn without_its_header_a_request_is_drawn_like_any_other() {
        let split = split(&[50, 50], Some("x-user"));
        let drawn: Vec<usize> = (0..200).map(|_| side(&split, &Caller::default())).collect();
        assert!(drawn.contains(&0) && drawn.contains(&1));
        assert_eq!(Caller::read(&[], |_| Some(b"x")), Caller::default());
    }

    #[test]
    fn the_largest_share_speaks_for_the_service() {
        for (percents, main) in [(&[10, 90][..], 1), (&[90, 10], 0), (&[50, 50], 0), (&[0, 100], 1)] {
            let split = split(percents, None);
            assert!(Arc::ptr_eq(split.main(), split.routes().nth(main).unwrap()), "{percents:?}");
        }
    }
}
