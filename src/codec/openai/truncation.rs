//! `truncate_prompt_tokens` and `truncation_side`: how much of a prompt is read, as vLLM has them.

use crate::codec::fields::{Fields, Mistake};
use std::ops::Range;

/// A wish to read a part of a prompt that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncation {
    /// Tokens that are kept; nothing: as many as there is room for.
    pub tokens: Option<usize>,
    /// Which part is left out; nothing: what is usual for the endpoint.
    pub side: Option<Side>,
}

/// Where a prompt is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Its beginning is left out.
    Left,
    /// Its end is left out.
    Right,
}

impl Truncation {
    /// Reads the two fields; a side alone means nothing.
    ///
    /// # Errors
    /// [`Mistake`] with the field at fault.
    pub fn read(fields: &Fields<'_>) -> Result<Option<Self>, Mistake> {
        let side = match fields.text("truncation_side")? {
            None => None,
            Some("left") => Some(Side::Left),
            Some("right") => Some(Side::Right),
            Some(other) => return Err(fields.mistake("truncation_side", format!("must be `left` or `right`, found `{other}`"))),
        };
        let tokens = fields.whole("truncate_prompt_tokens", -1..=i64::from(i32::MAX))?;
        Ok(tokens.map(|tokens| Self { tokens: usize::try_from(tokens).ok(), side }))
    }

    /// How many tokens are kept where there is room for so many.
    ///
    /// # Errors
    /// A sentence where more are to be kept than there is room for.
    pub fn kept(self, room: usize) -> Result<usize, String> {
        match self.tokens {
            Some(tokens) if tokens > room => Err(format!("{tokens} tokens are to be kept, and there is room for {room}")),
            Some(tokens) => Ok(tokens),
            None => Ok(room),
        }
    }
}

impl Side {
    /// Leaves out what is more than `kept`. The special tokens around the text, which is `text`, stay.
    #[must_use]
    pub fn cut(self, ids: &[u32], text: Range<usize>, kept: usize) -> Vec<u32> {
        if ids.len() <= kept {
            return ids.to_vec();
        }
        let front = match self {
            Self::Left => text.start.min(kept),
            Self::Right => kept - (ids.len() - text.end).min(kept),
        };
        [&ids[..front], &ids[ids.len() - (kept - front)..]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(body: &Value) -> Result<Option<Truncation>, String> {
        Truncation::read(&Fields::of(body, "").unwrap()).map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn a_number_of_tokens_or_as_many_as_fit_are_kept() {
        assert_eq!(read(&json!({"truncation_side": "left"})), Ok(None));
        assert_eq!(read(&json!({"truncate_prompt_tokens": null})), Ok(None));
        let all = read(&json!({"truncate_prompt_tokens": -1})).unwrap().unwrap();
        assert_eq!((all.kept(7), all.side), (Ok(7), None));
        let some = read(&json!({"truncate_prompt_tokens": 3, "truncation_side": "right"})).unwrap().unwrap();
        assert_eq!((some.kept(7), some.side), (Ok(3), Some(Side::Right)));
        assert_eq!(some.kept(2), Err("3 tokens are to be kept, and there is room for 2".to_owned()));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_field() {
        let low = read(&json!({"truncate_prompt_tokens": -2})).unwrap_err();
        assert_eq!(low, "`truncate_prompt_tokens`: must be from -1 to 2147483647, found -2");
        let side = read(&json!({"truncate_prompt_tokens": 1, "truncation_side": "up"})).unwrap_err();
        assert_eq!(side, "`truncation_side`: must be `left` or `right`, found `up`");
    }

    #[test]
    fn special_tokens_around_a_text_stay_on_either_side() {
        // 0 before the text, 8 and 9 behind it.
        let ids = [0, 1, 2, 3, 4, 8, 9];
        let cut = |side: Side, kept: usize| side.cut(&ids, 1..5, kept);
        assert_eq!((cut(Side::Left, 5), cut(Side::Right, 5)), (vec![0, 3, 4, 8, 9], vec![0, 1, 2, 8, 9]));
        assert_eq!((cut(Side::Left, 7), cut(Side::Right, 9)), (ids.to_vec(), ids.to_vec()));
        assert_eq!((cut(Side::Left, 1), cut(Side::Right, 1)), (vec![0], vec![9]));
        assert_eq!((cut(Side::Left, 0), Side::Left.cut(&ids, 0..7, 2)), (vec![], vec![8, 9]));
    }
}
