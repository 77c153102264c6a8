//! The cases of gjson that conditions meet, each with what gjson 1.18 says.

use super::*;

const BODY: &str = r#"{
  "name": {"first": "Tom", "last": "Anderson"}, "age": 37, "fav.movie": "Deer", "none": null, "off": false, "empty": "",
  "children": ["Sara", "Alex", "Jack"], "list": [],
  "predictions": [{"label": "cat", "score": 0.9}, {"label": "dog", "score": 0.1}, {"label": null}],
  "grid": [[1, 2], [3, 4]], "flags": [true, false, "yes", "1", 0, 2, null], "a": 1, "a": {"b": 2}
}"#;

fn holds(path: &str, body: &str) -> bool {
    assert!(is_json(body.as_bytes()), "{body}");
    Condition::new(path).unwrap().holds(body.as_bytes())
}

#[track_caller]
fn check(body: &str, there: &[&str], missing: &[&str]) {
    for path in there {
        assert!(holds(path, body), "{path} is in {body}");
    }
    for path in missing {
        assert!(!holds(path, body), "{path} is not in {body}");
    }
}

#[test]
fn keys_and_indexes_lead_to_values_and_only_their_existence_counts() {
    check(
        BODY,
        &[
            "name",
            "name.last",
            "age",
            "none",
            "off",
            "empty",
            "list",
            "children.1",
            "grid.1.0",
            "fav\\.movie",
            "a.b",
            "predictions.2.label",
        ],
        &["nam", "name.middle", "age.years", "children.3", "children.-1", "children.x", "fav.movie", "list.0", "a.c", "none.x"],
    );
    check("[1,2]", &["0", "1", "#"], &["2", "x", ""]);
    check("\"text\"", &["@this"], &["text", "0"]);
}

