//! Which resources a list is about: `fieldSelector` on name and namespace, `labelSelector` on labels.

use crate::store::Stored;

/// Conditions that all must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector {
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    subject: Subject,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    Name,
    Namespace,
    Label(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Is(String),
    IsNot(String),
    There,
    NotThere,
}

impl Selector {
    /// # Errors
    /// A sentence naming the condition that is not understood.
    pub(super) fn parse(fields: Option<&str>, labels: Option<&str>) -> Result<Self, String> {
        let fields = parts(fields).map(field_condition);
        let labels = parts(labels).map(label_condition);
        Ok(Self { conditions: fields.chain(labels).collect::<Result<_, _>>()? })
    }

    pub(super) fn fits(&self, stored: &Stored) -> bool {
        let metadata = stored.resource.metadata();
        let key = stored.resource.key();
        self.conditions.iter().all(|condition| {
            let value = match &condition.subject {
                Subject::Name => Some(key.name.as_str()),
                Subject::Namespace => Some(key.namespace.as_str()),
                Subject::Label(name) => metadata.labels.get(name).map(String::as_str),
            };
            condition.test.holds(value)
        })
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match self {
            Self::Is(wanted) => value == Some(wanted),
            Self::IsNot(unwanted) => value != Some(unwanted),
            Self::There => value.is_some(),
            Self::NotThere => value.is_none(),
        }
    }
}

fn parts(selector: Option<&str>) -> impl Iterator<Item = &str> {
    selector.unwrap_or_default().split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn field_condition(part: &str) -> Result<Condition, String> {
    let (name, test) = compared(part).ok_or_else(|| format!("fieldSelector: expected `field=value`: `{part}`"))?;
    let subject = match name {
        "metadata.name" => Subject::Name,
        "metadata.namespace" => Subject::Namespace,
        _ => return Err(format!("fieldSelector: expected `metadata.name` or `metadata.namespace`: `{name}`")),
    };
    Ok(Condition { subject, test })
}

fn label_condition(part: &str) -> Result<Condition, String> {
    let (name, test) = match compared(part) {
        Some(compared) => compared,
        None => part.strip_prefix('!').map_or((part, Test::There), |name| (name, Test::NotThere)),
    };
    if name.contains([' ', '(', ')']) {
        return Err(format!("labelSelector: expected `label=value`, `label!=value`, `label` or `!label`: `{part}`"));
    }
    Ok(Condition { subject: Subject::Label(name.to_owned()), test })
}

fn compared(part: &str) -> Option<(&str, Test)> {
    if let Some((name, value)) = part.split_once("!=") {
        return Some((name.trim(), Test::IsNot(value.trim().to_owned())));
    }
    let (name, value) = part.split_once("==").or_else(|| part.split_once('='))?;
    Some((name.trim(), Test::Is(value.trim().to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_as_kubectl_writes_them() {
        let selector = Selector::parse(Some("metadata.name=iris"), Some("a=b, c!=d,e,!f,g==h")).unwrap();
        let tests: Vec<Test> = selector.conditions.into_iter().map(|condition| condition.test).collect();
        let is = |value: &str| Test::Is(value.to_owned());
        assert_eq!(tests, [is("iris"), is("b"), Test::IsNot("d".to_owned()), Test::There, Test::NotThere, is("h")]);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        assert!(Selector::parse(Some("spec.x=1"), None).unwrap_err().contains("`spec.x`"));
        assert!(Selector::parse(None, Some("a in (b c)")).unwrap_err().contains("`a in (b c)`"));
    }
}
