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

/// `tests/fixtures/chat/make_expectations.py` rendered these with Jinja for Python as the `transformers` library sets it up.
#[test]
fn the_templates_of_the_served_families_give_what_transformers_gives() {
    let cases: Vec<Json> = serde_json::from_str(include_str!("../../../../tests/fixtures/chat/expected.json")).unwrap();
    assert!(cases.len() > 40);
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let source = match name {
            "chatml" => include_str!("../../../../tests/fixtures/chat/chatml.jinja"),
            "gemma" => include_str!("../../../../tests/fixtures/chat/gemma.jinja"),
            "llama3" => include_str!("../../../../tests/fixtures/chat/llama3.jinja"),
            "mistral" => include_str!("../../../../tests/fixtures/chat/mistral.jinja"),
            "phi3" => include_str!("../../../../tests/fixtures/chat/phi3.jinja"),
            "qwen" => include_str!("../../../../tests/fixtures/chat/qwen.jinja"),
            other => panic!("no template `{other}`"),
        };
        let template = ChatTemplate::new(source, LIMITS).unwrap();
        let mut more = case["conversation"].as_object().unwrap().clone();
        let mut list = |key: &str| more.shift_remove(key).and_then(|list| list.as_array().cloned()).unwrap_or_default();
        let (messages, tools) = (list("messages"), list("tools"));
        let conversation = Conversation {
            messages: &messages,
            tools: &tools,
            add_generation_prompt: more.shift_remove("add_generation_prompt") == Some(json!(true)),
            bos_token: "<s>",
            eos_token: "</s>",
            more,
            now_unix_s: 1_732_752_245,
        };
        let rendered = match template.render(&conversation) {
            Ok(prompt) => json!({ "prompt": prompt }),
            Err(TemplateError::Refused(sentence)) => json!({ "refused": sentence }),
            Err(error) => panic!("{name}: {error}"),
        };
        let key = if case.get("prompt").is_some() { "prompt" } else { "refused" };
        assert_eq!(rendered[key], case[key], "{name}: {}", case["conversation"]);
    }
}