#[test]
fn an_empty_path_is_the_key_without_letters() {
    check(BODY, &[], &[""]);
    check(r#"{"": 1}"#, &[""], &[]);
}

#[test]
fn wildcards_stand_for_letters_of_keys() {
    check(BODY, &["na*", "n?me", "child*.2", "*.last", "fav\\.*"], &["x*", "n?m", "name.f?"]);
}

#[test]
fn counts_and_lists_of_arrays_are_always_there() {
    check(BODY, &["children.#", "list.#", "predictions.#.label", "predictions.#.nothing"], &["name.#", "age.#"]);
}

#[test]
fn queries_find_the_first_that_fits() {
    check(
        BODY,
        &[
            "predictions.#(label==cat)",
            "predictions.#(label=cat)",
            "predictions.#(label==\"dog\").score",
            "predictions.#(score>0.5)",
            "predictions.#(score>=0.9)",
            "predictions.#(score<0.5)",
            "predictions.#(score<=0.1)",
            "predictions.#(score!=0.9)",
            "predictions.#(label!=cat)",
            "predictions.#(label%c*)",
            "predictions.#(label!%c*)",
            "predictions.#( label == cat )",
            "predictions.#(label)",
            "children.#(==\"Alex\")",
            "children.#(==Alex)",
            "children.#(>\"S\")",
            "grid.#(0==3).1",
            "grid.#(#(==4))",
        ],
        &[
            "predictions.#(label==bird)",
            "predictions.#(score>1)",
            "predictions.#(nothing==1)",
            "predictions.#(nothing!=1)",
            "predictions.#(nothing)",
            "predictions.#(label==cat).nothing",
            "children.#(==Al)",
            "children.#(x==Alex)",
            "name.#(first==Tom)",
            "grid.#(0==5)",
        ],
    );
}

#[test]
fn a_query_for_all_gives_a_list_even_when_nothing_fits() {
    check(BODY, &["predictions.#(score>0)#", "predictions.#(label==bird)#", "predictions.#(label==bird)#.score", "list.#(x==1)#"], &[]);
    check(BODY, &["predictions.#(score>0)#|1"], &["predictions.#(label==bird)#|0", "name.#(a==1)#"]);
}

#[test]
fn a_pipe_below_a_query_is_cut_where_gjson_cuts_it() {
    check(
        BODY,
        &[
            "predictions.#(label==bird)#.score|0",
            "predictions.#(score>0)#.score|1",
            "predictions.#(label==cat)#.label.#|0",
            "predictions.#.{score}|2",
            "predictions.#.{\"s\":score}|9",
        ],
        &["predictions.#(score>0)#.score|2", "predictions.#(label==cat).score|0", "predictions.#.{score}|3", "predictions.#.score|2"],
    );
}

#[test]
fn a_field_is_compared_by_its_own_type() {
    let body = r#"{"list": [{"s": "5", "n": 5, "t": true, "f": false, "z": null, "o": {}}]}"#;
    let query = |inner: &str| holds(&format!("list.#({inner})"), body);
    for inner in [
        "s==5",
        "s>\"4\"",
        "s>=5",
        "n==5",
        "n==\"5\"",
        "n>4",
        "n>abc",
        "t==true",
        "t>false",
        "t>=x",
        "t!=false",
        "f==false",
        "f<true",
        "f<=x",
        "s>\"10a\"",
    ] {
        assert!(query(inner), "{inner}");
    }
    for inner in ["s==5.0", "n==abc", "n<abc", "t==false", "t<true", "f>false", "z==null", "z!=1", "o=={}", "n%5", "t%t*", "o!=1"] {
        assert!(!query(inner), "{inner}");
    }
}

#[test]
fn tildes_ask_for_what_is_like_true_false_null_or_there() {
    let body = r#"{"list": [{"t": true, "f": false, "s": "TRUE", "z": null, "n": 0, "one": 1}]}"#;
    let query = |inner: &str| holds(&format!("list.#({inner})"), body);
    for inner in [
        "t==~true",
        "s==~true",
        "one==~true",
        "f==~false",
        "z==~false",
        "n==~false",
        "nothing==~false",
        "z==~null",
        "nothing==~null",
        "t==~*",
        "nothing!=~*",
        "f!=~true",
    ] {
        assert!(query(inner), "{inner}");
    }
    for inner in ["f==~true", "nothing==~true", "t==~false", "t==~null", "nothing==~*", "t==~other", "t!=~true"] {
        assert!(!query(inner), "{inner}");
    }
}

#[test]
fn an_object_is_asked_through_an_array_around_it() {
    let body = r#"{"decision_picker": "ERROR", "age": 5, "nested": {"x": [1, 2]}}"#;
    check(
        body,
        &[
            "[@this].#(decision_picker==ERROR)",
            "[@this].#(decision_picker==\"ERROR\")",
            "[@this].#(age>4)",
            "[@this].#(nested.x.1==2)",
            "[@this]|0.age",
            "@this.age",
            "@this|age",
            "nested.@this.x",
            "nested|x|#",
            "{age,\"n\":nested.x}.n.0",
        ],
        &[
            "[@this].#(decision_picker==OK)",
            "#(decision_picker==ERROR)",
            "[@this].#(age>5)",
            "[@this].#(nothing!=1)",
            "@this.nothing",
            "[age].1",
            "{age,nothing}.nothing",
        ],
    );
}

#[test]
fn a_multipath_alone_is_always_there() {
    for path in ["{ .input.userId == 1 }", "[ .x ]", "{}", "[nothing]", "[@this]", "[@this].#(a==b)#", "@this"] {
        assert!(holds(path, "{}") && holds(path, r#"{"a": 1}"#), "{path}");
    }
}

#[test]
fn escapes_in_bodies_and_quotes_are_read() {
    check(r#"{"na\u006de": [{"k": "a\"b"}]}"#, &["name", r#"name.#(k=="a\"b")"#], &["na", r#"name.#(k=="ab")"#]);
}

#[test]
fn what_is_left_out_of_gjson_is_named() {
    for (path, word) in [("a.@flatten", "@flatten"), ("@reverse", "@reverse"), ("[@keys]", "@keys"), ("..0.a", ".."), ("!\"x\"", "!")] {
        assert_eq!(Condition::new(path).unwrap_err().to_string(), format!("`{word}` of gjson is not understood here"));
    }
    assert!(Condition::new("user@pretty").is_ok() && Condition::new("a.@unknown").is_ok());
    assert!(holds("@unknown", r#"{"@unknown": 1}"#));
}

#[test]
fn strange_paths_and_bodies_find_nothing_and_harm_nothing() {
    for path in
        ["#(", "#(a", "a.#(b==", "[", "{", "[a", "\\", "a\\", "|", "a|", ".", "..", "a..b", "#", "##", "*", "~", "@", "@th", "#(=", "#(==)"]
    {
        for body in [BODY, "[]", "{}", "[[[]]]", "null", "1", "\"[\"", r#"[{"a":[1]}]"#] {
            if let Ok(condition) = Condition::new(path) {
                let _ = condition.holds(body.as_bytes());
            }
        }
    }
}
