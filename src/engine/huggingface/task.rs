//! What a Hugging Face model is for: `--task`, else the end of its architecture's name, as KServe reads it.

use crate::api::problem::did_you_mean;
use std::fmt;

/// The tasks that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Task {
    /// One vector a text.
    TextEmbedding,
    /// One label a text.
    SequenceClassification,
    /// One label a token.
    TokenClassification,
    /// The words that stand behind `[MASK]`.
    FillMask,
    /// How well a document answers a query. Ours: KServe has it with vLLM only.
    Rerank,
    /// Text that goes on.
    TextGeneration,
    /// Text from text.
    Text2TextGeneration,
}

/// Names as KServe has them, and ours.
const NAMES: [(&str, Task); 7] = [
    ("text_embedding", Task::TextEmbedding),
    ("sequence_classification", Task::SequenceClassification),
    ("token_classification", Task::TokenClassification),
    ("fill_mask", Task::FillMask),
    ("rerank", Task::Rerank),
    ("text_generation", Task::TextGeneration),
    ("text2text_generation", Task::Text2TextGeneration),
];

/// Ends of architecture names. The longer ones come first where one is the end of another.
const ENDS: [(&str, Task); 9] = [
    // It reads pictures too; its text part continues texts.
    ("Gemma3ForConditionalGeneration", Task::TextGeneration),
    ("ForSequenceClassification", Task::SequenceClassification),
    ("ForTokenClassification", Task::TokenClassification),
    ("ForMaskedLM", Task::FillMask),
    ("ForCausalLM", Task::TextGeneration),
    ("LMHeadModel", Task::TextGeneration),
    ("ForConditionalGeneration", Task::Text2TextGeneration),
    ("MTModel", Task::Text2TextGeneration),
    ("EncoderDecoderModel", Task::Text2TextGeneration),
];

/// Tasks that KServe has a name for and serves no more than this process does.
const UNSERVED: [&str; 4] = ["question_answering", "table_question_answering", "multiple_choice", "time_series_forecast"];

impl Task {
    /// Reads a name, in any case.
    ///
    /// # Errors
    /// A sentence with the names there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        let lower = name.to_ascii_lowercase();
        if let Some((_, task)) = NAMES.iter().find(|(known, _)| *known == lower) {
            return Ok(*task);
        }
        let names = NAMES.map(|(name, _)| name);
        let served = names.map(|name| format!("`{name}`")).join(", ");
        if UNSERVED.contains(&lower.as_str()) {
            return Err(format!("task `{lower}` is not served; served are {served}"));
        }
        let meant = did_you_mean(&lower, names).map(|meant| format!("did you mean `{meant}`? ")).unwrap_or_default();
        Err(format!("no such task: `{name}`\n\nhint: {meant}served are {served}"))
    }

    /// What a model of this architecture is for; `labels` is how many its classifier tells apart.
    ///
    /// A classifier with one label scores pairs, so it is for reranking. KServe's server asks for `--task` where the name
    /// has no end that says it, as `BertModel`; here such a model makes embeddings.
    ///
    /// # Errors
    /// A sentence, for a task that is not served.
    pub fn of_architecture(architecture: &str, labels: usize) -> Result<Self, String> {
        let found = ENDS.iter().find(|(end, _)| architecture.ends_with(end)).map(|(_, task)| *task);
        match found {
            Some(Self::SequenceClassification) if labels == 1 => Ok(Self::Rerank),
            Some(task) => Ok(task),
            None if architecture.ends_with("Model") => Ok(Self::TextEmbedding),
            None => Err(format!("the task could not be inferred from architecture `{architecture}`\n\nhint: name it with `--task`")),
        }
    }

    /// Whether it makes text.
    #[must_use]
    pub const fn is_generative(self) -> bool {
        matches!(self, Self::TextGeneration | Self::Text2TextGeneration)
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(_, task)| task == self).map_or("", |(name, _)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_architecture_says_the_task() {
        for (architecture, labels, task) in [
            ("BertForSequenceClassification", 2, Task::SequenceClassification),
            ("XLMRobertaForSequenceClassification", 1, Task::Rerank),
            ("DistilBertForTokenClassification", 9, Task::TokenClassification),
            ("RobertaForMaskedLM", 2, Task::FillMask),
            ("BertModel", 2, Task::TextEmbedding),
            ("LlamaForCausalLM", 2, Task::TextGeneration),
            ("T5ForConditionalGeneration", 2, Task::Text2TextGeneration),
            ("Gemma3ForConditionalGeneration", 2, Task::TextGeneration),
        ] {
            assert_eq!(Task::of_architecture(architecture, labels), Ok(task), "{architecture}");
        }
        assert!(Task::of_architecture("BertForPreTraining", 2).unwrap_err().contains("`--task`"));
    }

    #[test]
    fn a_task_is_named_in_any_case_and_a_misspelled_one_is_recognized() {
        assert_eq!(Task::parse("Text_Embedding"), Ok(Task::TextEmbedding));
        assert!(Task::parse("text_embeding").unwrap_err().contains("did you mean `text_embedding`?"));
        assert!(Task::parse("question_answering").unwrap_err().starts_with("task `question_answering` is not served"));
        for (name, task) in NAMES {
            assert_eq!(task.to_string(), name);
        }
    }
}
