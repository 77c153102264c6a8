//! Packed bodies: what came in is inflated within bounds, what goes out is packed when the client takes it.

use super::error::Refusal;
use flate2::Compression;
use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue};
use std::io::{self, BufRead, Read, Write};

/// Bytes that a body may always grow to, whatever its ratio: zeros of a small tensor are honest.
const RATIO_FREE_BYTES: usize = 1024 * 1024;
/// Bytes inflated between two looks at the bounds.
const STEP_BYTES: usize = 64 * 1024;
/// Memory for looking back: 8 MiB, the bound of `zstd` in HTTP. Source: RFC 9659.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Level 1 of each form: on one machine time counts more than bytes.
const LEVEL: u32 = 1;

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Not at all.
    Identity,
    /// RFC 1952.
    Gzip,
    /// RFC 1950, the `zlib` form; HTTP calls it `deflate`.
    Deflate,
    /// RFC 8878.
    Zstd,
}

impl Encoding {
    /// How a request says its body is packed.
    ///
    /// # Errors
    /// 415 for a form nobody reads here, and for one packed into another.
    pub(crate) fn of_request(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut found = Self::Identity;
        for part in headers.get_all(CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b',')) {
            match (found, Self::named(part.trim_ascii())) {
                (_, Some(Self::Identity)) => {}
                (Self::Identity, Some(encoding)) => found = encoding,
                (_, Some(_)) => {
                    return Err(Refusal::unsupported_media_type("a body packed more than once is not read: `content-encoding`"));
                }
                (_, None) => return Err(unknown(part)),
            }
        }
        Ok(found)
    }

    /// The best form a client takes; `Identity` when it asks for none.
    pub(crate) fn of_answer(headers: &HeaderMap) -> Self {
        let offered = || headers.get_all(ACCEPT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
        let takes = |wanted: Self| offered().any(|offer| accepts(offer, wanted));
        [Self::Zstd, Self::Gzip, Self::Deflate].into_iter().find(|&encoding| takes(encoding)).unwrap_or(Self::Identity)
    }

    /// The form's name in headers.
    pub(crate) fn header(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        })
    }

    fn named(name: &[u8]) -> Option<Self> {
        let is = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        match () {
            () if is(&["identity", ""]) => Some(Self::Identity),
            () if is(&["gzip", "x-gzip"]) => Some(Self::Gzip),
            () if is(&["deflate"]) => Some(Self::Deflate),
            () if is(&["zstd"]) => Some(Self::Zstd),
            () => None,
        }
    }
}

/// Unpacks a body of at most `max` bytes, and at most `ratio_max` times its packed size.
///
/// # Errors
/// 413 above a bound, 400 for broken, cut or trailing bytes.
pub(crate) fn inflate(packed: &[u8], encoding: Encoding, max: usize, ratio_max: usize) -> Result<Vec<u8>, Refusal> {
    let max = max.min(packed.len().saturating_mul(ratio_max).max(RATIO_FREE_BYTES));
    let mut rest = packed;
    let whole = match encoding {
        Encoding::Identity => Ok(packed.to_vec()),
        Encoding::Gzip => read_within(MultiGzDecoder::new(&mut rest), max),
        Encoding::Deflate => read_within(ZlibDecoder::new(&mut rest), max),
        Encoding::Zstd => zstd_decoder(&mut rest).map_err(|error| broken(&error)).and_then(|decoder| read_within(decoder, max)),
    }?;
    if encoding == Encoding::Identity || rest.is_empty() {
        return Ok(whole);
    }
    Err(Refusal::bad_request(format!("{} bytes follow the packed body", rest.len())))
}

/// Packs an answer.
pub(crate) fn compress(plain: &[u8], encoding: Encoding) -> io::Result<Vec<u8>> {
    let room = Vec::with_capacity(plain.len() / 2);
    match encoding {
        Encoding::Identity => Ok(plain.to_vec()),
        Encoding::Gzip => finish(GzEncoder::new(room, Compression::new(LEVEL)), plain, GzEncoder::finish),
        Encoding::Deflate => finish(ZlibEncoder::new(room, Compression::new(LEVEL)), plain, ZlibEncoder::finish),
        Encoding::Zstd => zstd::bulk::compress(plain, LEVEL.cast_signed()),
    }
}

fn finish<W: Write>(mut writer: W, plain: &[u8], end: impl FnOnce(W) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
    writer.write_all(plain)?;
    end(writer)
}

