//! Messages of protobuf field by field, as far as graphs need them: looked at, copied and changed without knowing the rest.

/// A field of a message.
pub(super) struct Field<'a> {
    pub(super) number: u64,
    /// With its key.
    whole: &'a [u8],
    pub(super) content: &'a [u8],
}

impl<'a> Field<'a> {
    /// The field at the beginning, and what follows it.
    fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (key, after) = varint(bytes)?;
        let (content, rest) = match key & 7 {
            0 => after.split_at_checked(after.len() - varint(after)?.1.len())?,
            1 => after.split_at_checked(8)?,
            2 => {
                let (length, after) = varint(after)?;
                after.split_at_checked(usize::try_from(length).ok()?)?
            }
            5 => after.split_at_checked(4)?,
            _ => return None,
        };
        Some((Self { number: key >> 3, whole: &bytes[..bytes.len() - rest.len()], content }, rest))
    }

    /// The content of a field of this message; empty if it has none.
    pub(super) fn named(&self, number: u64) -> Option<&'a [u8]> {
        Some(fields(self.content)?.into_iter().find(|field| field.number == number).map_or(&[], |field| field.content))
    }
}

/// All fields of a message; nothing where it is none.
pub(super) fn fields(mut bytes: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (field, rest) = Field::first(bytes)?;
        found.push(field);
        bytes = rest;
    }
    Some(found)
}

/// A number of at most 64 bits, and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = 1 + bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let (number, rest) = bytes.split_at(length);
    Some((number.iter().rev().fold(0, |number, byte| number << 7 | u64::from(byte & 0x7f)), rest))
}

/// A message with the content of some of its fields changed; those of which nothing is left are dropped.
pub(super) fn changed(bytes: &[u8], numbers: &[u64], change: &dyn Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    for field in fields(bytes)? {
        if !numbers.contains(&field.number) {
            out.extend_from_slice(field.whole);
            continue;
        }
        let content = change(field.content)?;
        if !content.is_empty() {
            out.extend(message(field.number, &content));
        }
    }
    Some(out)
}

/// A field that holds bytes.
pub(super) fn message(number: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 12);
    for mut number in [number << 3 | 2, content.len() as u64] {
        while number > 0x7f {
            out.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        out.push(number.to_le_bytes()[0]);
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_and_lengths_are_read_as_they_are_written(number in 1_u64..1 << 29, content: Vec<u8>) {
            let written = message(number, &content);
            let (field, rest) = Field::first(&written).unwrap();
            prop_assert_eq!((field.number, field.content, field.whole, rest.len()), (number, &content[..], &written[..], 0));
        }
    }
}
