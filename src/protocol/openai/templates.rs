//! Chat templates kept ready: reading one takes longer than running it.

use super::Config;
use super::error::Problem;
use crate::codec::chat::{ChatTemplate, TemplateError};
use crate::engine::generation::GeneratorInfo;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// The name of the template that a model usually speaks by.
const USUAL: &str = "default";
/// The name of the one for tools, where a model has its own.
const FOR_TOOLS: &str = "tool_use";

/// Templates that were used last.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    kept: Mutex<VecDeque<(Arc<str>, Arc<ChatTemplate>)>>,
}

impl Templates {
    /// The template of a model: the named one, else the one for tools where there are any, else the usual one. A text with
    /// braces in place of a name is a template itself.
    ///
    /// # Errors
    /// The model has none, or not that one; it cannot be read.
    pub(super) fn get(&self, info: &GeneratorInfo, name: Option<&str>, tools: bool, config: &Config) -> Result<Arc<ChatTemplate>, Problem> {
        let source = source_of(info, name, tools)?;
        if let Some(template) = self.kept(source) {
            return Ok(template);
        }
        let template = Arc::new(ChatTemplate::new(source, config.template_limits()).map_err(|error| refused(&error))?);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((source.into(), Arc::clone(&template)));
        while kept.len() > config.templates_kept_max {
            kept.pop_front();
        }
        Ok(template)
    }

    fn kept(&self, source: &str) -> Option<Arc<ChatTemplate>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(known, _)| **known == *source)?;
        let found = kept.remove(at)?;
        let template = Arc::clone(&found.1);
        kept.push_back(found);
        Some(template)
    }
}

fn source_of<'a>(info: &'a GeneratorInfo, name: Option<&'a str>, tools: bool) -> Result<&'a str, Problem> {
    let templates = &info.chat_templates;
    let known = || templates.keys().map(String::as_str).collect::<Vec<_>>().join("`, `");
    if let Some(name) = name {
        if name.contains("{%") || name.contains("{{") {
            return Ok(name);
        }
        let found = templates.get(name).map(String::as_str);
        return found
            .ok_or_else(|| Problem::in_field("chat_template", format!("the model has no such template: `{name}`; it has `{}`", known())));
    }
    let for_tools = templates.get(FOR_TOOLS).filter(|_| tools);
    let usual = for_tools.or_else(|| templates.get(USUAL)).or_else(|| templates.values().next().filter(|_| templates.len() == 1));
    match usual {
        Some(source) => Ok(source),
        None if templates.is_empty() => Err(Problem::bad_request(
            "the model has no chat template, so it does not know what a conversation is; \
             hint: call `completions`, or put a `chat_template.jinja` into the model's folder",
        )),
        None => Err(Problem::in_field("chat_template", format!("the model has several templates: name one of `{}`", known()))),
    }
}

/// What a template's failure is to the caller: a message he can mend, or a model that cannot be talked to.
pub(super) fn refused(error: &TemplateError) -> Problem {
    Problem::bad_request(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(templates: &[(&str, &str)]) -> GeneratorInfo {
        let templates = templates.iter().map(|(name, source)| ((*name).to_owned(), (*source).to_owned()));
        GeneratorInfo { chat_templates: templates.collect(), ..GeneratorInfo::default() }
    }

    fn chosen(info: &GeneratorInfo, name: Option<&str>, tools: bool) -> Result<String, String> {
        let template = Templates::default().get(info, name, tools, &Config::default());
        template.map(|template| template.source().to_owned()).map_err(|problem| problem.refusal().message().to_owned())
    }

    #[test]
    fn the_template_is_the_named_one_or_the_one_for_the_purpose() {
        let both = info(&[("default", "d"), ("tool_use", "t")]);
        assert_eq!(chosen(&both, None, false).unwrap(), "d");
        assert_eq!(chosen(&both, None, true).unwrap(), "t");
        assert_eq!(chosen(&both, Some("default"), true).unwrap(), "d");
        assert_eq!(chosen(&both, Some("{{ x }}"), true).unwrap(), "{{ x }}");
        assert_eq!(
            chosen(&both, Some("rag"), true).unwrap_err(),
            "`chat_template`: the model has no such template: `rag`; it has `default`, `tool_use`"
        );
        assert_eq!(chosen(&info(&[("odd", "o")]), None, true).unwrap(), "o");
    }

    #[test]
    fn a_model_without_a_template_or_with_a_broken_one_says_so() {
        assert!(chosen(&info(&[]), None, false).unwrap_err().contains("no chat template"));
        assert!(chosen(&info(&[("a", ""), ("b", "")]), None, false).unwrap_err().contains("name one of `a`, `b`"));
        let broken = chosen(&info(&[("default", "x\n{% if %}")]), None, false).unwrap_err();
        assert!(broken.starts_with("the model's chat template is broken: line 2: "), "{broken}");
    }

    #[test]
    fn templates_are_kept_and_the_oldest_goes_first() {
        let (templates, config) = (Templates::default(), Config { templates_kept_max: 2, ..Config::default() });
        let get = |source: &str| templates.get(&info(&[("default", source)]), None, false, &config).unwrap();
        let (a, _) = (get("a"), get("b"));
        assert!(Arc::ptr_eq(&a, &get("a")));
        get("c");
        assert!(Arc::ptr_eq(&a, &get("a")), "used last but one");
        assert_eq!(templates.kept.lock().unwrap().len(), 2);
    }
}