fn zstd_decoder<'a, R: BufRead>(packed: R) -> io::Result<zstd::stream::read::Decoder<'a, R>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

fn read_within(mut packed: impl Read, max: usize) -> Result<Vec<u8>, Refusal> {
    let mut whole = Vec::new();
    loop {
        let read = (&mut packed).take(STEP_BYTES as u64).read_to_end(&mut whole).map_err(|error| broken(&error))?;
        if whole.len() > max {
            return Err(Refusal::too_large(format!("the request body inflates to more than {max} bytes")));
        }
        if read == 0 {
            return Ok(whole);
        }
    }
}

/// `gzip`, `gzip;q=0.5`, `*`, but not `gzip;q=0`.
fn accepts(offer: &[u8], wanted: Encoding) -> bool {
    let mut parts = offer.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
    let name = parts.next().unwrap_or_default();
    let refused = parts.any(|part| part.strip_prefix(b"q=").is_some_and(|q| q.iter().all(|&byte| byte == b'0' || byte == b'.')));
    !name.is_empty() && !refused && Encoding::named(name) == Some(wanted)
}

fn unknown(name: &[u8]) -> Refusal {
    let name = String::from_utf8_lossy(&name[..name.len().min(32)]).trim().to_owned();
    Refusal::unsupported_media_type(format!("unknown `content-encoding`: `{name}`; known are `gzip`, `deflate` and `zstd`"))
}

fn broken(error: &io::Error) -> Refusal {
    Refusal::bad_request(format!("the packed request body is broken: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKED: [Encoding; 3] = [Encoding::Gzip, Encoding::Deflate, Encoding::Zstd];

    fn status(result: Result<Vec<u8>, Refusal>) -> u16 {
        result.map_or_else(|refusal| refusal.status().as_u16(), |_| 200)
    }

    #[test]
    fn what_is_packed_is_read_back() {
        for encoding in PACKED {
            for plain in [&b""[..], b"x", &vec![7; 300_000]] {
                let packed = compress(plain, encoding).unwrap();
                assert_eq!(inflate(&packed, encoding, 300_000, 1100).unwrap(), plain, "{encoding:?}");
            }
        }
    }

    #[test]
    fn a_bomb_stops_at_the_bound() {
        let bomb = vec![0; 8 << 20];
        for encoding in PACKED {
            let packed = compress(&bomb, encoding).unwrap();
            assert_eq!(status(inflate(&packed, encoding, 4 << 20, 1_000_000)), 413, "{encoding:?} by bytes");
            assert_eq!(status(inflate(&packed, encoding, 16 << 20, 10)), 413, "{encoding:?} by ratio");
        }
    }

    #[test]
    fn cut_bodies_and_trailing_garbage_are_refused() {
        for encoding in PACKED {
            let packed = compress(b"0123456789", encoding).unwrap();
            assert_eq!(status(inflate(&packed[..packed.len() - 3], encoding, 1000, 1100)), 400, "{encoding:?} cut");
            assert_eq!(status(inflate(&[&packed[..], b"garbage garbage"].concat(), encoding, 1000, 1100)), 400, "{encoding:?} trailing");
            assert_eq!(status(inflate(b"not packed", encoding, 1000, 1100)), 400, "{encoding:?} plain");
        }
    }

    #[test]
    fn unknown_and_nested_encodings_are_415() {
        let read = |value: &str| {
            let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_str(value).unwrap())]);
            Encoding::of_request(&headers).map_err(|refusal| refusal.status().as_u16())
        };
        assert_eq!(read("GZIP"), Ok(Encoding::Gzip));
        assert_eq!(read("identity, zstd"), Ok(Encoding::Zstd));
        for refused in ["br", "gzip, gzip", "gzip, deflate", "gzip;q=1"] {
            assert_eq!(read(refused), Err(415), "{refused}");
        }
    }

    #[test]
    fn an_answer_is_packed_only_as_the_client_takes_it() {
        let choose = |value: &str| Encoding::of_answer(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_str(value).unwrap())]));
        assert_eq!(choose("gzip, deflate"), Encoding::Gzip);
        assert_eq!(choose("gzip, deflate, br, zstd"), Encoding::Zstd);
        assert_eq!(choose("gzip;q=0, deflate;q=0.5"), Encoding::Deflate);
        for none in ["identity", "br", "*", "", "gzip;q=0"] {
            assert_eq!(choose(none), Encoding::Identity, "{none}");
        }
    }
}
