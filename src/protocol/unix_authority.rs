//! gRPC over Unix sockets, whose clients send the socket's path as `:authority`, which no host name can be.
//!
//! gRPC's C core (Python, C++, Ruby) sends the path with `%2F` for its slashes, Java sends it bare. HTTP/2 asks for a
//! host name there, and the HTTP/2 library resets such a stream before anyone here sees it. So on Unix sockets, and only
//! there, the bytes that make it no host name are replaced on their way in, one for one: no length changes, and
//! the name says nothing on a Unix socket anyway. A real host name passes as it is. A value in Huffman's code is left
//! alone; these clients do not use it.
//!
//! Source: RFC 9113 sections 3.4, 4.1 and 6.2; RFC 7541 section 6.

/// What every HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The field that is looked for; in the static table it has the number 1.
const AUTHORITY: &[u8] = b":authority";
/// Stands for what cannot be in a host name.
const FILLER: u8 = b'x';

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Walks over what a client sends, in pieces as they come.
#[derive(Debug)]
pub(super) struct Rewrite {
    at: At,
    fields: Fields,
}

/// Where in the connection the next byte is.
#[derive(Debug)]
enum At {
    /// So many bytes of the preface were seen.
    Preface(usize),
    /// Not HTTP/2: nothing is looked at.
    Other,
    /// In the nine bytes before a frame.
    Head { bytes: [u8; 9], filled: usize },
    /// The length of the padding of a frame with header fields.
    PadLength { left: usize, priority: usize },
    /// Header fields; first `skip` bytes of priority, at last `padding`.
    Block { skip: usize, left: usize, padding: usize },
    /// Bytes that are passed over.
    Skip(usize),
}

impl Rewrite {
    /// At the beginning of a connection.
    pub(super) const fn new() -> Self {
        Self { at: At::Preface(0), fields: Fields::First }
    }

    /// Looks at the next bytes of the connection and changes them where needed.
    pub(super) fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() && !matches!(self.at, At::Other) {
            let used = self.step(bytes);
            bytes = &mut bytes[used..];
        }
    }

    /// Takes at least one byte; tells how many.
    fn step(&mut self, bytes: &mut [u8]) -> usize {
        let (next, used) = match &mut self.at {
            At::Other => return bytes.len(),
            At::Preface(seen) => (preface(*seen, bytes[0]), 1),
            At::Head { bytes: head, filled } => {
                head[*filled] = bytes[0];
                *filled += 1;
                if *filled < head.len() {
                    return 1;
                }
                (frame(head, &mut self.fields), 1)
            }
            At::PadLength { left, priority } => {
                let padding = usize::from(bytes[0]).min(*left);
                (At::Block { skip: *priority, left: *left - padding, padding }, 1)
            }
            At::Block { skip, left, padding } => {
                let used = bytes.len().min(*left);
                let skipped = used.min(*skip);
                self.fields.pass(&mut bytes[skipped..used]);
                *skip -= skipped;
                *left -= used;
                if *left > 0 {
                    return used;
                }
                (At::Skip(*padding), used)
            }
            At::Skip(left) => {
                let used = bytes.len().min(*left);
                *left -= used;
                if *left > 0 {
                    return used;
                }
                (At::next(), used)
            }
        };
        self.at = next.settled();
        used
    }
}

impl At {
    const fn next() -> Self {
        Self::Head { bytes: [0; 9], filled: 0 }
    }

    /// The same without stops that take no bytes.
    const fn settled(self) -> Self {
        match self {
            Self::Block { left: 0, padding: 0, .. } | Self::Skip(0) => Self::next(),
            Self::Block { left: 0, padding, .. } => Self::Skip(padding),
            other => other,
        }
    }
}

fn preface(seen: usize, byte: u8) -> At {
    match (PREFACE[seen] == byte, seen + 1 == PREFACE.len()) {
        (false, _) => At::Other,
        (true, true) => At::next(),
        (true, false) => At::Preface(seen + 1),
    }
}

