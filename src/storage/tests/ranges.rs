//! Files in parts over HTTP, from servers that do not keep to it.

use super::*;

/// The first byte and the byte after the last of a request's range, of a file of that length.
fn range_of(head: &str, total: usize) -> Option<(usize, usize)> {
    let (first, last) = head.split_once("range: bytes=")?.1.split_once("\r\n")?.0.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<usize>().map_or(total, |last| last + 1)))
}

fn part(tag: &str, (from, until): (usize, usize), body: &[u8]) -> Vec<u8> {
    let range = format!("Content-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n", until - 1, body.len(), until - from);
    answer("206 Partial Content", &format!("{PLAIN}ETag: \"{tag}\"\r\n{range}"), &body[from..until])
}

/// What a server with ranges and that version answers.
fn fair(tag: &str, head: &str, body: &[u8]) -> Vec<u8> {
    match range_of(head, body.len()) {
        Some(range) if head.contains(&format!("if-range: \"{tag}\"")) || !head.contains("if-range") => part(tag, range, body),
        _ => whole(tag, body.len(), body),
    }
}

/// A file of ten parts.
fn large() -> Vec<u8> {
    (0..40_000_u32).map(|number| (number * 7 % 251) as u8).collect()
}

/// The large file's server: it gives length and version first, and breaks; from then on the file comes in parts, from what
/// `next` answers.
async fn in_parts(wanted: &[u8], next: impl Fn(usize, &str) -> Vec<u8> + Send + 'static) -> Vec<String> {
    const FIRST: usize = 5000;
    let mut place = Place::new();
    place.config.download = DownloadConfig { part_bytes: 4000, parts_in_flight_max: 3, ..place.config.download };
    let server = Server::start(move |number, head| {
        let mut first = whole("a", 40_000, &large());
        first.truncate(first.len() - 40_000 + FIRST);
        Answer::Closed(if number == 0 { first } else { next(number, head) })
    })
    .await;
    assert_eq!(place.fetched(&server, "/m.onnx").await, wanted);
    server.requests()
}

fn ranges_of(requests: &[String]) -> Vec<(usize, usize)> {
    requests.iter().skip(1).map(|head| range_of(head, 40_000).unwrap_or((0, 40_000))).collect()
}

#[tokio::test]
async fn parts_are_asked_for_once_each_of_one_version() {
    let requests = in_parts(&large(), |_, head| fair("a", head, &large())).await;
    let mut ranges = ranges_of(&requests);
    let count = ranges.len();
    ranges.sort_unstable();
    ranges.dedup();
    assert_eq!(ranges.len(), count, "no part twice: {ranges:?}");
    assert!(count >= 2 && requests.iter().skip(1).all(|head| head.contains("if-range: \"a\"")), "{requests:?}");
}

#[tokio::test]
async fn a_server_that_ignores_ranges_gives_the_whole_file_all_the_same() {
    in_parts(&large(), |_, _| whole("a", 40_000, &large())).await;
}

#[tokio::test]
async fn another_range_than_was_asked_for_is_not_written() {
    let requests = in_parts(&large(), |number, head| match range_of(head, 40_000) {
        Some((from, until)) if number == 1 => part("a", (from + 100, until), &large()),
        _ => fair("a", head, &large()),
    })
    .await;
    assert!(requests.len() > 2);
}

#[tokio::test]
async fn a_file_that_changes_between_its_parts_is_of_the_later_version_alone() {
    let later: Vec<u8> = large().iter().map(|byte| byte ^ 1).collect();
    let body = later.clone();
    in_parts(&later, move |number, head| if number == 1 { fair("a", head, &large()) } else { fair("b", head, &body) }).await;
}

#[tokio::test]
async fn a_part_that_is_refused_for_a_while_waits_and_the_others_come_on() {
    let requests = in_parts(&large(), |number, head| match number {
        1 => answer("503 Service Unavailable", "Retry-After: 0\r\nContent-Length: 0\r\n", b""),
        _ => fair("a", head, &large()),
    })
    .await;
    let refused = range_of(&requests[1], 40_000).unwrap();
    let again = requests.iter().filter(|head| range_of(head, 40_000).is_some_and(|(from, _)| from == refused.0)).count();
    assert!(again <= 2, "what was refused is asked for once more at most: {requests:?}");
}

#[tokio::test]
async fn a_part_that_is_cut_goes_on_where_it_broke() {
    let requests = in_parts(&large(), |number, head| {
        let mut said = fair("a", head, &large());
        if number == 1 {
            said.truncate(said.len() - 1500);
        }
        said
    })
    .await;
    let (from, until) = range_of(&requests[1], 40_000).unwrap();
    let rest = until - 1500;
    let asked = ranges_of(&requests);
    assert!(asked.iter().any(|&(start, _)| start > from && start <= rest), "{asked:?}");
    assert!(!asked.iter().skip(1).any(|&(start, end)| start < rest && end > from && start != rest && start <= from), "{asked:?}");
}
