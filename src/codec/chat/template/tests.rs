use super::*;
use serde_json::json;

const LIMITS: TemplateLimits = TemplateLimits { instructions_max: 1_000_000, bytes_max: 1 << 20 };

fn render(source: &str, messages: &Json) -> Result<String, TemplateError> {
    let conversation = Conversation {
        messages: messages.as_array().unwrap(),
        add_generation_prompt: true,
        bos_token: "<s>",
        eos_token: "</s>",
        ..Conversation::default()
    };
    ChatTemplate::new(source, LIMITS)?.render(&conversation)
}

#[test]
fn what_transformers_gives_a_template_is_there() {
    let source = "{{ bos_token }}{% for m in messages %}{{ m['role'] | upper }}: {{ m.content.strip() }}{{ eos_token }}\n{% endfor %}\
                  {%- if add_generation_prompt %}AI:{% endif %}{{ strftime_now('%Y') }}{{ tools is none }}{{ missing }}";
    let rendered = render(source, &json!([{"role": "user", "content": " hi "}])).unwrap();
    assert_eq!(rendered, "<s>USER: hi</s>\nAI:1970True");
}

#[test]
fn a_template_may_refuse_messages_in_its_own_words() {
    let source = "{% if messages[0].role != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}ok";
    assert_eq!(render(source, &json!([{"role": "user"}])).unwrap(), "ok");
    assert_eq!(render(source, &json!([{"role": "tool"}])), Err(TemplateError::Refused("roles must alternate".to_owned())));
}

#[test]
fn a_template_that_takes_too_much_is_stopped() {
    let messages = json!([{"role": "user", "content": "x"}]);
    let much = |source: &str| matches!(render(source, &messages), Err(TemplateError::TooMuch(_)));
    assert!(much("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"), "instructions");
    assert!(much("{% for a in range(9999) %}{{ 'x' * 1000 }}{% endfor %}"), "output");
    for broken in [
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ 'x' * 100000000000 }}",
        "{{ messages | tojson(indent=1000000000) }}",
        "{% include 'other' %}",
        "{{ messages.__class__.__mro__ }}{{ messages.foo() }}",
    ] {
        assert!(matches!(render(broken, &messages), Err(TemplateError::Broken(_))), "{broken}");
    }
    assert!(matches!(ChatTemplate::new(&"x".repeat(2 << 20), LIMITS), Err(TemplateError::TooMuch(_))));
}

#[test]
fn a_broken_template_names_its_line() {
    let error = ChatTemplate::new("a\nb\n{% for %}", LIMITS).unwrap_err().to_string();
    assert!(error.starts_with("the model's chat template is broken: line 3: "), "{error}");
}

#[test]
fn tags_that_only_training_looks_at_change_nothing() {
    let source = "{% for m in messages %}\n{%- generation -%} {{ m.content }} {%- endgeneration %}\n{% endfor %}";
    assert_eq!(render(source, &json!([{"content": "a"}, {"content": "b"}])).unwrap(), "ab");
}