/// What follows the head of a frame. Fields go on over a continuation, and begin with each new block.
fn frame(head: &[u8; 9], fields: &mut Fields) -> At {
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let (kind, flags) = (head[3], head[4]);
    match kind {
        HEADERS => {
            *fields = Fields::First;
            let priority = if flags & PRIORITY == 0 { 0 } else { 5 };
            if flags & PADDED == 0 || length == 0 {
                return At::Block { skip: priority, left: length, padding: 0 };
            }
            At::PadLength { left: length - 1, priority }
        }
        CONTINUATION => At::Block { skip: 0, left: length, padding: 0 },
        _ => At::Skip(length),
    }
}

/// Where in the compressed header fields the next byte is.
#[derive(Debug)]
enum Fields {
    /// The first byte of a field.
    First,
    /// Further bytes of a number; then a value or the next field.
    Number { then_value: bool },
    /// The length of a name.
    NameLength,
    /// Further bytes of that length.
    NameLengthMore { length: usize, shift: u32 },
    /// In a name of which so many bytes are left; `matched` ones are those of the authority's.
    Name { left: usize, matched: Option<usize> },
    /// The length of a value.
    ValueLength { authority: bool },
    /// Further bytes of that length.
    ValueLengthMore { length: usize, shift: u32, authority: bool },
    /// In a value of which so many bytes are left.
    Value { left: usize, authority: bool, is_path: bool },
}

impl Fields {
    fn pass(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *self = self.after(byte);
        }
    }

    fn after(&self, byte: &mut u8) -> Self {
        match *self {
            Self::First => first(*byte),
            Self::Number { then_value } if *byte & 0x80 != 0 => Self::Number { then_value },
            Self::Number { then_value: true } => Self::ValueLength { authority: false },
            Self::Number { then_value: false } => Self::First,
            // A name in Huffman's code is not looked at.
            Self::NameLength => match (usize::from(*byte & 0x7f), *byte & 0x80 != 0) {
                (0x7f, _) => Self::NameLengthMore { length: 0x7f, shift: 0 },
                (0, _) => Self::ValueLength { authority: false },
                (left, huffman) => Self::Name { left, matched: (!huffman).then_some(0) },
            },
            Self::NameLengthMore { length, shift } => match more(length, shift, *byte) {
                (length, Some(shift)) => Self::NameLengthMore { length, shift },
                // Longer than any name that is looked for.
                (left, None) => Self::Name { left, matched: None },
            },
            Self::Name { left, matched } => {
                let matched = matched.filter(|&at| AUTHORITY.get(at) == Some(byte)).map(|at| at + 1);
                if left > 1 {
                    return Self::Name { left: left - 1, matched };
                }
                Self::ValueLength { authority: matched == Some(AUTHORITY.len()) }
            }
            Self::ValueLength { authority } => match (usize::from(*byte & 0x7f), *byte & 0x80 != 0) {
                (0x7f, huffman) => Self::ValueLengthMore { length: 0x7f, shift: 0, authority: authority && !huffman },
                (0, _) => Self::First,
                (left, huffman) => Self::Value { left, authority: authority && !huffman, is_path: false },
            },
            Self::ValueLengthMore { length, shift, authority } => match more(length, shift, *byte) {
                (length, Some(shift)) => Self::ValueLengthMore { length, shift, authority },
                (left, None) => Self::Value { left, authority, is_path: false },
            },
            Self::Value { left, authority, is_path } => {
                let is_path = is_path || (authority && matches!(*byte, b'/' | b'%'));
                if is_path && !byte.is_ascii_alphanumeric() {
                    *byte = FILLER;
                }
                if left > 1 { Self::Value { left: left - 1, authority, is_path } } else { Self::First }
            }
        }
    }
}

/// What a field's first byte says: a field of the tables, a new size of the table, or a value with a name or its number.
const fn first(byte: u8) -> Fields {
    let (number, number_max, then_value) = if byte & 0x80 != 0 {
        (byte & 0x7f, 0x7f, false)
    } else if byte & 0x40 != 0 {
        (byte & 0x3f, 0x3f, true)
    } else if byte & 0x20 != 0 {
        (byte & 0x1f, 0x1f, false)
    } else {
        (byte & 0x0f, 0x0f, true)
    };
    match (then_value, number) {
        (_, number) if number == number_max => Fields::Number { then_value },
        (false, _) => Fields::First,
        (true, 0) => Fields::NameLength,
        (true, number) => Fields::ValueLength { authority: number == 1 },
    }
}

