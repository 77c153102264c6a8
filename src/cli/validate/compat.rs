//! What becomes of every field of a file on this machine, and how many there are of each kind.

use crate::api::problem::{Problem, Severity};
use crate::manifest::{Field, Treatment, UNKNOWN_FIELD};
use crate::place::Place;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The fields in the order of their files, then how many are treated how.
pub(super) fn write(fields: &[Field], problems: &[Problem], out: &mut impl Write) -> io::Result<()> {
    let mut lines: Vec<(&Place, &str, String)> =
        fields.iter().map(|field| (&field.place, &*field.name, field.treatment.to_string())).collect();
    lines.extend(problems.iter().filter(|problem| is_unknown(problem)).map(unknown));
    lines.sort_by(|one, other| one.0.cmp(other.0));
    for (place, name, treatment) in &lines {
        writeln!(out, "{place}: {name}: {treatment}")?;
    }
    writeln!(out, "{}", summary(fields, lines.len() - fields.len()))
}

/// A field that no version of KServe knows; a cluster drops it without a word.
fn is_unknown(problem: &Problem) -> bool {
    problem.severity == Severity::Warning && problem.message == UNKNOWN_FIELD
}

fn unknown(problem: &Problem) -> (&Place, &str, String) {
    let hint = problem.hint.as_ref().map_or(String::new(), |hint| format!("; {hint}"));
    (&problem.place, &problem.field, format!("unknown: a cluster drops it{hint}"))
}

fn summary(fields: &[Field], unknown: usize) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for field in fields {
        *counts.entry(field.treatment.name()).or_default() += 1;
    }
    let all = [Treatment::Honoured, Treatment::Approximated(""), Treatment::Ignored(""), Treatment::NotYetServed];
    let mut parts: Vec<String> =
        all.iter().map(|treatment| format!("{} {}", counts.get(treatment.name()).unwrap_or(&0), treatment.name())).collect();
    parts.push(format!("{unknown} unknown"));
    format!("fields: {}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Options, parse_with};
    use std::path::Path;

    #[test]
    fn every_field_is_told_with_its_place_and_a_misspelled_one_is_told_to_be_dropped() {
        let text = "apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: iris}
spec:
  predictor:
    minReplica: 1
    batcher: {maxLatency: 5}
    model: {modelFormat: {name: onnx}, storageUri: iris.onnx}
    transformer-like: x
    workerSpec: {}
";
        let parsed = parse_with(text.as_bytes(), Path::new("s.yaml"), &Options { lists_fields: true, ..Options::default() });
        let mut out = Vec::new();
        write(&parsed.fields, &parsed.problems, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().skip(3).collect();
        assert_eq!(
            lines,
            [
                "s.yaml:6:5: spec.predictor.minReplica: unknown: a cluster drops it; did you mean `minReplicas`?",
                "s.yaml:7:15: spec.predictor.batcher.maxLatency: approximated: a batch also closes as soon as a worker is free",
                "s.yaml:8:27: spec.predictor.model.modelFormat.name: honoured",
                "s.yaml:8:40: spec.predictor.model.storageUri: honoured",
                "s.yaml:9:5: spec.predictor.transformer-like: unknown: a cluster drops it",
                "s.yaml:10:5: spec.predictor.workerSpec: not yet served",
                "fields: 5 honoured, 1 approximated, 0 ignored, 1 not yet served, 2 unknown",
            ]
        );
    }
}
