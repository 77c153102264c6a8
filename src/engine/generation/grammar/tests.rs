use super::super::Allowed;
use super::super::scripted::{END, Scripted};
use super::*;

const LIMITS: GrammarLimits = GrammarLimits { bytes_max: 1 << 16, symbols_max: 100_000, reading_steps_max: 1_000_000, kept_max: 2 };

fn mask(constraint: &Constraint) -> Result<Box<dyn TokenMask>, GrammarError> {
    Grammars::default().mask(constraint, &Scripted::saying(""), LIMITS)
}

fn allows(mask: &mut dyn TokenMask, token: u32) -> bool {
    match mask.allowed().unwrap() {
        Allowed::Any => true,
        Allowed::Only(words) => words.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1),
        Allowed::Ended => token == END,
    }
}

/// Whether an answer of this text may be given and may end there.
fn takes(constraint: &Constraint, text: &str) -> bool {
    let mut mask = mask(constraint).unwrap();
    for byte in text.bytes().map(u32::from) {
        if !allows(&mut *mask, byte) || mask.accept(byte).is_err() {
            return false;
        }
    }
    allows(&mut *mask, END)
}

fn schema(schema: &Value) -> Constraint {
    Constraint::Schema(schema.to_string())
}

#[test]
fn json_mode_takes_objects_and_nothing_else() {
    for (text, taken) in
        [("{}", true), (r#"{"a": [1, {"b": "é\n"}], "c": null}"#, true), ("[1]", false), ("3", false), (r#"{"a"}"#, false), ("{", false)]
    {
        let text = text.replace('\n', "\\n");
        assert_eq!(takes(&Constraint::Json, &text), taken, "{text}");
    }
}

#[test]
fn a_schema_decides_what_may_stand_there() {
    let point = schema(&json!({
        "type": "object",
        "properties": {"x": {"type": "integer"}, "kind": {"enum": ["a", "b"]}},
        "required": ["x", "kind"],
        "additionalProperties": false,
    }));
    for (text, taken) in [
        (r#"{"x": 1, "kind": "a"}"#, true),
        (r#"{"x": 1.5, "kind": "a"}"#, false),
        (r#"{"x": 1}"#, false),
        (r#"{"x": 1, "kind": "c"}"#, false),
        (r#"{"x": 1, "kind": "b", "y": 2}"#, false),
    ] {
        assert_eq!(takes(&point, text), taken, "{text}");
    }
    let tree = json!({"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}});
    assert!(takes(&schema(&tree), "[[], [[]]]") && !takes(&schema(&tree), "[1]"));
}

#[test]
fn patterns_choices_and_grammars_hold_an_answer_as_well() {
    let pattern = Constraint::Regex("[a-c]{2}[0-9]+".to_owned());
    assert!(takes(&pattern, "ab12") && !takes(&pattern, "ad1") && !takes(&pattern, "ab"));
    let choice = Constraint::Choice(vec!["yes".to_owned(), "n\"o".to_owned()]);
    assert!(takes(&choice, "yes") && takes(&choice, "n\"o") && !takes(&choice, "ye"));
    let grammar = Constraint::Grammar("start: \"a\" start \"b\" | \"c\"".to_owned());
    assert!(takes(&grammar, "aacbb") && !takes(&grammar, "aacb"));
}

#[test]
fn a_constraint_that_cannot_be_read_says_why() {
    let said = |constraint: &Constraint| mask(constraint).unwrap_err().to_string();
    assert!(said(&Constraint::Schema("{".to_owned())).starts_with("the schema is not JSON"));
    assert!(!said(&schema(&json!({"type": "potato"}))).is_empty());
    assert!(!said(&schema(&json!({"$ref": "http://elsewhere/x.json"}))).is_empty());
    assert!(!said(&Constraint::Regex("(".to_owned())).is_empty());
    assert!(!said(&Constraint::Grammar("start: nowhere".to_owned())).is_empty());
    assert_eq!(said(&Constraint::Regex("x".repeat(1 << 17))), "it has 131072 bytes, and 65536 are read");
}

#[test]
fn what_grows_without_bound_is_refused_in_time() {
    let bombs = [
        Constraint::Regex("(((a{1,1000}){1,1000}){1,1000})".to_owned()),
        schema(&json!({"type": "array", "minItems": 1_000_000, "items": {"type": "array", "minItems": 1_000_000}})),
        Constraint::Grammar(format!("start: {}", (0..3000).map(|at| format!("(\"{at}\" start)")).collect::<Vec<_>>().join(" "))),
        schema(&json!({"type": "string", "pattern": "^(a?){500}(a{500}){500}$"})),
    ];
    for bomb in bombs {
        // Some are read and take too much later; then the answer ends with a sentence.
        if let Ok(mut mask) = mask(&bomb) {
            for _ in 0..64 {
                match mask.allowed() {
                    Ok(Allowed::Only(words)) => {
                        let Some(at) = words.iter().position(|word| *word != 0) else { break };
                        let token = u32::try_from(at).unwrap() * 32 + words[at].trailing_zeros();
                        if token == END || mask.accept(token).is_err() {
                            break;
                        }
                    }
                    _ => break,
                }
            }
        }
    }
}

#[test]
fn what_was_read_is_kept_and_each_answer_has_its_own_place_in_it() {
    let (grammars, generator) = (Grammars::default(), Scripted::saying(""));
    let choice = Constraint::Choice(vec!["ab".to_owned()]);
    let mut first = grammars.mask(&choice, &generator, LIMITS).unwrap();
    first.accept(u32::from(b'a')).unwrap();
    let mut second = grammars.mask(&choice, &generator, LIMITS).unwrap();
    assert!(allows(&mut *first, u32::from(b'b')) && allows(&mut *second, u32::from(b'a')));
    let mut fork = first.fork();
    fork.accept(u32::from(b'b')).unwrap();
    assert!(matches!(fork.allowed(), Ok(Allowed::Ended)) && allows(&mut *first, u32::from(b'b')), "a fork goes its own way");
    for text in ["x", "y", "z"] {
        grammars.mask(&Constraint::Regex(text.to_owned()), &generator, LIMITS).unwrap();
    }
    assert_eq!(grammars.kept.lock().unwrap().len(), 2);
    assert_eq!(grammars.vocabularies.lock().unwrap().len(), 1);
    drop(generator);
    let other = Scripted::saying("");
    grammars.mask(&choice, &other, LIMITS).unwrap();
    assert_eq!(
        (grammars.kept.lock().unwrap().len(), grammars.vocabularies.lock().unwrap().len()),
        (1, 1),
        "those of a model that is gone go with it"
    );
}