/// One more byte of a number; with the next shift while it goes on. Nonsense ends as a number too large to matter.
const fn more(number: usize, shift: u32, byte: u8) -> (usize, Option<u32>) {
    let digits = (byte & 0x7f) as usize;
    let number = if shift > 28 { usize::MAX } else { number.saturating_add(digits << shift) };
    (number, if byte & 0x80 != 0 { Some(shift + 7) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame with header fields, and perhaps priority and padding.
    fn headers(block: &[u8], flags: u8) -> Vec<u8> {
        let mut payload = Vec::new();
        if flags & PADDED != 0 {
            payload.push(3);
        }
        if flags & PRIORITY != 0 {
            payload.extend([0; 5]);
        }
        payload.extend(block);
        if flags & PADDED != 0 {
            payload.extend(*b"%%%");
        }
        frame_of(HEADERS, flags, &payload)
    }

    fn frame_of(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What comes out when the bytes come in pieces of `size`.
    fn passed(frames: &[Vec<u8>], size: usize) -> Vec<u8> {
        let mut bytes = [PREFACE.to_vec(), frames.concat()].concat();
        let mut rewrite = Rewrite::new();
        bytes.chunks_mut(size).for_each(|piece| rewrite.pass(piece));
        bytes.split_off(PREFACE.len())
    }

    fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
        let length = |text: &[u8]| u8::try_from(text.len()).unwrap();
        [&[0x40, length(name)], name, &[length(value)], value].concat()
    }

    #[test]
    fn a_path_becomes_a_name_of_the_same_length_whatever_way_it_comes() {
        let c_core = literal(AUTHORITY, b"tmp%2Fk.sock");
        let java = [&[0x41, 12][..], b"/tmp/k-a.skt"].concat();
        for flags in [4, 4 | PADDED, 4 | PRIORITY, 4 | PADDED | PRIORITY] {
            for size in [1, 2, 7, 1000] {
                let frames = [frame_of(4, 0, &[0; 12]), headers(&c_core, flags), frame_of(0, 0, b"/%/%")];
                let found = passed(&frames, size);
                assert_eq!(found, [frames[0].clone(), headers(&literal(AUTHORITY, b"tmpx2Fkxsock"), flags), frames[2].clone()].concat());
                let found = passed(&[headers(&java, flags)], size);
                assert_eq!(found, headers(&[&[0x41, 12][..], b"xtmpxkxaxskt"].concat(), flags));
            }
        }
    }

    #[test]
    fn host_names_other_fields_and_other_protocols_stay_as_they_are() {
        let other = literal(b":path", b"/a%20b");
        let block = [&[0x83, 0x86, 0x3f, 0xe1, 0x1f][..], &literal(AUTHORITY, b"iris.default.example.com:80"), &other].concat();
        let frames = [headers(&block, 4), frame_of(CONTINUATION, 4, &other)];
        assert_eq!(passed(&frames, 3), frames.concat());
        let http1 = b"GET /%2F HTTP/1.1\r\nhost: /tmp/x\r\n\r\n";
        let mut bytes = http1.to_vec();
        Rewrite::new().pass(&mut bytes);
        assert_eq!(&bytes, http1);
    }

    #[test]
    fn a_path_that_goes_on_in_another_frame_is_found_there() {
        let block = literal(AUTHORITY, b"a/b.c/d");
        let (head, tail) = block.split_at(15);
        let found = passed(&[headers(head, 0), frame_of(CONTINUATION, 4, tail)], 1000);
        let (head, tail) = (headers(b"@\x0a:authority\x07ax", 0), frame_of(CONTINUATION, 4, b"bxcxd"));
        assert_eq!(found, [head, tail].concat());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_the_size_of_the_pieces_does_not_matter(bytes: Vec<u8>, size in 1..50_usize) {
            let frames = [headers(&bytes, 4 | PADDED), bytes.clone(), headers(&bytes, 0)];
            prop_assert_eq!(passed(&frames, size), passed(&frames, usize::MAX));
        }
    }
}
