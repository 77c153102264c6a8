//! v1 rows that are objects: the values of each input, stacked row by row.

use super::json::column::{Column, Reading, Room, column};
use super::json::scanner::Scanner;
use super::v1::{fitted, names};
use super::{DecodeError, Limits};
use crate::inference::{ModelMetadata, TensorSpec};
use crate::tensor::Tensor;

/// Reads a list of objects, each with a value for every input, in any order.
pub(super) fn read(scanner: &mut Scanner<'_>, key: &str, model: &ModelMetadata, limits: &Limits) -> Result<Vec<Tensor>, DecodeError> {
    let mut stacks: Vec<Stack<'_>> = model.inputs.iter().map(|spec| Stack::new(spec, limits)).collect();
    let mut rows = 0;
    scanner.items(|scanner, row| {
        rows = row + 1;
        let problem = |problem: String| DecodeError::Member { path: format!("{key}[{row}]"), problem };
        if scanner.peek() != Some(b'{') {
            return Err(problem(format!("expected an object, found {}", scanner.kind())));
        }
        scanner.members(|scanner, name| match stacks.iter_mut().find(|stack| stack.spec.name.as_ref() == name) {
            Some(stack) => stack.push(scanner, row, &problem),
            None => Err(problem(format!("the model has no input `{name}`, its inputs are {}", names(model)))),
        })?;
        let lacking = stacks.iter().find(|stack| stack.rows <= row && !stack.may_be_left_out());
        lacking.map_or(Ok(()), |stack| Err(problem(format!("input `{}` is missing", stack.spec.name))))
    })?;
    let inputs =
        stacks.into_iter().filter(|stack| stack.rows > 0).map(|stack| stack.finish(rows, limits)).collect::<Result<Vec<_>, _>>()?;
    check_total(&inputs, limits)?;
    Ok(inputs)
}

fn check_total(inputs: &[Tensor], limits: &Limits) -> Result<(), DecodeError> {
    if inputs.iter().map(|input| input.data().len()).sum::<usize>() > limits.decoded_bytes_max {
        return Err(DecodeError::TooLarge("the instances take more memory than a request may".to_owned()));
    }
    Ok(())
}

/// The values of one input so far.
struct Stack<'m> {
    spec: &'m TensorSpec,
    values: Box<dyn Column>,
    /// The shape of the first row's value; all others have the same.
    dims: Option<Vec<usize>>,
    rows: usize,
}

impl<'m> Stack<'m> {
    fn new(spec: &'m TensorSpec, limits: &Limits) -> Self {
        let room = Room { elements: 0, bytes_max: limits.decoded_bytes_max };
        Self { spec, values: column(spec.datatype, room), dims: None, rows: 0 }
    }

    /// An optional input is left out of all rows or of none.
    const fn may_be_left_out(&self) -> bool {
        self.spec.optional && self.rows == 0
    }

    fn push(&mut self, scanner: &mut Scanner<'_>, row: usize, problem: &impl Fn(String) -> DecodeError) -> Result<(), DecodeError> {
        let name = &self.spec.name;
        if self.rows > row {
            return Err(problem(format!("input `{name}` is given twice")));
        }
        if self.rows < row {
            return Err(problem(format!("input `{name}` is missing from the rows before")));
        }
        let start = scanner.mark();
        let reading = Reading { tensor: name, datatype: self.spec.datatype, start: &start, row: Some(row) };
        let dims = self.values.read(scanner).map_err(|fault| reading.error(fault))?;
        if *self.dims.get_or_insert_with(|| dims.clone()) != dims {
            return Err(reading.ragged());
        }
        self.rows += 1;
        Ok(())
    }

    fn finish(self, rows: usize, limits: &Limits) -> Result<Tensor, DecodeError> {
        let dims: Vec<usize> = std::iter::once(rows).chain(self.dims.unwrap_or_default()).collect();
        Ok(Tensor::new(self.spec.name.clone(), self.spec.datatype, fitted(&dims, self.spec, limits)?, self.values.finish())?)
    }
}
